/* sys_io.c - handlers for transfers, connections and multiplexing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/vt.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#include "../runtime/atomic.h"
#include "../runtime/deadline.h"
#include "../runtime/io.h"
#include "../runtime/making.h"
#include "../runtime/signals.h"
#include "../runtime/sys.h"
#include "dispatch.h"

/* ---- transfers ------------------------------------------------------------ */

long sys_read(struct weft_call *c)
{
	struct iovec v = {(void *)ARG2(c), ARG3(c)};

	return weft_io_read((int)ARG1(c), &v, 1, c->tried);
}

long sys_write(struct weft_call *c)
{
	struct iovec v = {(void *)ARG2(c), ARG3(c)};

	return weft_io_write((int)ARG1(c), &v, 1, c->tried);
}

/* A vector the kernel would refuse is refused by the kernel. */
static bool bad_vector(uintptr_t iov, uint64_t n)
{
	uint32_t probe;

	return n == 0 || n > 1024 || weft_load_user((const uint32_t *)iov, &probe) ||
	       weft_load_user(
		       (const uint32_t *)(iov + n * sizeof(struct iovec) - 4), &probe);
}

long sys_readv(struct weft_call *c)
{
	if (bad_vector(ARG2(c), ARG3(c)))
		return weft_call_plain(c);
	return weft_io_read((int)ARG1(c), (void *)ARG2(c), (int)ARG3(c), c->tried);
}

long sys_writev(struct weft_call *c)
{
	if (bad_vector(ARG2(c), ARG3(c)))
		return weft_call_plain(c);
	return weft_io_write((int)ARG1(c), (void *)ARG2(c), (int)ARG3(c), c->tried);
}

long sys_recvfrom(struct weft_call *c)
{
	return weft_io_recv((int)ARG1(c), (void *)ARG2(c), ARG3(c), (int)ARG4(c),
		(void *)ARG5(c), (void *)ARG6(c), c->tried);
}

long sys_sendto(struct weft_call *c)
{
	return weft_io_send((int)ARG1(c), (void *)ARG2(c), ARG3(c), (int)ARG4(c),
		(void *)ARG5(c), (unsigned)ARG6(c), c->tried);
}

static bool bad_msghdr(uintptr_t msg)
{
	const struct msghdr *m = (const struct msghdr *)msg;
	uint32_t probe;

	if (weft_load_user((const uint32_t *)msg, &probe) ||
		weft_load_user((const uint32_t *)(msg + sizeof *m - 4), &probe))
		return true;
	return m->msg_iovlen && bad_vector((uintptr_t)m->msg_iov, m->msg_iovlen);
}

long sys_recvmsg(struct weft_call *c)
{
	if (bad_msghdr(ARG2(c)))
		return weft_call_plain(c);
	return weft_io_recvmsg((int)ARG1(c), (void *)ARG2(c), (int)ARG3(c));
}

long sys_sendmsg(struct weft_call *c)
{
	if (bad_msghdr(ARG2(c)))
		return weft_call_plain(c);
	return weft_io_sendmsg((int)ARG1(c), (void *)ARG2(c), (int)ARG3(c));
}

static bool bad_mmsghdr(uintptr_t vec, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (bad_msghdr(vec + i * sizeof(struct mmsghdr)))
			return true;
	return n == 0;
}

long sys_recvmmsg(struct weft_call *c)
{
	if (bad_mmsghdr(ARG2(c), (unsigned)ARG3(c)))
		return weft_call_plain(c);
	return weft_io_recvmmsg((int)ARG1(c), (void *)ARG2(c), (unsigned)ARG3(c),
		(unsigned)ARG4(c), (void *)ARG5(c));
}

long sys_sendmmsg(struct weft_call *c)
{
	if (ARG3(c) > 1024 || bad_mmsghdr(ARG2(c), (unsigned)ARG3(c)))
		return weft_call_plain(c);
	return weft_io_sendmmsg(
		(int)ARG1(c), (void *)ARG2(c), (unsigned)ARG3(c), (unsigned)ARG4(c));
}

long sys_accept(struct weft_call *c)
{
	return weft_io_accept((int)ARG1(c), (void *)ARG2(c), (void *)ARG3(c), 0);
}

