/*
 * transfer.c - turning non-blocking transfers into blocking calls.
 *
 * One loop for each direction: attempt; when it would block, ask once whether the
 * descriptor is a blocking one; wait for readiness; attempt again, until the
 * blocking call's contract is met. A completion or a readiness is never yet a
 * result. What was transferred counts: after the first byte no error, signal or
 * time-out is reported, but the amount.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/major.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "deadline.h"
#include "signals.h"
#include "transfer_impl.h"

enum {
	REST = 8, /* iovec entries on a small stack; a longer rest takes more rounds */
	EMPTY_PROMISES = 3, /* how often readiness may be wrong before the kernel waits */
	NOWAIT = 8,         /* RWF_NOWAIT */
	IOV_LIMIT = 1024,   /* UIO_MAXIOV */
};

size_t weft_iov_total(const struct iovec *iov, size_t n)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

int weft_iov_rest(
	const struct iovec *iov, size_t n, size_t skip, struct iovec *out, int room)
{
	int k = 0;

	for (size_t i = 0; i < n && k < room; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		out[k].iov_base = (char *)iov[i].iov_base + skip;
		out[k++].iov_len = iov[i].iov_len - skip;
		skip = 0;
	}
	return k;
}

/*
 * Waits as long as the socket's own time-out says. Such a socket never restarts a
 * call after a signal (net/core/sock.h, sock_intr_errno).
 */
long weft_wait_as_told(struct weft_held *file, unsigned events, int option,
	uint64_t *deadline, enum weft_park_reason reason)
{
	long r;

	/* One time for the whole call, from its first wait on (sock_rcvtimeo). */
	if (!*deadline)
		*deadline = weft_fd_deadline(file->fd, option);
	r = weft_io_wait_ready(file, events, *deadline, reason);
	if (r == -ETIMEDOUT)
		return -EAGAIN;
	return r == -EINTR && *deadline != WEFT_NO_DEADLINE ? WEFT_RESTART_NEVER : r;
}

/* ---- incoming ------------------------------------------------------------- */

long weft_receive(const struct incoming *in, int extra)
{
	if (in->msg)
		return weft_sys3(
			SYS_recvmsg, in->file.fd, (long)in->msg, in->flags | extra);
	return weft_sys6(SYS_recvfrom, in->file.fd, (long)in->iov.iov_base,
		(long)in->iov.iov_len, in->flags | extra, (long)in->addr,
		(long)in->addrlen);
}

