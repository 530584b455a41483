/*
 * Rings of the program's own, by way of liburing, each with a thread that waits for it:
 * more of them than carriers, some for as long as the program lives. Others submit, as
 * a database's writers do; the rest of the program goes on meanwhile. A signal ends a
 * wait, a time-out too, and a wait for several completions ends with the last.
 */
#include "prog.h"

#include <liburing.h>
#include <signal.h>
#include <sys/syscall.h>

enum { RINGS = 12, ROUNDS = 200, LENGTH = 10 };

static struct io_uring ring[RINGS];
static int from[RINGS][2];
static pthread_mutex_t submit_lock = PTHREAD_MUTEX_INITIALIZER;
static int finished;

static struct io_uring_cqe *wait_one(struct io_uring *r)
{
	struct io_uring_cqe *cqe = NULL;
	int err;

	do {
		err = io_uring_wait_cqe(r, &cqe);
	} while (err == -EINTR);
	CHECK(err == 0 && cqe);
	return cqe;
}

/* Every byte, then one completion that says that it is over. */
static void *reaps(void *arg)
{
	int k = (int)(intptr_t)arg;
	intptr_t sum = 0;
	uint64_t data;

	do {
		struct io_uring_cqe *cqe = wait_one(&ring[k]);

		data = cqe->user_data;
		CHECK(cqe->res == (data ? LENGTH : 0));
		sum += cqe->res;
		io_uring_cqe_seen(&ring[k], cqe);
		if (sum == ROUNDS * LENGTH && data)
			__atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
	} while (data);
	return (void *)sum;
}

static char sink[RINGS][64];

static void submit_read(int k, uint64_t data)
{
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&submit_lock);
	sqe = io_uring_get_sqe(&ring[k]);
	CHECK(sqe);
	if (data)
		io_uring_prep_read(sqe, from[k][0], sink[k], LENGTH, 0);
	else
		io_uring_prep_nop(sqe);
	sqe->user_data = data;
	CHECK(io_uring_submit(&ring[k]) == 1);
	pthread_mutex_unlock(&submit_lock);
}

static void *writes(void *arg)
{
	int k = (int)(intptr_t)arg;

	for (int i = 1; i <= ROUNDS; i++) {
		submit_read(k, (uint64_t)i);
		CHECK(write(from[k][1], "some bytes", LENGTH) == LENGTH);
		if (i % 16 == 0)
			usleep(500);
	}
	return NULL;
}

/* ---- what ends a wait ------------------------------------------------------ */

static int handled;

static void handler(int sig)
{
	(void)sig;
	__atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

static int interrupted;

static void *is_interrupted(void *arg)
{
	struct io_uring_cqe *cqe = NULL;
	int err = io_uring_wait_cqe(arg, &cqe);

	/* Not printed here, where the next signal may end the printing. */
	__atomic_store_n(&interrupted, 1, __ATOMIC_SEQ_CST);
	return (void *)(intptr_t)err;
}

static void *waits_for_three(void *arg)
{
	struct io_uring *r = arg;
	struct io_uring_cqe *cqe[4];
	int n;

	OK(syscall(
		SYS_io_uring_enter, r->ring_fd, 0, 3, IORING_ENTER_GETEVENTS, NULL, 8));
	n = (int)io_uring_peek_batch_cqe(r, cqe, 4);
	io_uring_cq_advance(r, (unsigned)n);
	say("waited for several: %d", n);
	return NULL;
}

static void ends(void)
{
	struct __kernel_timespec soon = {0, 20 * MS};
	struct sigaction sa = {.sa_handler = handler};
	struct io_uring_cqe *cqe = NULL;
	struct io_uring r;
	pthread_t t;

	OK(sigaction(SIGUSR1, &sa, NULL));
	CHECK(io_uring_queue_init(8, &r, 0) == 0);
	t = start(is_interrupted, &r);
	while (!__atomic_load_n(&interrupted, __ATOMIC_SEQ_CST)) {
		pthread_kill(t, SIGUSR1);
		usleep(2000);
	}
	say("interrupted: %s", strerror(-(int)(intptr_t)finish(t)));
	say("handled: %s", handled ? "yes" : "no");

	uint64_t t0 = now_ns(CLOCK_MONOTONIC);

	say("time-out: %s", strerror(-io_uring_wait_cqe_timeout(&r, &cqe, &soon)));
	say("early: %d", now_ns(CLOCK_MONOTONIC) - t0 < 20 * MS);

	for (int i = 0; i < 2; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r);

		io_uring_prep_nop(sqe);
		sqe->user_data = 1;
	}
	CHECK(io_uring_submit(&r) == 2);
	t = start(waits_for_three, &r);
	usleep(5000);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r);

	io_uring_prep_nop(sqe);
	CHECK(io_uring_submit(&r) == 1);
	finish(t);
	io_uring_queue_exit(&r);
}

/* A ring for one thread, which sleeps and waits between what it submits. */
static void *is_the_only_issuer(void *arg)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
	struct io_uring r;
	intptr_t sum = 0;
	int err = io_uring_queue_init_params(8, &r, &p);

	if (err) { /* before Linux 6.1 */
		CHECK(err == -EINVAL);
		return (void *)(intptr_t)(2 * 20);
	}
	for (int i = 0; i < 20; i++) {
		for (int k = 0; k < 2; k++) {
			io_uring_prep_nop(io_uring_get_sqe(&r));
			CHECK(io_uring_submit(&r) == 1);
			sched_yield();
			io_uring_cqe_seen(&r, wait_one(&r));
			sum++;
		}
		usleep(200);
	}
	CHECK(p.flags & IORING_SETUP_SINGLE_ISSUER);
	io_uring_queue_exit(&r);
	return (char *)sum + (intptr_t)arg;
}

static void only_issuers(void)
{
	pthread_t t[4];
	intptr_t sum = 0;

	for (int i = 0; i < 4; i++)
		t[i] = start(is_the_only_issuer, NULL);
	for (int i = 0; i < 4; i++)
		sum += (intptr_t)finish(t[i]);
	say("by their only issuers: %ld", (long)sum);
}

int main(void)
{
	pthread_t reaper[RINGS], writer[RINGS];
	intptr_t sum = 0;

	for (int k = 0; k < RINGS; k++) {
		CHECK(io_uring_queue_init(512, &ring[k], 0) == 0);
		OK(pipe(from[k]));
		reaper[k] = start(reaps, (void *)(intptr_t)k);
	}
	for (int k = 0; k < RINGS; k++)
		writer[k] = start(writes, (void *)(intptr_t)k);
	for (int k = 0; k < RINGS; k++)
		finish(writer[k]);
	while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < RINGS)
		usleep(1000);
	/* All the reapers wait, for nothing that comes by itself. */
	ends();
	only_issuers();
	for (int k = 0; k < RINGS; k++) {
		submit_read(k, 0);
		sum += (intptr_t)finish(reaper[k]);
		io_uring_queue_exit(&ring[k]);
	}
	say("bytes: %ld", (long)sum);
	return 0;
}
