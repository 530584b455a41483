/*
 * gather.c - receives that wait for an amount: MSG_WAITALL, and SO_RCVLOWAT above 1.
 *
 * They take what is there, wait, and go on where they were until it is enough, as the
 * kernel's own loops do (net/ipv4/tcp.c, tcp_recvmsg_locked; net/unix/af_unix.c,
 * unix_stream_read_generic). What ends those early ends it here: the end of the stream,
 * an error that is then the next call's, a signal, the time-out, urgent data, and on
 * UNIX sockets a message that brings descriptors. Where the kernel looks at more than
 * that (who wrote it, records of TLS, other families) it makes the call, on a helper
 * thread.
 */
#include <asm/ioctls.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>

#include "signals.h"
#include "transfer_impl.h"

enum stream { STREAM_TCP, STREAM_UNIX, STREAM_OTHER };

enum {
	PASSSEC = 34,            /* SO_PASSSEC */
	PASSPIDFD = 76,          /* SO_PASSPIDFD */
	FEW_PARTS = 8,           /* iovec entries on a small stack */
	MOST = 0x7fffffff,       /* what one call transfers */
	LOOK_FIRST_NS = 1000000, /* between two looks; doubled … */
	LOOK_MOST_NS = 16000000, /* … up to this */
};

/* "tls", say: what is received is then no longer what TCP has. */
static bool has_upper_protocol(int fd)
{
	char name[16];
	socklen_t size = sizeof name;

	return !weft_sys5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_ULP, (long)name,
		       (long)&size) &&
	       size > 0;
}

static enum stream stream_of(int fd)
{
	switch (weft_fd_int_option(fd, SO_DOMAIN, -1)) {
	case AF_UNIX:
		return weft_fd_int_option(fd, SO_PASSCRED, 0) ||
				       weft_fd_int_option(fd, PASSSEC, 0) ||
				       weft_fd_int_option(fd, PASSPIDFD, 0)
			       ? STREAM_OTHER
			       : STREAM_UNIX;
	case AF_INET:
	case AF_INET6:
		return weft_fd_int_option(fd, SO_PROTOCOL, 0) == IPPROTO_TCP &&
				       !has_upper_protocol(fd)
			       ? STREAM_TCP
			       : STREAM_OTHER;
	default:
		return STREAM_OTHER;
	}
}

static long queued(int fd)
{
	int n = 0;

	weft_sys3(SYS_ioctl, fd, FIONREAD, (long)&n);
	return n;
}

static bool at_urgent_mark(int fd)
{
	int at = 0;

	return !weft_sys3(SYS_ioctl, fd, SIOCATMARK, (long)&at) && at;
}

bool weft_tcp_error_waits(int fd)
{
	return weft_fd_poll_now(fd, POLLIN) & POLLERR &&
	       weft_fd_int_option(fd, SO_PROTOCOL, 0) == IPPROTO_TCP;
}

/* ---- taking it ------------------------------------------------------------ */

struct gathering {
	struct incoming *in;
	enum stream kind;
	size_t total, target, got;
	/* recvmsg: what was asked. The program's own may be gone after a wait. */
	struct msghdr asked;
	struct iovec *parts, few[FEW_PARTS];
	bool descriptors; /* have come */
};

static long note_question(struct gathering *g, size_t low)
{
	const struct incoming *in = g->in;
	size_t bytes;
	long p;

	g->parts = g->few;
	if (in->msg) {
		g->asked = *in->msg;
		bytes = g->asked.msg_iovlen * sizeof *g->parts;
		if (g->asked.msg_iovlen > FEW_PARTS) {
			p = weft_sys_map(bytes, PROT_READ | PROT_WRITE, 0);
			if (weft_sys_failed(p))
				return p;
			g->parts = (struct iovec *)p;
		}
		weft_memcpy(g->parts, g->asked.msg_iov, bytes);
	} else {
		g->asked.msg_iovlen = 1;
		g->parts[0] = in->iov;
	}
	g->total = weft_iov_total(g->parts, g->asked.msg_iovlen);
	if (g->total > MOST)
		g->total = MOST;
	g->target = in->flags & MSG_WAITALL || low > g->total ? g->total : low;
	if (!g->target) /* sock_rcvlowat */
		g->target = 1;
	return 0;
}

static void forget_question(struct gathering *g)
{
	if (g->parts != g->few)
		weft_sys_unmap(g->parts, g->asked.msg_iovlen * sizeof *g->parts);
}

/* What the kernel says beside the data counts for the whole call. */
static void tell(struct gathering *g, const struct msghdr *m)
{
	struct msghdr *msg = g->in->msg;

	if (m->msg_controllen)
		weft_copy_user(&msg->msg_controllen, &m->msg_controllen,
			sizeof m->msg_controllen);
	weft_copy_user(&msg->msg_flags, &m->msg_flags, sizeof m->msg_flags);
}

static long take_more(struct gathering *g)
{
	struct iovec rest[FEW_PARTS];
	struct msghdr m = g->asked;
	struct incoming *in = g->in;
	long r;

	/* The name came with the first part. */
	m.msg_name = NULL;
	m.msg_namelen = 0;
	m.msg_iov = rest;
	m.msg_iovlen = (size_t)weft_iov_rest(
		g->parts, g->asked.msg_iovlen, g->got, rest, FEW_PARTS);
	r = weft_sys3(SYS_recvmsg, in->file.fd, (long)&m, in->flags | MSG_DONTWAIT);
	if (r > 0) {
		g->descriptors = m.msg_controllen || m.msg_flags & MSG_CTRUNC;
		if (in->msg)
			tell(g, &m);
	}
	return r;
}

