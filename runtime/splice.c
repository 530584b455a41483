/*
 * splice.c - sendfile, splice, tee and vmsplice: the kernel moves the data, the fiber
 * waits.
 *
 * None of these calls has a form that never waits. Pipes have one (SPLICE_F_NONBLOCK).
 * A stream socket is waited for and then given no more than it says it has room for
 * (SO_MEMINFO), which the kernel takes without waiting. What comes from a disk, and ends
 * that are none of these, are the business of a helper thread.
 *
 * Rejected: O_NONBLOCK for the time of the call (others share the file), and reading
 * into a buffer and sending that (the copies are what the program wanted to save).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "io_impl.h"
#include "signals.h"

enum {
	NOWAIT = 8,            /* RWF_NOWAIT */
	LEAST_SPACE = 1024,    /* of a socket that says it can be written to */
	EMPTY_PROMISES = 3,    /* how often readiness may be wrong */
	MOST_AT_ONCE = 1 << 20 /* so that the page cache is asked often enough */
};

enum end_kind { END_OTHER, END_FILE, END_PIPE, END_STREAM };

static enum end_kind kind_of(int fd)
{
	struct stat st;

	if (weft_sys2(SYS_fstat, fd, &st))
		return END_OTHER;
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return END_FILE;
	if (S_ISFIFO(st.st_mode))
		return END_PIPE;
	return S_ISSOCK(st.st_mode) && weft_fd_is_stream(fd) ? END_STREAM : END_OTHER;
}

/* Is the data at this place in memory? `off` NULL: at the file's position. */
static bool in_memory(int fd, const int64_t *off, size_t len)
{
	char byte;
	struct iovec iov = {&byte, 1};
	int64_t at = off ? *off : weft_sys3(SYS_lseek, fd, 0, SEEK_CUR);

	if (at < 0)
		return true; /* an error, which does not wait */
	if (weft_io_forced_to_fail())
		return false;
	at += (int64_t)len - 1;
	return weft_sys6(SYS_preadv2, fd, (long)&iov, 1, at, 0, NOWAIT) != -EAGAIN;
}

/* How much a stream socket takes without waiting. */
static size_t space_in(int fd)
{
	uint32_t mem[SK_MEMINFO_VARS] = {0};
	uint32_t used;

	weft_fd_option(fd, SOL_SOCKET, SO_MEMINFO, mem, sizeof mem);
	used = weft_fd_int_option(fd, SO_DOMAIN, -1) == AF_UNIX
		       ? mem[SK_MEMINFO_WMEM_ALLOC]
		       : mem[SK_MEMINFO_WMEM_QUEUED];
	used = mem[SK_MEMINFO_SNDBUF] > used ? mem[SK_MEMINFO_SNDBUF] - used : 0;
	/* Buffers are counted with their overhead: half of it is certain. */
	return used / 2 > LEAST_SPACE ? used / 2 : LEAST_SPACE;
}

/* One end that is waited for: until it is ready, as its own time-out says. */
struct end {
	struct weft_held file;
	enum end_kind kind;
	unsigned events; /* POLLIN or POLLOUT */
	uint64_t deadline;
};

static bool is_ready(const struct end *e)
{
	return e->kind == END_FILE || weft_fd_poll_now(e->file.fd, e->events);
}

