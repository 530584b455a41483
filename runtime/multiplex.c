/*
 * multiplex.c - poll, select and epoll_wait for fibers.
 *
 * What a call looks for is polled for in the ring; the answer is the kernel's own,
 * from the same call with no time to wait, so that it tells all that is ready.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

#include "deadline.h"
#include "io_impl.h"
#include "signals.h"

/*
 * The ring's poll also ends when the peer has shut down its side, asked for or not
 * (POLLRDHUP, io_uring/poll.c): for a poll that looks for something else it would end
 * at once, again and again. After this many completions that came to nothing a
 * helper thread waits.
 */
enum { EMPTY_PROMISES = 8 };

struct poll_call {
	const int *attention;
	struct pollfd *fds;
	unsigned n;
	uint64_t deadline;
};

static void time_left(uint64_t deadline, struct timespec *ret)
{
	uint64_t left = weft_deadline_left(deadline);

	ret->tv_sec = (time_t)(left / 1000000000u);
	ret->tv_nsec = (long)(left % 1000000000u);
}

enum { FEW = 64 }; /* descriptors that fit on any stack */

static long poll_plain(void *arg)
{
	struct poll_call *p = arg;
	struct timespec ts, *tp = NULL;

	if (p->deadline != WEFT_NO_DEADLINE) {
		time_left(p->deadline, &ts);
		tp = &ts;
	}
	const long args[6] = {(long)p->fds, p->n, (long)tp, 0, 8, 0};

	return weft_sys_interruptible(p->attention, SYS_ppoll, args);
}

static long poll_offloaded(struct pollfd *fds, unsigned n, uint64_t deadline)
{
	struct poll_call p = {&weft_fiber_self()->attention, fds, n, deadline};

	return weft_offload(poll_plain, &p);
}

/*
 * The kernel completes a poll request with the mask of the wake-up, not of the
 * file: data on a socket comes as IN|PRI|RDBAND, the end of a pipe as everything
 * at once (io_uring/poll.c). Plain readiness can be believed, the rest is asked.
 */
static bool believable(long mask)
{
	return mask == POLLIN || mask == POLLOUT;
}

/*
 * A signal ends a wait only where nothing is ready (fs/select.c, do_poll): what has been
 * closed meanwhile is, and what became ready just then.
 */
static long last_look(struct pollfd *fds, unsigned n)
{
	long r = n ? weft_sys3(SYS_poll, (long)fds, n, 0) : 0;

	return r ? r : -EINTR;
}

/* One descriptor: the completion is poll's answer, with no call before or after. */
static long poll_one(struct pollfd *p, uint64_t deadline)
{
	struct pollfd own;

	/* The program's memory may go away while the fiber waits. */
	if (weft_copy_user(&own, p, sizeof own))
		return -EFAULT;
	for (int empty = 0; empty < EMPTY_PROMISES; empty++) {
		struct weft_held file = {own.fd, false};
		long r = weft_io_wait_ready(
			&file, (unsigned short)own.events, deadline, WEFT_REASON_POLL);

		/* poll looks at the number again each time: a closed one is POLLNVAL. */
		weft_held_release(&file);
		own.revents = believable(r) ? (short)r : 0;
		if (weft_copy_user(&p->revents, &own.revents, sizeof own.revents))
			return r == -EINTR ? r : -EFAULT;
		if (r == -EINTR)
			return last_look(p, 1);
		if (own.revents)
			return 1;
		/* Also the last look after a time-out, and what went wrong. */
		if (r == -ETIMEDOUT)
			deadline = 0;
		r = weft_sys3(SYS_poll, (long)p, 1, 0);
		if (r || !deadline)
			return r;
	}
	return poll_offloaded(p, 1, deadline);
}

/*
 * The program saw EAGAIN on this very descriptor a moment ago: polling it will
 * block, so the look that costs a system call is saved.
 */
static bool expected_to_block(const struct pollfd *fds, unsigned n)
{
	struct fiber *f = weft_fiber_self();
	int fd = f->again_fd;
	uint32_t readable;

	f->again_fd = -1;
	return n == 1 && fd >= 0 && !weft_load_user((const uint32_t *)fds, &readable) &&
	       fds->fd == fd && !(fds->events & ~(int)f->again_events);
}

long weft_io_try_poll(struct pollfd *fds, unsigned n, int timeout_ms)
{
	long r;

	if (timeout_ms && (weft_io_forced_to_fail() || expected_to_block(fds, n)))
		return WEFT_WOULD_BLOCK;
	r = n || !timeout_ms ? weft_sys3(SYS_poll, (long)fds, n, 0) : 0;
	/* Also without waiting: whether the signal was the program's is found out there.
	 */
	if (unlikely(r == -EINTR))
		return WEFT_FULL_PATH;
	if (!r && !timeout_ms)
		weft_looked_in_vain();
	return r || !timeout_ms ? r : WEFT_WOULD_BLOCK;
}