/* A signal ends it, and a socket with a time-out is never asked again. */
long weft_receive_in_kernel(const struct incoming *in)
{
	long r = in->msg ? weft_io_in_kernel(SYS_recvmsg, in->file.fd, (long)in->msg,
				   in->flags, 0, 0, 0)
			 : weft_io_in_kernel(SYS_recvfrom, in->file.fd,
				   (long)in->iov.iov_base, (long)in->iov.iov_len,
				   in->flags, (long)in->addr, (long)in->addrlen);

	if (r == -EINTR && weft_fd_deadline(in->file.fd, SO_RCVTIMEO) != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	return r;
}

/*
 * The socket said that it is ready, and had nothing. A datagram socket that was shut down
 * does so for ever: who waits gets 0, who does not wait -EAGAIN (net/core/datagram.c,
 * __skb_wait_for_more_packets). Whatever else is always ready waits in the kernel. What
 * another reader took is no promise any more.
 */
static long receive_promised(struct incoming *in, unsigned events, int *empty)
{
	int now = weft_fd_poll_now(in->file.fd, events | POLLRDHUP);

	if (now & POLLRDHUP)
		return weft_receive(in, 0);
	if (!(now & (int)events) || ++*empty <= EMPTY_PROMISES)
		return -EAGAIN;
	return weft_receive_in_kernel(in);
}

/* A blocking receive that is content with what is there (else see gather.c). */
static long receive_blocking(struct incoming *in)
{
	unsigned events = in->flags & MSG_OOB ? POLLPRI : POLLIN;
	bool known_blocking = in->tried == WEFT_TRIED_BLOCKS;
	uint64_t deadline = 0;
	int empty = -1; /* promises; -1: there was none yet */
	size_t low;
	long r;

	if (in->flags & (MSG_DONTWAIT | MSG_ERRQUEUE)) {
		r = weft_receive(in, 0);
		if (r == -EAGAIN)
			weft_fd_note_again(in->file.fd, events);
		return r;
	}
	low = weft_fd_low_water(in->file.fd);
	if (unlikely(in->flags & MSG_WAITALL || low > 1) && weft_gathers(in, low) &&
		!weft_fd_nonblocking(in->file.fd))
		return weft_gather(in, low);
	weft_io_pretend_to_block(in->file.fd, events);
	if (in->tried == WEFT_TRIED_LIKELY && !weft_fd_nonblocking(in->file.fd)) {
		/* flags are 0: the front door asked for no other kind */
		known_blocking = true;
		r = weft_io_ring_recv(&in->file, in->iov.iov_base, in->iov.iov_len);
		if (r != -EAGAIN)
			return r;
	}
	for (;; in->tried = WEFT_TRIED_NOT) {
		r = in->tried == WEFT_TRIED_BLOCKS ? -EAGAIN
						   : weft_receive(in, MSG_DONTWAIT);
		if (r == -EAGAIN && !known_blocking) {
			known_blocking = !weft_fd_nonblocking(in->file.fd);
			if (!known_blocking)
				weft_fd_note_again(in->file.fd, events);
		}
		if (r == -EAGAIN && known_blocking && empty >= 0)
			r = receive_promised(in, events, &empty);
		if (r != -EAGAIN || !known_blocking)
			return r;
		r = weft_wait_as_told(
			&in->file, events, SO_RCVTIMEO, &deadline, WEFT_REASON_READ);
		if (r < 0)
			return r;
		empty += empty < 0;
	}
}

long weft_io_recv(int fd, void *buf, size_t len, int flags, void *addr, void *addrlen,
	enum weft_tried tried)
{
	struct incoming in = {.file = {fd, false},
		.flags = flags,
		.iov = {buf, len},
		.addr = addr,
		.addrlen = addrlen,
		.tried = tried};
	long r = receive_blocking(&in);

	if (r > 0)
		weft_fd_spoken_by(fd, weft_fiber_self());
	weft_held_release(&in.file);
	return r;
}

long weft_io_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct incoming in = {.file = {fd, false}, .flags = flags, .msg = msg};
	/* The kernel writes these back even when it then says EAGAIN. */
	socklen_t namelen = msg->msg_namelen;
	size_t controllen = msg->msg_controllen;
	long r = receive_blocking(&in);

	weft_held_release(&in.file);
	if (r < 0) {
		weft_copy_user(&msg->msg_namelen, &namelen, sizeof namelen);
		weft_copy_user(&msg->msg_controllen, &controllen, sizeof controllen);
	} else if (controllen) {
		/* Descriptors may have arrived, with time-outs of their own. */
		weft_io_expect_timeouts();
	}
	return r;
}

/*
 * Waits until a message or an error is there, and tells an error: without taking it,
 * which asking for SO_ERROR would do. The wait ends as that of the receive would.
 */
static bool pending_error(int fd)
{
	struct weft_held file = {fd, false};
	int now = weft_fd_poll_now(fd, POLLIN);

	if (!now && !weft_fd_nonblocking(fd)) {
		weft_io_wait_ready(&file, POLLIN, weft_fd_deadline(fd, SO_RCVTIMEO),
			WEFT_REASON_READ);
		now = weft_fd_poll_now(file.fd, POLLIN);
		weft_held_release(&file);
	}
	return now & POLLERR;
}