static long wait_for(struct end *e)
{
	bool in = e->events == POLLIN;
	long r;

	if (e->kind != END_STREAM)
		e->deadline = WEFT_NO_DEADLINE;
	else if (!e->deadline)
		e->deadline =
			weft_fd_deadline(e->file.fd, in ? SO_RCVTIMEO : SO_SNDTIMEO);
	r = weft_io_wait_ready(&e->file, e->events, e->deadline,
		in ? WEFT_REASON_READ : WEFT_REASON_WRITE);
	if (r == -ETIMEDOUT)
		return -EAGAIN;
	if (r == -EINTR && e->deadline != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	return r < 0 ? r : 0;
}

/* The kernel has raised SIGPIPE on this carrier, where it is blocked. */
static long after(long r, size_t asked)
{
	if (r == -EPIPE || (r >= 0 && (size_t)r < asked))
		weft_signals_drain_pipe();
	return weft_signals_after_write(r);
}

/* ---- sendfile ------------------------------------------------------------- */

/* A blocking socket is given everything, as send gives it (sendfile(2)). */
static long send_file(struct end *out, int in, int64_t *off, size_t count)
{
	size_t done = 0;
	long r = 0;

	while (done < count) {
		size_t chunk = count - done, space;

		if (!is_ready(out)) {
			if (weft_fd_nonblocking(out->file.fd))
				r = -EAGAIN;
			else
				r = wait_for(out);
			if (r < 0)
				break;
		}
		space = space_in(out->file.fd);
		chunk = chunk < space ? chunk : space;
		chunk = chunk < MOST_AT_ONCE ? chunk : MOST_AT_ONCE;
		if (in_memory(in, off, chunk))
			r = after(weft_sys4(SYS_sendfile, out->file.fd, in, (long)off,
					  (long)chunk),
				chunk);
		else
			r = weft_io_on_disk(SYS_sendfile, out->file.fd, in, (long)off,
				(long)chunk, 0, 0);
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	weft_held_release(&out->file);
	return done ? (long)done : r;
}

static bool bad_offset(const int64_t *off)
{
	uint32_t probe;

	return off && (weft_load_user((const uint32_t *)off, &probe) ||
			      weft_load_user((const uint32_t *)off + 1, &probe));
}

long weft_io_sendfile(int out, int in, int64_t *off, size_t count)
{
	enum end_kind to = kind_of(out);

	if (!count || bad_offset(off))
		return weft_sys4(SYS_sendfile, out, in, (long)off, (long)count);
	if (kind_of(in) != END_FILE)
		to = END_OTHER;
	if (to == END_STREAM) {
		struct end e = {{out, false}, to, POLLOUT, 0};

		return send_file(&e, in, off, count);
	}
	if (to == END_PIPE) {
		long r = weft_io_splice(in, off, out, NULL, count, 0);

		/* It says some errors in other words: then sendfile's own. */
		if (r >= 0 || r == -EAGAIN || r == -EINTR || r == -EPIPE)
			return r;
	}
	return weft_io_in_kernel(SYS_sendfile, out, in, (long)off, (long)count, 0, 0);
}

/* ---- splice, tee, vmsplice ------------------------------------------------ */

struct splicing {
	struct end in, out;
	int64_t *off_in, *off_out;
	size_t len;
	unsigned flags;
};

/* One attempt that does not wait. */
static long splice_once(struct splicing *s)
{
	size_t len = s->len;

	if (s->out.kind == END_STREAM) {
		size_t space = space_in(s->out.file.fd);

		len = len < space ? len : space;
	}
	if (s->in.kind == END_FILE) {
		len = len < MOST_AT_ONCE ? len : MOST_AT_ONCE;
		if (!in_memory(s->in.file.fd, s->off_in, len))
			return weft_io_on_disk(SYS_splice, s->in.file.fd, (long)s->off_in,
				s->out.file.fd, (long)s->off_out, (long)len,
				s->flags | SPLICE_F_NONBLOCK);
	}
	return after(weft_sys6(SYS_splice, s->in.file.fd, (long)s->off_in, s->out.file.fd,
			     (long)s->off_out, (long)len, s->flags | SPLICE_F_NONBLOCK),
		len);
}

/* May a call with these ends wait at all (fs/splice.c, do_splice)? */
static bool must_not_wait(const struct splicing *s)
{
	return s->flags & SPLICE_F_NONBLOCK ||
	       (s->out.kind == END_PIPE && weft_fd_nonblocking(s->out.file.fd)) ||
	       (s->in.kind == END_PIPE && s->out.kind == END_PIPE &&
		       weft_fd_nonblocking(s->in.file.fd));
}

/* 0: both ends were ready at some moment. */
static long wait_for_ends(struct splicing *s)
{
	struct end *late = !is_ready(&s->in)    ? &s->in
			   : !is_ready(&s->out) ? &s->out
						: NULL;

	if (!late)
		return 0;
	if (must_not_wait(s) ||
		(late->kind == END_STREAM && weft_fd_nonblocking(late->file.fd)))
		return -EAGAIN;
	return wait_for(late);
}

static long splice_waits(struct splicing *s)
{
	int empty = 0;

	for (;;) {
		long r = 0;

		/* A socket has no form that does not wait: readiness comes first. */
		while (!r && ((s->in.kind == END_STREAM && !is_ready(&s->in)) ||
				     (s->out.kind == END_STREAM && !is_ready(&s->out))))
			r = wait_for_ends(s);
		if (!r)
			r = splice_once(s);
		else
			return r;
		if (r != -EAGAIN || must_not_wait(s))
			return r;
		if (is_ready(&s->in) && is_ready(&s->out)) {
			/* Somebody else was faster, or a ready end has no room. */
			if (++empty > EMPTY_PROMISES)
				return weft_io_in_kernel(SYS_splice, s->in.file.fd,
					(long)s->off_in, s->out.file.fd, (long)s->off_out,
					(long)s->len, s->flags);
			continue;
		}
		r = wait_for_ends(s);
		if (r < 0)
			return r;
	}
}

long weft_io_splice(
	int in, int64_t *off_in, int out, int64_t *off_out, size_t len, unsigned flags)
{
	struct splicing s = {
		.in = {{in, false}, kind_of(in), POLLIN, 0},
		.out = {{out, false}, kind_of(out), POLLOUT, 0},
		.off_in = off_in,
		.off_out = off_out,
		.len = len,
		.flags = flags,
	};
	long r;

	/* What does not wait, and what is refused. */
	if (!len || bad_offset(off_in) || bad_offset(off_out) ||
		(s.in.kind != END_PIPE && s.out.kind != END_PIPE))
		return weft_sys6(SYS_splice, in, (long)off_in, out, (long)off_out,
			(long)len, flags);
	if (s.in.kind == END_OTHER || s.out.kind == END_OTHER)
		return weft_io_in_kernel(SYS_splice, in, (long)off_in, out, (long)off_out,
			(long)len, flags);
	r = splice_waits(&s);
	weft_held_release(&s.in.file);
	weft_held_release(&s.out.file);
	return r;
}

long weft_io_tee(int in, int out, size_t len, unsigned flags)
{
	struct splicing s = {
		.in = {{in, false}, kind_of(in), POLLIN, 0},
		.out = {{out, false}, kind_of(out), POLLOUT, 0},
		.flags = flags,
	};
	int empty = 0;
	long r;

	for (;;) {
		r = after(weft_sys4(SYS_tee, s.in.file.fd, s.out.file.fd, (long)len,
				  flags | SPLICE_F_NONBLOCK),
			len);
		if (r != -EAGAIN || must_not_wait(&s))
			break;
		if (is_ready(&s.in) && is_ready(&s.out) && ++empty > EMPTY_PROMISES) {
			r = weft_io_in_kernel(SYS_tee, s.in.file.fd, s.out.file.fd,
				(long)len, flags, 0, 0);
			break;
		}
		r = wait_for_ends(&s);
		if (r < 0)
			break;
	}
	weft_held_release(&s.in.file);
	weft_held_release(&s.out.file);
	return r;
}

long weft_io_vmsplice(int fd, const void *iov, size_t n, unsigned flags)
{
	long mode = weft_sys3(SYS_fcntl, fd, F_GETFL, 0);
	struct end e = {{fd, false}, END_PIPE, POLLOUT, 0};
	int empty = 0;
	long r;

	if (!weft_sys_failed(mode) && (mode & O_ACCMODE) == O_RDONLY)
		e.events = POLLIN;
	for (;;) {
		r = after(weft_sys4(SYS_vmsplice, e.file.fd, (long)iov, (long)n,
				  flags | SPLICE_F_NONBLOCK),
			1);
		if (r != -EAGAIN || flags & SPLICE_F_NONBLOCK)
			break;
		if (is_ready(&e) && ++empty > EMPTY_PROMISES) {
			r = weft_io_in_kernel(
				SYS_vmsplice, e.file.fd, (long)iov, (long)n, flags, 0, 0);
			break;
		}
		r = wait_for(&e);
		if (r < 0)
			break;
	}
	weft_held_release(&e.file);
	return r;
}