/*
 * Until one of several is ready. They are looked at again when the wait ends or is
 * begun anew, so they are kept: the program's own may have changed, or be gone.
 */
static long wait_for_any(const struct pollfd *theirs, unsigned n, uint64_t deadline)
{
	struct pollfd few[FEW], *fds = few;
	const size_t bytes = n * sizeof *fds;
	bool any = false;
	long r;

	if (n > FEW) {
		r = weft_sys_map(bytes, PROT_READ | PROT_WRITE, 0);
		if (weft_sys_failed(r))
			return -ENOMEM;
		fds = (struct pollfd *)r;
	}
	r = weft_copy_user(fds, theirs, bytes) ? -EFAULT : 0;
	for (unsigned i = 0; !r && i < n; i++)
		any |= fds[i].fd >= 0;
	if (any)
		r = weft_io_wait_many(fds, n, deadline, WEFT_REASON_POLL);
	else if (!r)
		r = weft_sleep_until(deadline) == WEFT_WAKE_TIMEOUT ? -ETIMEDOUT : -EINTR;
	if (fds != few)
		weft_sys_unmap(fds, bytes);
	return r;
}

long weft_io_poll(struct pollfd *fds, unsigned n, uint64_t deadline, enum weft_tried how)
{
	bool tried = how == WEFT_TRIED_BLOCKS;
	int empty = 0;

	if (deadline && (weft_io_forced_to_fail() || expected_to_block(fds, n)))
		tried = true;
	for (;;) {
		long r = 0;

		if (tried) {
			tried = false;
		} else if (n) {
			r = weft_sys3(SYS_poll, (long)fds, n, 0);
			if (r || deadline == 0)
				return r;
		}
		if (n == 1 && fds->fd >= 0)
			return poll_one(fds, deadline);
		if (n > WEFT_POLL_MANY || empty++ == EMPTY_PROMISES)
			return poll_offloaded(fds, n, deadline);
		r = wait_for_any(fds, n, deadline);
		if (r == -EINTR)
			return last_look(fds, n);
		if (r == -EFAULT || r == -ENOMEM)
			return r;
		if (r == -ETIMEDOUT)
			deadline = 0; /* one last look, or plain 0 */
		if (r == -ETIMEDOUT && !n)
			return 0;
	}
}

struct select_call {
	const int *attention; /* NULL: it does not wait */
	int n;
	void *set[3];
	uint64_t deadline;
};

static long select_plain(void *arg)
{
	struct select_call *s = arg;
	struct timespec ts, *tp = NULL;

	if (s->deadline != WEFT_NO_DEADLINE) {
		time_left(s->deadline, &ts);
		tp = &ts;
	}
	const long args[6] = {
		s->n, (long)s->set[0], (long)s->set[1], (long)s->set[2], (long)tp, 0};

	if (s->attention)
		return weft_sys_interruptible(s->attention, SYS_pselect6, args);
	return weft_sys6(
		SYS_pselect6, args[0], args[1], args[2], args[3], args[4], args[5]);
}

static bool in_set(const void *set, int fd)
{
	return set && ((const unsigned long *)set)[fd / 64] >> (fd % 64) & 1;
}

enum { SELECT_WORDS = 16 }; /* FD_SETSIZE */

/* What a select keeps of its question, and as poll asks it. */
struct question {
	unsigned long *ask[3]; /* copies of the sets */
	struct pollfd *fds;
	unsigned count;
	void *mapping;
	size_t mapped;
	unsigned long few_ask[3][SELECT_WORDS];
	struct pollfd few_fds[FEW];
};

static short events_of(const struct select_call *s, int fd)
{
	return (short)((in_set(s->set[0], fd) ? POLLIN : 0) |
		       (in_set(s->set[1], fd) ? POLLOUT : 0) |
		       (in_set(s->set[2], fd) ? POLLPRI : 0));
}

/* False: too much, or no memory for it. */
static bool note_question(const struct select_call *s, struct question *q)
{
	size_t words = ((size_t)s->n + 63) / 64;
	unsigned count = 0;
	long p;

	for (int fd = 0; fd < s->n; fd++)
		count += events_of(s, fd) != 0;
	if (count > WEFT_POLL_MANY)
		return false;
	q->mapping = NULL;
	q->fds = q->few_fds;
	for (int k = 0; k < 3; k++)
		q->ask[k] = q->few_ask[k];
	if (words > SELECT_WORDS || count > FEW) {
		q->mapped = 3 * words * sizeof **q->ask + count * sizeof *q->fds;
		p = weft_sys_map(q->mapped, PROT_READ | PROT_WRITE, 0);
		if (weft_sys_failed(p))
			return false;
		q->mapping = (void *)p;
		for (size_t k = 0; k < 3; k++)
			q->ask[k] = (unsigned long *)p + k * words;
		q->fds = (struct pollfd *)(q->ask[2] + words);
	}
	for (int k = 0; k < 3; k++)
		if (s->set[k])
			weft_memcpy(q->ask[k], s->set[k], words * sizeof **q->ask);
	q->count = 0;
	for (int fd = 0; fd < s->n; fd++) {
		short events = events_of(s, fd);

		if (events)
			q->fds[q->count++] = (struct pollfd){fd, events, 0};
	}
	return true;
}