long sys_accept4(struct weft_call *c)
{
	return weft_io_accept(
		(int)ARG1(c), (void *)ARG2(c), (void *)ARG3(c), (int)ARG4(c));
}

long sys_connect(struct weft_call *c)
{
	return weft_io_connect((int)ARG1(c), (void *)ARG2(c), (unsigned)ARG3(c));
}

long sys_setsockopt(struct weft_call *c)
{
	if (ARG2(c) == SOL_SOCKET)
		switch (ARG3(c)) {
		case SO_RCVTIMEO_OLD:
		case SO_SNDTIMEO_OLD:
		case SO_RCVTIMEO_NEW:
		case SO_SNDTIMEO_NEW:
		case SO_RCVLOWAT:
			weft_io_expect_timeouts();
		}
	return WEFT_RAW;
}

/* ---- files, at a place ---------------------------------------------------- */

/* -1 says the current position to preadv2 and its kin; for pread it is an error. */
static long pread_on(struct weft_call *c, const struct iovec *iov, uint64_t n, int flags)
{
	int64_t at = (int64_t)ARG4(c);
	bool current = at == -1 && c->regs->rax == SYS_preadv2;

	if (current && !flags)
		return weft_io_read((int)ARG1(c), iov, (int)n, WEFT_TRIED_NOT);
	if (current || at < 0 || flags & RWF_NOWAIT)
		return current && !(flags & RWF_NOWAIT) ? weft_call_on_disk(c)
							: weft_call_plain(c);
	return weft_io_pread((int)ARG1(c), iov, (int)n, at, flags);
}

static long pwrite_on(struct weft_call *c, const struct iovec *iov, uint64_t n, int flags)
{
	int64_t at = (int64_t)ARG4(c);
	bool current = at == -1 && c->regs->rax == SYS_pwritev2;

	if (current && !flags)
		return weft_io_write((int)ARG1(c), iov, (int)n, WEFT_TRIED_NOT);
	if (current && !(flags & RWF_NOWAIT))
		return weft_call_on_disk(c);
	if (at < 0 || flags & RWF_NOWAIT)
		return weft_signals_after_write(weft_call_plain(c));
	return weft_io_pwrite((int)ARG1(c), iov, (int)n, at, flags);
}

long sys_pread64(struct weft_call *c)
{
	struct iovec v = {(void *)ARG2(c), ARG3(c)};

	return ARG3(c) ? pread_on(c, &v, 1, 0) : WEFT_RAW;
}

long sys_pwrite64(struct weft_call *c)
{
	struct iovec v = {(void *)ARG2(c), ARG3(c)};

	return ARG3(c) ? pwrite_on(c, &v, 1, 0) : WEFT_RAW;
}

long sys_preadv(struct weft_call *c)
{
	if (bad_vector(ARG2(c), ARG3(c)))
		return weft_call_plain(c);
	return pread_on(c, (void *)ARG2(c), ARG3(c),
		c->regs->rax == SYS_preadv2 ? (int)ARG6(c) : 0);
}

long sys_pwritev(struct weft_call *c)
{
	if (bad_vector(ARG2(c), ARG3(c)))
		return weft_call_plain(c);
	return pwrite_on(c, (void *)ARG2(c), ARG3(c),
		c->regs->rax == SYS_pwritev2 ? (int)ARG6(c) : 0);
}

long sys_sendfile(struct weft_call *c)
{
	return weft_io_sendfile((int)ARG1(c), (int)ARG2(c), (void *)ARG3(c), ARG4(c));
}

long sys_splice(struct weft_call *c)
{
	return weft_io_splice((int)ARG1(c), (void *)ARG2(c), (int)ARG3(c),
		(void *)ARG4(c), ARG5(c), (unsigned)ARG6(c));
}

long sys_tee(struct weft_call *c)
{
	return weft_io_tee((int)ARG1(c), (int)ARG2(c), ARG3(c), (unsigned)ARG4(c));
}

long sys_vmsplice(struct weft_call *c)
{
	return weft_io_vmsplice(
		(int)ARG1(c), (void *)ARG2(c), ARG3(c), (unsigned)ARG4(c));
}

