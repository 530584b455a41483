/*
 * Threads that keep whatever runs them, more than there are CPUs, with a system call
 * instruction of their own ("block"), by computing ("compute"), or by calls of which none
 * waits ("calls"). They do so after many others have begun to wait: for sockets,
 * connections, the time, a condition. All of these must get on, the main thread too; the
 * last of them lets the keepers go. Another process, which nothing keeps, sends what they
 * wait for. Three rounds, so that whoever stood in for the stuck ones is there already.
 */
#include "prog.h"
#include "raw.h"

#define KEEPERS 10
#define WAITERS 60
#define ROUNDS  3

static bool block, calls;
static int nowhere;
static int let_go, kept, waiting, served;
static int gate[2];
static int pairs[WAITERS][2], tell[2], listener;
static struct sockaddr_in address;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void *keeps(void *arg)
{
	char c = 0;

	__atomic_fetch_add(&kept, 1, __ATOMIC_SEQ_CST);
	if (block)
		CHECK(inline_syscall(SYS_read, gate[0], (long)&c, 1) == 1);
	else
		while (!__atomic_load_n(&let_go, __ATOMIC_SEQ_CST))
			if (calls)
				OK(write(nowhere, &c, 1));
			else
				__builtin_ia32_pause();
	return arg;
}

static void release(void)
{
	char c[KEEPERS] = {0};

	if (block)
		OK(write(gate[1], c, KEEPERS));
	else
		__atomic_store_n(&let_go, 1, __ATOMIC_SEQ_CST);
}

/* Waits for its byte in one of five ways, then for the time, then for its turn. */
static void *waits(void *arg)
{
	int i = (int)(intptr_t)arg, fd = pairs[i][0];
	struct pollfd p[2] = {{fd, POLLIN, 0}, {tell[0], POLLERR, 0}};
	char c = 0;

	__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
	switch (i % 5) {
	case 0:
		CHECK(recv(fd, &c, 1, 0) == 1);
		break;
	case 1:
		CHECK(read(fd, &c, 1) == 1);
		break;
	case 2:
		CHECK(poll(p, 1, 60000) == 1);
		CHECK(read(fd, &c, 1) == 1);
		break;
	case 3:
		CHECK(poll(p, 2, -1) >= 1);
		CHECK(read(fd, &c, 1) == 1);
		break;
	case 4: {
		int conn = OK(accept(listener, NULL, NULL));

		CHECK(read(conn, &c, 1) == 1);
		OK(close(conn));
	}
	}
	CHECK(c == 'x');
	usleep(1000);
	ZERO(pthread_mutex_lock(&mutex));
	if (++served == WAITERS)
		ZERO(pthread_cond_broadcast(&cond));
	else
		while (served < WAITERS) {
			struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 5 * MS);
			int err = pthread_cond_timedwait(&cond, &mutex, &at);

			CHECK(err == 0 || err == ETIMEDOUT);
		}
	ZERO(pthread_mutex_unlock(&mutex));
	return arg;
}

/* The other process: a round each time it is told to. */
static void feeds(void)
{
	char c;

	while (read(tell[1], &c, 1) == 1)
		for (int i = 0; i < WAITERS; i++) {
			if (i % 5 == 4) {
				int fd = tcp_connect(&address);

				OK(write(fd, "x", 1));
				OK(close(fd));
			} else {
				OK(write(pairs[i][1], "x", 1));
			}
		}
	_exit(0);
}

static void round_of(int n)
{
	pthread_t waiters[WAITERS], keepers[KEEPERS];

	let_go = kept = waiting = served = 0;
	for (int i = 0; i < WAITERS; i++)
		waiters[i] = start(waits, (void *)(intptr_t)i);
	while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < WAITERS)
		usleep(1000);
	usleep(5000);
	for (int i = 0; i < KEEPERS; i++)
		keepers[i] = start(keeps, NULL);
	while (__atomic_load_n(&kept, __ATOMIC_SEQ_CST) < KEEPERS)
		usleep(1000);
	OK(write(tell[0], "x", 1));
	for (int i = 0; i < WAITERS; i++)
		finish(waiters[i]);
	release();
	for (int i = 0; i < KEEPERS; i++)
		finish(keepers[i]);
	say("round %d: %d served", n, served);
}

int main(int argc, char **argv)
{
	int status;

	block = argc > 1 && strcmp(argv[1], "block") == 0;
	calls = argc > 1 && strcmp(argv[1], "calls") == 0;
	nowhere = OK(open("/dev/null", O_WRONLY));
	OK(pipe(gate));
	unix_pair(tell);
	listener = tcp_listen(WAITERS, &address);
	for (int i = 0; i < WAITERS; i++)
		unix_pair(pairs[i]);
	pid_t pid = OK(fork());

	if (pid == 0) {
		close(tell[0]);
		feeds();
	}
	close(tell[1]);
	for (int n = 0; n < ROUNDS; n++)
		round_of(n);
	close(tell[0]);
	OK(waitpid(pid, &status, 0));
	say("feeder: %s", describe_status(status));
	return 0;
}