static long ask_again(const struct select_call *call, const struct question *q)
{
	const size_t bytes = ((size_t)call->n + 63) / 64 * sizeof **q->ask;

	for (int k = 0; k < 3; k++)
		if (call->set[k] && weft_copy_user(call->set[k], q->ask[k], bytes))
			return -EFAULT;
	return 0;
}

/*
 * The kernel looks at the numbers when select begins; one that is closed while it waits
 * is ready for everything from then on (fs/select.c, do_select).
 */
static long answer_of_poll(const struct select_call *call, const struct question *q)
{
	static const short ready[3] = {POLLIN | POLLHUP | POLLERR | POLLNVAL,
		POLLOUT | POLLERR | POLLNVAL, POLLPRI | POLLNVAL};
	long bits = 0;

	if (weft_sys3(SYS_poll, (long)q->fds, q->count, 0) <= 0)
		return 0;
	for (unsigned i = 0; i < q->count; i++)
		for (int k = 0; k < 3; k++)
			bits += call->set[k] && in_set(q->ask[k], q->fds[i].fd) &&
				q->fds[i].revents & ready[k];
	for (unsigned i = 0; bits && i < q->count; i++)
		for (int k = 0; k < 3; k++)
			if (call->set[k] && !(q->fds[i].revents & ready[k]))
				q->ask[k][q->fds[i].fd / 64] &=
					~(1ul << (q->fds[i].fd % 64));
	return bits && ask_again(call, q) ? -EFAULT : bits;
}

/*
 * select's sets are both question and answer, so the question is kept. What it
 * looks for is polled for in the ring; the answer is the kernel's own, from a
 * select that does not wait.
 */
static long select_waits(
	struct select_call *call, const struct question *q, uint64_t deadline)
{
	struct select_call now = {
		NULL, call->n, {call->set[0], call->set[1], call->set[2]}, 0};
	bool waited = false;
	long r = 0;

	for (int empty = 0; empty <= EMPTY_PROMISES; empty++) {
		bool interrupted = r == -EINTR;

		r = select_plain(&now);
		if (r == -EBADF && waited)
			r = answer_of_poll(call, q);
		if (!r && interrupted)
			return ask_again(call, q) ? -EFAULT : -EINTR;
		if (r || deadline == 0)
			return r;
		waited = true;
		if (q->count)
			r = weft_io_wait_many(
				q->fds, q->count, deadline, WEFT_REASON_SELECT);
		else
			r = weft_sleep_until(deadline) == WEFT_WAKE_TIMEOUT ? -ETIMEDOUT
									    : -EINTR;
		if (ask_again(call, q))
			return r == -EINTR ? r : -EFAULT;
		if (r == -ETIMEDOUT)
			deadline = 0;
	}
	return weft_offload(select_plain, call);
}

long weft_io_select(int n, void *in, void *out, void *ex, uint64_t deadline)
{
	struct select_call call = {NULL, n, {in, out, ex}, deadline};
	struct question q;
	long r;

	if (n < 0 || deadline == 0)
		return select_plain(&call);
	call.attention = &weft_fiber_self()->attention;
	if (!note_question(&call, &q))
		return weft_offload(select_plain, &call);
	r = select_waits(&call, &q, deadline);
	if (q.mapping)
		weft_sys_unmap(q.mapping, q.mapped);
	return r;
}

long weft_io_epoll_wait(int epfd, void *events, int max, uint64_t deadline)
{
	struct weft_held set = {epfd, false};
	const uint64_t how_long = deadline;
	long r;

	for (;;) {
		r = weft_sys4(SYS_epoll_wait, set.fd, (long)events, max, 0);
		if (!r && how_long == 0)
			weft_looked_in_vain();
		if (r || deadline == 0)
			break;
		r = weft_io_wait_ready(&set, POLLIN, deadline, WEFT_REASON_EPOLL);
		if (r == -EINTR)
			break;
		if (r == -ETIMEDOUT)
			deadline = 0;
		else if (r < 0)
			break;
	}
	weft_held_release(&set);
	return r;
}