static long take_first(struct gathering *g)
{
	struct msghdr *msg = g->in->msg;
	size_t control = 0;
	int flags = 0;
	long r;

	/* recv does not say that it has thrown descriptors away. */
	if (!msg && g->kind == STREAM_UNIX)
		return take_more(g);
	r = weft_receive(g->in, MSG_DONTWAIT);
	if (r > 0 && msg && g->kind == STREAM_UNIX) {
		weft_copy_user(&control, &msg->msg_controllen, sizeof control);
		weft_copy_user(&flags, &msg->msg_flags, sizeof flags);
		g->descriptors = control || flags & MSG_CTRUNC;
	}
	return r;
}

/* Something came, and not enough: is it all the same what the call returns? */
static bool ends_here(const struct gathering *g)
{
	return g->kind == STREAM_UNIX ? g->descriptors : at_urgent_mark(g->in->file.fd);
}

/* Urgent data ends what has begun; what was not taken of it earlier does not. */
static unsigned waits_for(const struct gathering *g)
{
	int fd = g->in->file.fd;

	return g->got && g->kind == STREAM_TCP && !weft_fd_poll_now(fd, POLLPRI)
		       ? POLLIN | POLLPRI
		       : POLLIN;
}

/* What came before the time was over, or the signal came, counts. */
static void take_last(struct gathering *g)
{
	long r = queued(g->in->file.fd) > 0 ? (g->got ? take_more(g) : take_first(g)) : 0;

	if (r > 0)
		g->got += (size_t)r;
}

static long take(struct gathering *g)
{
	struct weft_held *file = &g->in->file;
	uint64_t deadline = 0;
	long r;

	for (;;) {
		r = g->got ? take_more(g) : take_first(g);
		if (r > 0)
			g->got += (size_t)r;
		else if (r != -EAGAIN)
			break;
		if (g->got >= g->target || (g->got && ends_here(g)))
			break;
		r = weft_wait_as_told(
			file, waits_for(g), SO_RCVTIMEO, &deadline, WEFT_REASON_READ);
		if (r < 0) {
			take_last(g);
			break;
		}
		if (g->got && ends_here(g))
			break;
		/* An error, and nothing before it. */
		if (g->got && r != POLLIN && weft_tcp_error_waits(file->fd) &&
			!queued(file->fd))
			break;
	}
	return g->got ? (long)g->got : r;
}

/* ---- looking at it -------------------------------------------------------- */

/*
 * MSG_PEEK leaves what it looks at, so the socket stays ready. Until it has enough it is
 * looked at again and again; what ends the wait otherwise is waited for.
 */
static long peek(struct gathering *g)
{
	enum { ENDS = POLLRDHUP | POLLPRI };
	struct weft_held *file = &g->in->file;
	uint64_t deadline = 0, pause = LOOK_FIRST_NS, until;
	long r, why = 0; /* it ends after this look */

	for (;;) {
		bool readiness_tells;

		r = weft_receive(g->in, MSG_DONTWAIT);
		if ((r < 0 && r != -EAGAIN) || !r || r >= (long)g->target)
			return r;
		if (why)
			return r > 0 ? r : why;
		if (r > 0 && weft_fd_poll_now(file->fd, ENDS)) {
			why = -EAGAIN; /* nothing comes after that */
			continue;
		}
		if (!deadline)
			deadline = weft_fd_deadline(file->fd, SO_RCVTIMEO);
		readiness_tells = r < 0 || !(g->in->flags & MSG_WAITALL);
		until = readiness_tells ? deadline : weft_now_ns() + pause;
		if (deadline < until)
			until = deadline;
		r = weft_io_wait_ready(
			file, readiness_tells ? POLLIN : ENDS, until, WEFT_REASON_READ);
		if (r == -EINTR)
			why = deadline == WEFT_NO_DEADLINE ? r : WEFT_RESTART_NEVER;
		else if (r == -ETIMEDOUT && until == deadline)
			why = -EAGAIN;
		else if (r < 0 && r != -ETIMEDOUT)
			return r;
		pause = 2 * pause < LOOK_MOST_NS ? 2 * pause : LOOK_MOST_NS;
	}
}

bool weft_gathers(const struct incoming *in, size_t low)
{
	return (in->flags & MSG_WAITALL || low > 1) && !(in->flags & MSG_OOB) &&
	       weft_fd_is_stream(in->file.fd);
}

long weft_gather(struct incoming *in, size_t low)
{
	struct gathering g = {.in = in, .kind = stream_of(in->file.fd)};
	bool peeks = in->flags & MSG_PEEK;
	long r;

	/* A place to peek at moves with each look. */
	if (g.kind == STREAM_OTHER || (in->addr && g.kind == STREAM_UNIX) ||
		(peeks && weft_fd_int_option(in->file.fd, SO_PEEK_OFF, -1) >= 0))
		return weft_receive_in_kernel(in);
	r = note_question(&g, low);
	if (r < 0)
		return r;
	if (peeks && g.kind == STREAM_UNIX) /* content with anything */
		g.target = 1;
	weft_io_pretend_to_block(in->file.fd, POLLIN);
	r = peeks ? peek(&g) : take(&g);
	forget_question(&g);
	return r;
}