/* ---- time ----------------------------------------------------------------- */

static bool bad_timespec(const struct timespec *t)
{
	return t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u;
}

/* The deadline of a relative time-out, fixed at the first time round. */
static uint64_t relative(struct weft_call *c, uint64_t sec, uint64_t ns)
{
	if (!c->again)
		c->deadline = sec || ns ? weft_deadline_in(sec, ns) : 0;
	return c->deadline;
}

/* What is left, told where the program wants it; -EFAULT when it cannot be written. */
static int left_until(uint64_t deadline, struct timespec *ret)
{
	uint64_t now = weft_now_ns(), left = deadline > now ? deadline - now : 0;
	struct timespec ts = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};

	return weft_copy_user(ret, &ts, sizeof ts);
}

static long sleep_until(uint64_t deadline)
{
	return weft_sleep_until(deadline) == WEFT_WAKE_INTERRUPT ? -EINTR : 0;
}

static long sleep_relative(struct weft_call *c, const struct timespec *t, void *rem)
{
	uint64_t deadline;
	long r;

	if (bad_timespec(t))
		return -EINVAL;
	deadline = relative(c, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
	if (!deadline) {
		weft_yield(); /* a zero sleep lets others run */
		return 0;
	}
	r = sleep_until(deadline);
	if (r == -EINTR && rem && left_until(deadline, rem))
		return -EFAULT;
	return r;
}

long sys_nanosleep(struct weft_call *c)
{
	uint32_t probe;

	if (weft_load_user((const uint32_t *)ARG1(c), &probe))
		return -EFAULT;
	return sleep_relative(c, (void *)ARG1(c), (void *)ARG2(c));
}

long sys_clock_nanosleep(struct weft_call *c)
{
	int clock = (int)ARG1(c);
	const struct timespec *t = (const void *)ARG3(c);
	uint32_t probe;

	if (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME &&
		clock != CLOCK_BOOTTIME && clock != CLOCK_TAI)
		return weft_sleep_by_cpu(c); /* or alarms, errors */
	if (weft_load_user((const uint32_t *)t, &probe))
		return -EFAULT;
	if (!(ARG2(c) & TIMER_ABSTIME))
		return sleep_relative(c, t, (void *)ARG4(c));
	if (bad_timespec(t))
		return -EINVAL;
	return sleep_until(
		weft_deadline_at(clock, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec));
}

/* ---- multiplexing --------------------------------------------------------- */

static bool bad_range(uintptr_t p, size_t bytes)
{
	uint32_t probe;

	return bytes &&
	       (weft_load_user((const uint32_t *)p, &probe) ||
		       weft_load_user((const uint32_t *)(p + bytes - 4), &probe));
}

long sys_poll(struct weft_call *c)
{
	int ms = (int)ARG3(c);
	uint64_t deadline = WEFT_NO_DEADLINE;

	if (!ms) {
		long r = weft_call_plain(c);

		if (!r)
			weft_looked_in_vain();
		return r;
	}
	/* What the kernel refuses, it answers itself. */
	if (ARG2(c) > 1u << 20 || bad_range(ARG1(c), ARG2(c) * sizeof(struct pollfd)))
		return weft_call_plain(c);
	if (ms > 0)
		deadline =
			relative(c, (uint64_t)ms / 1000, (uint64_t)ms % 1000 * 1000000);
	return weft_io_poll((void *)ARG1(c), (unsigned)ARG2(c), deadline, c->tried);
}

/*
 * The temporary mask of ppoll, pselect6 and epoll_pwait. It ends when a handler
 * ran under it (the handler's return restores the old one) or with the call.
 */
static bool begin_mask(struct weft_call *c, const uint64_t *mask)
{
	if (mask && !c->again)
		weft_sig_mask_begin(*mask);
	return mask != NULL;
}

static long end_mask(bool begun, long r)
{
	/* Nothing was ready, and a signal that only now gets in: EINTR (fs/select.c). */
	if (begun && !r && weft_signals_attention(weft_fiber_self()))
		return -EINTR;
	if (begun && r != -EINTR)
		weft_sig_mask_end();
	return r;
}

long sys_ppoll(struct weft_call *c)
{
	struct timespec *t = (void *)ARG3(c);
	uint64_t deadline = WEFT_NO_DEADLINE;
	bool masked;
	long r;

	if (ARG2(c) > 1u << 20 || bad_range(ARG1(c), ARG2(c) * sizeof(struct pollfd)) ||
		(t && (bad_range((uintptr_t)t, sizeof *t) || bad_timespec(t))) ||
		(ARG4(c) && (ARG5(c) != 8 || bad_range(ARG4(c), 8))))
		return weft_call_plain(c);
	if (t)
		deadline = relative(c, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
	masked = begin_mask(c, (const uint64_t *)ARG4(c));
	r = weft_io_poll((void *)ARG1(c), (unsigned)ARG2(c), deadline, c->tried);
	if (t && deadline)
		left_until(deadline, t);
	return end_mask(masked, r);
}

long sys_select(struct weft_call *c)
{
	struct timeval *tv = (void *)ARG5(c);
	uint64_t deadline = WEFT_NO_DEADLINE;
	size_t bytes = ((size_t)((int)ARG1(c) > 0 ? (int)ARG1(c) : 0) + 63) / 64 * 8;
	struct timespec left;
	long r;

	if ((int)ARG1(c) < 0 || (ARG2(c) && bad_range(ARG2(c), bytes)) ||
		(ARG3(c) && bad_range(ARG3(c), bytes)) ||
		(ARG4(c) && bad_range(ARG4(c), bytes)) ||
		(tv && (bad_range((uintptr_t)tv, sizeof *tv) || tv->tv_sec < 0 ||
			       tv->tv_usec < 0)))
		return weft_call_plain(c);
	if (tv)
		deadline =
			relative(c, (uint64_t)tv->tv_sec, (uint64_t)tv->tv_usec * 1000);
	if (tv && !deadline)
		weft_yield(); /* a loop over a zero time-out waits for somebody */
	r = weft_io_select((int)ARG1(c), (void *)ARG2(c), (void *)ARG3(c),
		(void *)ARG4(c), deadline);
	if (tv && deadline) {
		left_until(deadline, &left);
		/* In memory that cannot be written it stays (fs/select.c). */
		left.tv_nsec /= 1000;
		weft_copy_user(tv, &left, sizeof left);
	}
	return r;
}

long sys_pselect6(struct weft_call *c)
{
	struct timespec *t = (void *)ARG5(c);
	struct {
		const uint64_t *mask;
		size_t size;
	} *sig = (void *)ARG6(c);
	uint64_t deadline = WEFT_NO_DEADLINE;
	size_t bytes = ((size_t)((int)ARG1(c) > 0 ? (int)ARG1(c) : 0) + 63) / 64 * 8;
	bool masked;
	long r;

	if ((int)ARG1(c) < 0 || (ARG2(c) && bad_range(ARG2(c), bytes)) ||
		(ARG3(c) && bad_range(ARG3(c), bytes)) ||
		(ARG4(c) && bad_range(ARG4(c), bytes)) ||
		(t && (bad_range((uintptr_t)t, sizeof *t) || bad_timespec(t))) ||
		(sig && (bad_range((uintptr_t)sig, 16) ||
				(sig->mask &&
					(sig->size != 8 ||
						bad_range((uintptr_t)sig->mask, 8))))))
		return weft_call_plain(c);
	if (t)
		deadline = relative(c, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
	if (t && !deadline)
		weft_yield();
	masked = begin_mask(c, sig ? sig->mask : NULL);
	r = weft_io_select((int)ARG1(c), (void *)ARG2(c), (void *)ARG3(c),
		(void *)ARG4(c), deadline);
	if (t && deadline)
		left_until(deadline, t);
	return end_mask(masked, r);
}

static long epoll(struct weft_call *c, uint64_t deadline, const uint64_t *mask)
{
	bool masked = begin_mask(c, mask);

	return end_mask(masked, weft_io_epoll_wait((int)ARG1(c), (void *)ARG2(c),
					(int)ARG3(c), deadline));
}

static uint64_t epoll_deadline(struct weft_call *c)
{
	int ms = (int)ARG4(c);

	if (ms < 0)
		return WEFT_NO_DEADLINE;
	return relative(c, (uint64_t)ms / 1000, (uint64_t)ms % 1000 * 1000000);
}

long sys_epoll_wait(struct weft_call *c)
{
	return epoll(c, epoll_deadline(c), NULL);
}

long sys_epoll_pwait(struct weft_call *c)
{
	if (ARG5(c) && (ARG6(c) != 8 || bad_range(ARG5(c), 8)))
		return weft_call_plain(c);
	return epoll(c, epoll_deadline(c), (const uint64_t *)ARG5(c));
}

long sys_epoll_pwait2(struct weft_call *c)
{
	const struct timespec *t = (const void *)ARG4(c);
	uint64_t deadline = WEFT_NO_DEADLINE;

	if ((t && (bad_range((uintptr_t)t, sizeof *t) || bad_timespec(t))) ||
		(ARG5(c) && (ARG6(c) != 8 || bad_range(ARG5(c), 8))))
		return weft_call_plain(c);
	if (t)
		deadline = relative(c, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
	return epoll(c, deadline, (const uint64_t *)ARG5(c));
}

/* ---- descriptors ---------------------------------------------------------- */

/* Instead of the call, or after it was made here. */
static long end_closing(struct weft_call *c, bool begun, long r)
{
	if (!begun)
		return r;
	weft_closing_end();
	c->once = true;
	return r;
}

/*
 * The numbers first..last are closed, or get other files, while weft makes no
 * descriptors. (A native thread's call is made by the thunk: it may be cancelled there.)
 * An interrupted close has closed.
 */
static long close_them(struct weft_call *c, bool begun, unsigned first, unsigned last)
{
	long r;

	if (!begun)
		return WEFT_RAW;
	r = weft_closing_call(
		(long)c->regs->rax, (long)ARG1(c), (long)ARG2(c), (long)ARG3(c));
	weft_io_closed(first, last);
	return end_closing(c, begun, r);
}

/* weft's own descriptors do not exist for the program, also when it closes every number.
 */
long sys_close(struct weft_call *c)
{
	bool begun = weft_closing_begin();

	if (weft_runtime_owns_fd((int)ARG1(c)))
		return end_closing(c, begun, -EBADF);
	weft_io_closing((unsigned)ARG1(c), (unsigned)ARG1(c));
	return close_them(c, begun, (unsigned)ARG1(c), (unsigned)ARG1(c));
}

long sys_dup2(struct weft_call *c)
{
	bool begun = weft_closing_begin();

	if (weft_runtime_owns_fd((int)ARG1(c)))
		return end_closing(c, begun, -EBADF);
	/* Natively that number is free: weft moves out of the way. */
	if (weft_runtime_owns_fd((int)ARG2(c)) && weft_runtime_move_fd((int)ARG2(c)))
		return end_closing(c, begun, -EMFILE);
	if (ARG1(c) != ARG2(c))
		weft_io_closing((unsigned)ARG2(c), (unsigned)ARG2(c));
	return close_them(c, begun, (unsigned)ARG2(c), (unsigned)ARG2(c));
}

/* The range without weft's own descriptors, piece by piece. */
static long close_range_but(struct weft_call *c)
{
	uint64_t first = (unsigned)ARG1(c), last = (unsigned)ARG2(c);
	int low, high;
	long r = 0;

	if (first <= last && !(ARG3(c) & 4 /* CLOSE_RANGE_CLOEXEC */))
		weft_io_closing((unsigned)first, (unsigned)last);
	if (first > last || !weft_runtime_fd_range(&low, &high) ||
		first > (uint64_t)high || last < (uint64_t)low)
		return WEFT_RAW;
	for (uint64_t at = first; at <= last && !r;) {
		uint64_t end = at;

		if (at <= (uint64_t)high && weft_runtime_owns_fd((int)at)) {
			at++;
			continue;
		}
		if (at < (uint64_t)low)
			end = last < (uint64_t)low - 1 ? last : (uint64_t)low - 1;
		else if (at > (uint64_t)high)
			end = last;
		else
			while (end < last && end < (uint64_t)high &&
				!weft_runtime_owns_fd((int)end + 1))
				end++;
		r = weft_closing_call(
			SYS_close_range, (long)at, (long)end, (long)ARG3(c));
		weft_io_closed((unsigned)at, (unsigned)end);
		at = end + 1;
	}
	return r;
}

long sys_close_range(struct weft_call *c)
{
	bool begun = weft_closing_begin();
	long r = close_range_but(c);

	if (r == WEFT_RAW)
		return close_them(c, begun, (unsigned)ARG1(c), (unsigned)ARG2(c));
	return end_closing(c, begun, r);
}

/*
 * May opening this file wait: a FIFO for its other end, a serial line for its carrier?
 * Whoever puts one in a file's place between the question and the call blocks a
 * carrier, as a slow disk does.
 */
static bool open_may_wait(int dir, const char *path, uint64_t flags)
{
	struct stat st;
	unsigned major;

	if (flags & (O_NONBLOCK | O_PATH | O_DIRECTORY) ||
		weft_sys4(SYS_newfstatat, dir, (long)path, (long)&st, 0))
		return false;
	if (S_ISFIFO(st.st_mode))
		return (flags & O_ACCMODE) != O_RDWR;
	if (!S_ISCHR(st.st_mode))
		return false;
	major = (unsigned)(st.st_rdev >> 8) & 0xfff;
	/* ttyS and its like (Documentation/admin-guide/devices.txt) */
	return (major == 4 && (st.st_rdev & 0xff) >= 64) || major == 166 ||
	       major == 188 || major == 204;
}

long weft_open_file(struct weft_call *c, int dir, const char *path, uint64_t flags)
{
	return open_may_wait(dir, path, flags) ? weft_call_offload(c) : WEFT_RAW;
}

long sys_creat(struct weft_call *c)
{
	return weft_open_file(c, AT_FDCWD, (const char *)ARG1(c), O_WRONLY);
}

long sys_openat2(struct weft_call *c)
{
	const uint64_t *how = (const uint64_t *)ARG3(c);
	uint32_t probe;

	if (ARG4(c) < sizeof *how || weft_load_user((const uint32_t *)how, &probe) ||
		weft_load_user((const uint32_t *)how + 1, &probe))
		return WEFT_RAW;
	return weft_open_file(c, (int)ARG1(c), (const char *)ARG2(c), *how);
}

/* Requests that wait for a device, or for a disk. */
long sys_ioctl(struct weft_call *c)
{
	switch ((unsigned)ARG2(c)) {
	case TCSBRK: /* tcdrain, tcsendbreak */
	case TCSBRKP:
	case TCSETSW: /* tcsetattr with TCSADRAIN or TCSAFLUSH */
	case TCSETSF:
	case TCSETAW:
	case TCSETAF:
	case TIOCMIWAIT:
	case FIFREEZE:
	case FITHAW:
	case FITRIM:
	case FICLONE:
	case FICLONERANGE:
	case FIDEDUPERANGE:
	case BLKFLSBUF:
	case BLKDISCARD:
	case BLKSECDISCARD:
	case BLKZEROOUT:
	case VT_WAITACTIVE:
	case VT_WAITEVENT:
		return weft_call_offload(c);
	default:
		return WEFT_RAW;
	}
}

/* Locks that wait: try, then wait where only the kernel can. */
long sys_fcntl(struct weft_call *c)
{
	struct weft_regs try = *c->regs;
	struct weft_call t = {.regs = &try, .fiber = c->fiber};
	int cmd = (int)ARG2(c);
	long r;

	if (weft_runtime_owns_fd((int)ARG1(c)))
		return -EBADF;
	if (cmd == F_SETOWN_EX)
		return weft_set_owner(c);
	if (cmd != F_SETLKW && cmd != F_OFD_SETLKW)
		return WEFT_RAW;
	try.rsi = cmd == F_SETLKW ? F_SETLK : F_OFD_SETLK;
	r = weft_call_plain(&t);
	return r == -EAGAIN || r == -EACCES ? weft_call_offload(c) : r;
}

long sys_flock(struct weft_call *c)
{
	long r = weft_sys2(SYS_flock, ARG1(c), ARG2(c) | 4 /* LOCK_NB */);

	return r == -EWOULDBLOCK && !(ARG2(c) & 4) ? weft_call_offload(c) : r;
}