long weft_io_recvmmsg(
	int fd, struct mmsghdr *vec, unsigned n, unsigned flags, const struct timespec *t)
{
	unsigned done = 0;
	uint64_t deadline = WEFT_NO_DEADLINE;

	if (!n || flags & (MSG_DONTWAIT | MSG_ERRQUEUE))
		return weft_sys5(SYS_recvmmsg, fd, (long)vec, n, flags, (long)t);
	if (t) {
		if (t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u)
			return -EINVAL;
		deadline = weft_deadline_in((uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
	}
	/* recvmmsg(2): blocks for each message; the time-out is looked at between. */
	while (done < n) {
		int f = (int)(flags & ~(unsigned)MSG_WAITFORONE);
		long r;

		if (done && flags & MSG_WAITFORONE)
			f |= MSG_DONTWAIT;
		/* An error that comes after a message is for the next call to tell. */
		if (done && !(f & MSG_DONTWAIT) && pending_error(fd))
			break;
		r = weft_io_recvmsg(fd, &vec[done].msg_hdr, f);
		if (r < 0)
			return done ? (long)done : r;
		unsigned len = (unsigned)r;
		if (weft_copy_user(&vec[done].msg_len, &len, sizeof len))
			return done ? (long)done : -EFAULT;
		done++;
		if (deadline != WEFT_NO_DEADLINE && weft_now_ns() >= deadline)
			break;
	}
	return done;
}

/* ---- outgoing ------------------------------------------------------------- */

struct outgoing {
	struct weft_held file;
	long (*attempt)(struct outgoing *o); /* the rest, without waiting */
	int flags;
	int timeout;     /* SO_SNDTIMEO, or 0 for what is no socket */
	const void *buf; /* send */
	const void *addr;
	unsigned addrlen;
	const struct msghdr *msg; /* sendmsg */
	const struct iovec *iov;  /* write on a special file */
	int count;
	size_t total, done;
	size_t before; /* sent of the same call already */
	enum weft_tried tried;
	/* What the kernel reads at the start: the program's own may go while we wait. */
	struct msghdr own;
	struct iovec *kept, few[REST];
	size_t kept_count;
};

static long keep_vector(struct outgoing *o)
{
	const struct iovec *from = o->msg ? o->msg->msg_iov : o->iov;
	size_t n = o->msg ? o->msg->msg_iovlen : (size_t)o->count;
	long p;

	if (o->kept || !from || !n)
		return 0;
	o->kept = o->few;
	o->kept_count = n;
	if (n > REST) {
		p = weft_sys_map(n * sizeof *from, PROT_READ | PROT_WRITE, 0);
		if (weft_sys_failed(p)) {
			o->kept = NULL;
			return p;
		}
		o->kept = (struct iovec *)p;
	}
	if (weft_copy_user(o->kept, from, n * sizeof *from))
		return -EFAULT;
	if (!o->msg) {
		o->iov = o->kept;
		return 0;
	}
	if (weft_copy_user(&o->own, o->msg, sizeof o->own))
		return -EFAULT;
	o->own.msg_iov = o->kept;
	o->msg = &o->own;
	return 0;
}

static void forget_vector(struct outgoing *o)
{
	if (o->kept && o->kept != o->few)
		weft_sys_unmap(o->kept, o->kept_count * sizeof *o->kept);
}

static long send_rest(struct outgoing *o, int extra)
{
	return weft_sys6(SYS_sendto, o->file.fd, (long)o->buf + (long)o->done,
		(long)(o->total - o->done), o->flags | extra | MSG_NOSIGNAL,
		(long)o->addr, o->addrlen);
}

/*
 * A first attempt, made together with those of others: of m, or of buf where that is
 * NULL. False: it is to be made by itself, nothing was sent.
 */
static bool sent_together(
	int fd, const struct msghdr *m, const void *buf, size_t len, int flags, long *ret)
{
	if (!weft_answer_joins(fd, len, flags))
		return false;
	*ret = weft_io_ring_send(fd, m, buf, len, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
	return *ret != -EINTR && *ret != -ENOMEM;
}

static bool all_sent_together(const struct outgoing *o, long *ret)
{
	const struct msghdr *m = o->msg;

	return !o->done && !o->before && !o->addr &&
	       !(m && (m->msg_name || m->msg_control)) &&
	       sent_together(o->file.fd, m, o->buf, o->total, o->flags, ret);
}

static long attempt_send(struct outgoing *o)
{
	long r;

	return all_sent_together(o, &r) ? r : send_rest(o, MSG_DONTWAIT);
}

static long sendmsg_rest(struct outgoing *o, int extra)
{
	struct iovec rest[REST];
	struct msghdr m = {.msg_iov = rest};

	if (!o->done)
		return weft_sys3(SYS_sendmsg, o->file.fd, (long)o->msg,
			o->flags | extra | MSG_NOSIGNAL);
	/* The name and the control data went with the first part. */
	m.msg_iovlen = (size_t)weft_iov_rest(
		o->msg->msg_iov, o->msg->msg_iovlen, o->done, rest, REST);
	return weft_sys3(
		SYS_sendmsg, o->file.fd, (long)&m, o->flags | extra | MSG_NOSIGNAL);
}

static long attempt_sendmsg(struct outgoing *o)
{
	long r;

	return all_sent_together(o, &r) ? r : sendmsg_rest(o, MSG_DONTWAIT);
}

static long raw_writev(int fd, const struct iovec *iov, int n)
{
	return n == 1 ? weft_sys3(SYS_write, fd, (long)iov->iov_base, (long)iov->iov_len)
		      : weft_sys3(SYS_writev, fd, (long)iov, n);
}

/*
 * A special file that has no form that does not wait, and says that it is ready:
 * for how much it does not say. A few characters of a terminal and the usual small
 * addition to an eventfd fit; anything else is written on a helper thread.
 */
static long write_ready(int fd, const struct iovec *iov, int n)
{
	size_t total = weft_iov_total(iov, (size_t)n);
	uint32_t low = 0, high = 0;

	static int large; /* (a) an eventfd may be nearly full: only after such a write */

	if (total == 8 && n == 1 &&
		(weft_load_user(iov->iov_base, &low) ||
			weft_load_user((const uint32_t *)iov->iov_base + 1, &high)))
		return -EFAULT;
	if (total == 8 && high)
		store_relaxed(&large, 1);
	if (total <= 256 && !(total == 8 && load_relaxed(&large)))
		return raw_writev(fd, iov, n);
	if (n == 1)
		return weft_io_in_kernel(
			SYS_write, fd, (long)iov->iov_base, (long)iov->iov_len, 0, 0, 0);
	return weft_io_in_kernel(SYS_writev, fd, (long)iov, n, 0, 0, 0);
}

/*
 * Pipes and special files, at the current position. Where there is no form that
 * does not wait, readiness comes first.
 */
static long attempt_write(struct outgoing *o)
{
	struct iovec rest[REST];
	const struct iovec *iov = o->iov;
	int n = o->count;
	long r;

	if (o->done) {
		n = weft_iov_rest(o->iov, (size_t)o->count, o->done, rest, REST);
		iov = rest;
	}
	r = weft_sys6(SYS_pwritev2, o->file.fd, (long)iov, n, -1, -1, NOWAIT);
	if (r == -EOPNOTSUPP) {
		if (weft_fd_nonblocking(o->file.fd))
			r = raw_writev(o->file.fd, iov, n);
		else if (weft_fd_poll_now(o->file.fd, POLLOUT))
			r = write_ready(o->file.fd, iov, n);
		else
			r = -EAGAIN;
	}
	/* The kernel has raised SIGPIPE on this carrier, where it is blocked. */
	if (r == -EPIPE)
		weft_signals_drain_pipe();
	return r;
}

/* Waits where a signal can end it; the time-out is the kernel's own. */
static long send_in_kernel(struct outgoing *o)
{
	struct iovec rest[REST];
	struct msghdr m = {.msg_iov = rest};
	const struct msghdr *msg = o->msg;
	int flags = o->flags | MSG_NOSIGNAL;
	long r;

	if (msg && o->done) {
		m.msg_iovlen = (size_t)weft_iov_rest(
			msg->msg_iov, msg->msg_iovlen, o->done, rest, REST);
		msg = &m;
	}
	if (msg)
		r = weft_io_in_kernel(SYS_sendmsg, o->file.fd, (long)msg, flags, 0, 0, 0);
	else
		r = weft_io_in_kernel(SYS_sendto, o->file.fd,
			(long)o->buf + (long)o->done, (long)(o->total - o->done), flags,
			(long)o->addr, o->addrlen);
	if (r == -EINTR && weft_fd_deadline(o->file.fd, SO_SNDTIMEO) != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	return r;
}

/* The kernel was told MSG_NOSIGNAL; the fiber gets its SIGPIPE here. */
static void tell_broken(int fd, long r, int flags)
{
	if (r == -EPIPE && !(flags & MSG_NOSIGNAL) && weft_fd_breaks_with_signal(fd))
		weft_signals_raise_pipe();
}

/*
 * Whoever waits for room in a UNIX socket takes the error of a peer that went away with
 * something unread (net/core/sock.c, sock_alloc_send_pskb), before it sees that nobody
 * listens any more; who begins to send sees that first (net/unix/af_unix.c).
 */
static long error_while_waiting(int fd)
{
	return weft_fd_int_option(fd, SO_DOMAIN, -1) == AF_UNIX
		       ? -weft_fd_int_option(fd, SO_ERROR, 0)
		       : 0;
}

/*
 * A blocking send or write. POLLOUT may promise what a datagram socket cannot keep
 * (a full peer that is not the connected one): after a few empty promises the
 * kernel waits instead, on a helper thread.
 */
static long send_blocking(struct outgoing *o)
{
	bool known_blocking = o->tried == WEFT_TRIED_BLOCKS;
	uint64_t deadline = 0;
	int empty = 0;
	long r;

	weft_io_pretend_to_block(o->file.fd, POLLOUT);
	for (;; o->tried = WEFT_TRIED_NOT) {
		r = o->tried == WEFT_TRIED_BLOCKS ? -EAGAIN : o->attempt(o);
		if (r >= 0) {
			o->done += (size_t)r;
			if (o->done >= o->total)
				break;
			empty = 0;
			r = -EAGAIN;
		}
		if (r == -EAGAIN && !known_blocking) {
			known_blocking = !weft_fd_nonblocking(o->file.fd);
			if (!known_blocking)
				weft_fd_note_again(o->file.fd, POLLOUT);
		}
		if (r != -EAGAIN || !known_blocking)
			break;
		if (o->timeout && ++empty > EMPTY_PROMISES) {
			r = send_in_kernel(o);
			if (r > 0)
				o->done += (size_t)r;
			break;
		}
		r = keep_vector(o);
		if (!r)
			r = weft_wait_as_told(&o->file, POLLOUT, o->timeout, &deadline,
				WEFT_REASON_WRITE);
		if (r < 0)
			break;
		if (!o->timeout || r == POLLOUT)
			continue;
		/* With a part on its way, what went wrong is the next call's to tell. */
		if ((o->done || o->before) && weft_tcp_error_waits(o->file.fd))
			break;
		r = error_while_waiting(o->file.fd);
		if (r)
			break;
	}
	forget_vector(o);
	/* When a part was taken, a socket does not send SIGPIPE, a pipe does (fs/pipe.c).
	 */
	if (!(o->timeout && (o->done || o->before)))
		tell_broken(o->file.fd, r, o->flags);
	weft_held_release(&o->file);
	return o->done ? (long)o->done : r;
}

long weft_io_send(int fd, const void *buf, size_t len, int flags, const void *addr,
	unsigned addrlen, enum weft_tried tried)
{
	struct outgoing o = {.file = {fd, false},
		.attempt = attempt_send,
		.flags = flags,
		.timeout = SO_SNDTIMEO,
		.buf = buf,
		.total = len,
		.addr = addr,
		.addrlen = addrlen,
		.tried = tried};
	long r;

	if (!(flags & MSG_DONTWAIT))
		return send_blocking(&o);
	r = attempt_send(&o);
	if (r == -EAGAIN)
		weft_fd_note_again(fd, POLLOUT);
	tell_broken(fd, r, flags);
	return r;
}

long weft_io_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct outgoing o = {.file = {fd, false},
		.attempt = attempt_sendmsg,
		.flags = flags,
		.timeout = SO_SNDTIMEO,
		.msg = msg,
		.total = weft_iov_total(msg->msg_iov, msg->msg_iovlen)};
	long r;

	if (!(flags & MSG_DONTWAIT) && msg->msg_iovlen <= IOV_LIMIT)
		return send_blocking(&o);
	r = flags & MSG_DONTWAIT ? attempt_sendmsg(&o) : sendmsg_rest(&o, 0);
	if (r == -EAGAIN)
		weft_fd_note_again(fd, POLLOUT);
	tell_broken(fd, r, flags);
	return r;
}

long weft_io_sendmmsg(int fd, struct mmsghdr *vec, unsigned n, unsigned flags)
{
	unsigned done = 0;

	if (!n || flags & MSG_DONTWAIT)
		return weft_sys4(SYS_sendmmsg, fd, (long)vec, n, flags);
	if (n > IOV_LIMIT) /* sendmmsg(2): more are cut off */
		n = IOV_LIMIT;
	while (done < n) {
		long r = weft_io_sendmsg(fd, &vec[done].msg_hdr, (int)flags);

		if (r < 0)
			return done ? (long)done : r;
		unsigned len = (unsigned)r;
		if (weft_copy_user(&vec[done].msg_len, &len, sizeof len))
			return done ? (long)done : -EFAULT;
		done++;
	}
	return done;
}

/* ---- read and write on anything ------------------------------------------- */

static long raw_readv(int fd, const struct iovec *iov, int n)
{
	return n == 1 ? weft_sys3(SYS_read, fd, (long)iov->iov_base, (long)iov->iov_len)
		      : weft_sys3(SYS_readv, fd, (long)iov, n);
}

/*
 * A file without a form that does not wait (ttys; on old kernels timerfd and others) is
 * asked whether it is ready, and then read plainly. In between another reader may be
 * faster, and then the read blocks: so the readers of one number take turns. Who is not
 * asked for a turn is another process that reads the same terminal.
 */
static long read_if_ready(int fd, const struct iovec *iov, int n)
{
	static int reading[64]; /* (a) by number */
	int *turn = &reading[(unsigned)fd % 64];
	long r = -EAGAIN;

	if (!weft_fd_poll_now(fd, POLLIN))
		return r;
	if (xchg_seq_cst(turn, 1)) {
		weft_yield();
		return r;
	}
	if (weft_fd_poll_now(fd, POLLIN))
		r = raw_readv(fd, iov, n);
	store_seq_cst(turn, 0);
	return r;
}

/*
 * Whoever waits for input of a pseudo-terminal whose master goes away gets EIO, and who
 * asks afterwards the end of the file (drivers/tty/n_tty.c, n_tty_read;
 * drivers/tty/tty_io.c, hung_up_tty_read).
 */
static bool lost_its_master(int fd)
{
	struct stat st;

	return !weft_sys2(SYS_fstat, fd, &st) && S_ISCHR(st.st_mode) &&
	       major(st.st_rdev) >= UNIX98_PTY_SLAVE_MAJOR &&
	       major(st.st_rdev) < UNIX98_PTY_SLAVE_MAJOR + UNIX98_PTY_MAJOR_COUNT &&
	       weft_fd_poll_now(fd, POLLIN) & POLLHUP;
}

/* read on something that is neither a socket nor a regular file. */
static long read_special(int fd, const struct iovec *iov, int n)
{
	struct weft_held file = {fd, false};
	bool known_blocking = false;
	long r;

	weft_io_pretend_to_block(fd, POLLIN);
	for (;;) {
		r = weft_sys6(SYS_preadv2, file.fd, (long)iov, n, -1, -1, NOWAIT);
		if (r == -EOPNOTSUPP)
			r = read_if_ready(file.fd, iov, n);
		if (!r && known_blocking && lost_its_master(file.fd))
			r = -EIO;
		if (r != -EAGAIN)
			break;
		if (!known_blocking && weft_fd_nonblocking(file.fd)) {
			weft_fd_note_again(file.fd, POLLIN);
			break;
		}
		known_blocking = true;
		r = weft_io_wait_ready(&file, POLLIN, WEFT_NO_DEADLINE, WEFT_REASON_READ);
		if (r == -EPERM) /* cannot be polled: never makes one wait */
			r = raw_readv(file.fd, iov, n);
		else if (r > 0)
			continue;
		break;
	}
	weft_held_release(&file);
	return r;
}

long weft_io_read(int fd, const struct iovec *iov, int n, enum weft_tried tried)
{
	enum weft_kind kind = weft_fd_hint(fd);

	/* Reading nothing never waits, and must not eat a datagram. */
	if (n <= 0 || n > IOV_LIMIT || (n == 1 && !iov->iov_len))
		return raw_readv(fd, iov, n);
	if (kind == WEFT_KIND_SOCKET || kind == WEFT_KIND_UNKNOWN) {
		struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			.msg_iovlen = (size_t)n};
		long r = n == 1 ? weft_io_recv(fd, iov->iov_base, iov->iov_len, 0, NULL,
					  NULL, tried)
				: weft_io_recvmsg(fd, &m, 0);

		if (r != -ENOTSOCK) {
			weft_fd_set_hint(fd, WEFT_KIND_SOCKET);
			return r;
		}
	}
	switch (weft_fd_kind(fd)) {
	case WEFT_KIND_SOCKET:
		return weft_io_read(fd, iov, n, WEFT_TRIED_NOT);
	case WEFT_KIND_FILE:
		return weft_file_read(fd, iov, n);
	default:
		return read_special(fd, iov, n);
	}
}

long weft_io_write(int fd, const struct iovec *iov, int n, enum weft_tried tried)
{
	enum weft_kind kind = weft_fd_hint(fd);

	if (n <= 0 || n > IOV_LIMIT || (n == 1 && !iov->iov_len))
		return raw_writev(fd, iov, n);
	if (kind == WEFT_KIND_SOCKET || kind == WEFT_KIND_UNKNOWN) {
		struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			.msg_iovlen = (size_t)n};
		long r = n == 1 ? weft_io_send(fd, iov->iov_base, iov->iov_len, 0, NULL,
					  0, tried)
				: weft_io_sendmsg(fd, &m, 0);

		if (r != -ENOTSOCK) {
			weft_fd_set_hint(fd, WEFT_KIND_SOCKET);
			return r;
		}
	}
	switch (weft_fd_kind(fd)) {
	case WEFT_KIND_SOCKET:
		return weft_io_write(fd, iov, n, WEFT_TRIED_NOT);
	case WEFT_KIND_FILE:
		return weft_file_write(fd, iov, n);
	default: {
		struct outgoing o = {.file = {fd, false},
			.attempt = attempt_write,
			.iov = iov,
			.count = n,
			.total = weft_iov_total(iov, (size_t)n)};

		return send_blocking(&o);
	}
	}
}

/* ---- first attempts, for the front door ----------------------------------- */

long weft_io_try_recv(int fd, void *buf, size_t len, int flags)
{
	long r;

	/* These wait for an amount, or for more than data: the full call knows. */
	if (unlikely(flags & (MSG_WAITALL | MSG_OOB | MSG_ERRQUEUE)) ||
		unlikely(weft_fd_timeouts_possible()) || weft_io_forced_to_fail())
		return WEFT_FULL_PATH;
	if (!flags && weft_fd_likely_blocks(fd))
		return WEFT_LIKELY_BLOCKS;
	r = weft_sys6(SYS_recvfrom, fd, (long)buf, (long)len, flags | MSG_DONTWAIT, 0, 0);
	if (r != -EAGAIN) {
		if (likely(r >= 0)) {
			weft_fd_set_hint(fd, WEFT_KIND_SOCKET);
			weft_fd_spoken_by(fd, weft_fiber_self());
		}
		weft_fd_learn(fd, false);
		return r;
	}
	if (!(flags & MSG_DONTWAIT) && !weft_fd_nonblocking(fd)) {
		weft_fd_learn(fd, true);
		return WEFT_WOULD_BLOCK;
	}
	weft_fd_note_again(fd, POLLIN);
	return r;
}

long weft_io_try_send(int fd, const void *buf, size_t len, int flags)
{
	long r;

	if (weft_io_forced_to_fail())
		return WEFT_FULL_PATH;
	if (likely(!sent_together(fd, NULL, buf, len, flags, &r)))
		r = weft_sys6(SYS_sendto, fd, (long)buf, (long)len,
			flags | MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
	if (likely(r == (long)len)) {
		weft_fd_set_hint(fd, WEFT_KIND_SOCKET);
		return r;
	}
	tell_broken(fd, r, flags);
	if (r < 0 && r != -EAGAIN)
		return r;
	/* Nothing or a part: is waiting for the rest what the caller wants? */
	if (flags & MSG_DONTWAIT || weft_fd_nonblocking(fd)) {
		weft_fd_note_again(fd, POLLOUT);
		return r;
	}
	if (r < 0)
		return WEFT_WOULD_BLOCK;

	struct outgoing o = {.file = {fd, false},
		.attempt = attempt_send,
		.flags = flags,
		.timeout = SO_SNDTIMEO,
		.buf = (const char *)buf + r,
		.total = len - (size_t)r,
		.before = (size_t)r,
		.tried = WEFT_TRIED_BLOCKS};
	long more = send_blocking(&o);

	return more > 0 ? r + more : r;
}

static long only_for_sockets(int fd, long r)
{
	if (likely(r != -ENOTSOCK))
		return r;
	weft_fd_set_hint(fd, WEFT_KIND_UNKNOWN);
	return WEFT_FULL_PATH;
}

long weft_io_try_read(int fd, void *buf, size_t len)
{
	if (weft_fd_hint(fd) != WEFT_KIND_SOCKET || !len)
		return WEFT_FULL_PATH;
	return only_for_sockets(fd, weft_io_try_recv(fd, buf, len, 0));
}

bool weft_io_answers(int fd)
{
	return fd > STDERR_FILENO && weft_fd_hint(fd) == WEFT_KIND_SOCKET;
}

long weft_io_try_write(int fd, const void *buf, size_t len)
{
	if (!weft_io_answers(fd) || !len)
		return WEFT_FULL_PATH;
	return only_for_sockets(fd, weft_io_try_send(fd, buf, len, 0));
}
