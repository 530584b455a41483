/* io_impl.h - what the files behind io.h share. */
#pragma once
#include "io.h"
#include "sched_impl.h"

/* ---- io.c: waiting on the engine ------------------------------------------ */

/* Descriptors that one poll may have in the ring: a bit each on the fiber's stack. */
enum { WEFT_POLL_MANY = 16384 };

/*
 * The file that a call works on. Its number may stop meaning it while the fiber
 * waits (close, dup2 by another thread), but a blocked call stays with its file:
 * whoever closes the number first gives the waiting fiber another one.
 */
struct weft_held {
	int fd;
	bool moved; /* fd is ours, to be closed by weft_held_release */
};

static inline void weft_held_release(struct weft_held *h)
{
	if (unlikely(h->moved))
		weft_sys1(SYS_close, h->fd);
}

/* Readiness: revents (> 0), -ETIMEDOUT, -EINTR, -EBADF, … */
long weft_io_wait_ready(struct weft_held *h, unsigned events, uint64_t deadline,
	enum weft_park_reason reason);
/*
 * The same for 1 to WEFT_POLL_MANY descriptors, one of them at least not negative:
 * >= 0 when something happened to one of them.
 */
long weft_io_wait_many(
	struct pollfd *fds, unsigned n, uint64_t deadline, enum weft_park_reason reason);
/*
 * recv(fd, buf, len, 0) as one operation of the ring: a blocking socket's. -EAGAIN when
 * there only is readiness, and that has come.
 */
long weft_io_ring_recv(struct weft_held *h, void *buf, size_t len);
/*
 * sendmsg(fd, msg, flags), or send(fd, buf, len, flags) where msg is NULL, which the
 * ring makes together with those of others: the result, which may be -EINTR or -ENOMEM
 * when nothing was sent.
 */
long weft_io_ring_send(
	int fd, const struct msghdr *msg, const void *buf, size_t len, int flags);
/* WEFT_STRESS=wouldblock: through the ring once before the first attempt. */
void weft_io_pretend_to_block(int fd, unsigned events);

static inline bool weft_io_forced_to_fail(void)
{
	return unlikely(weft_rt.config.stress_wouldblock);
}

/* ---- descriptor.c: what a descriptor says about itself -------------------- */

enum weft_kind { WEFT_KIND_UNKNOWN, WEFT_KIND_SOCKET, WEFT_KIND_FILE, WEFT_KIND_OTHER };

/* What it was last time; a hint that every user of it verifies. */
enum weft_kind weft_fd_hint(int fd);
void weft_fd_set_hint(int fd, enum weft_kind kind);
/* What it is (fstat). */
enum weft_kind weft_fd_kind(int fd);
bool weft_fd_nonblocking(int fd);
/* getsockopt(2): 0 or -EXXX. */
long weft_fd_option(int fd, int level, int option, void *value, unsigned size);
/* One of SOL_SOCKET's that is an int; `otherwise` where there is none. */
int weft_fd_int_option(int fd, int option, int otherwise);
bool weft_fd_is_stream(int fd); /* SOCK_STREAM */
/* Does it send SIGPIPE with EPIPE? Pipes, streams and SCTP do; datagrams and the packets
 * of AF_UNIX do not. */
bool weft_fd_breaks_with_signal(int fd);
/* Can others see when it is let go of? What it was when that was asked first. */
bool weft_fd_others_see(int fd);
/* A file that another process or machine answers for (FUSE, NFS …). Of files only. */
bool weft_fd_is_served(int fd);
/*
 * Does the kernel ask by it, and wait for the answer inside the calls of others, where no
 * signal reaches them? userfaultfd(2), fuse(4), fanotify(7), seccomp_unotify(2). Not of
 * numbers from 65536 on.
 */
bool weft_fd_kernel_asks(int fd);
int weft_fd_poll_now(int fd, unsigned events);
/* SO_RCVTIMEO or SO_SNDTIMEO as a deadline; `option` 0: none. */
uint64_t weft_fd_deadline(int fd, int option);
/* SO_RCVLOWAT. */
size_t weft_fd_low_water(int fd);
/* Does any socket have a time-out or a low-water mark? */
bool weft_fd_timeouts_possible(void);
/* The calling fiber just saw EAGAIN on fd: its next poll there will block. */
void weft_fd_note_again(int fd, unsigned events);
/*
 * Do receives on fd usually find nothing? Then the attempt is saved, and the ring
 * makes the whole transfer. Learned from the attempts that are still made.
 */
bool weft_fd_likely_blocks(int fd);
void weft_fd_learn(int fd, bool blocked);
/* f receives or sends there. Was it the one that did so last? */
bool weft_fd_spoken_by(int fd, const struct fiber *f);
/* A duplicate where it does not disturb the lowest free numbers, or -EXXX. */
int weft_fd_duplicate(int fd);
/* Marks fd as waited for; see weft_io_closing. */
void weft_fd_busy(int fd, int delta);

/* ---- transfer.c ----------------------------------------------------------- */

size_t weft_iov_total(const struct iovec *iov, size_t n);
/* The part of iov[] behind the first `skip` bytes, at most `room` entries; how many. */
int weft_iov_rest(
	const struct iovec *iov, size_t n, size_t skip, struct iovec *out, int room);

/* ---- answer.c: answers that are given together ----------------------------- */

/*
 * The calling fiber is about to send len bytes, and its flags. Is it to do that with
 * weft_io_ring_send()? Asked once for each message.
 */
bool weft_answer_joins(int fd, size_t len, int flags);
/* One more is in c's ring. On its own thread. */
void weft_answer_queued(struct carrier *c);

/* ---- file.c: read and write at the position of a regular file ------------- */

long weft_file_read(int fd, const struct iovec *iov, int n);
long weft_file_write(int fd, const struct iovec *iov, int n);

/* ---- offload.c ------------------------------------------------------------ */

/* A system call on a helper thread; a signal for the fiber ends it with -EINTR. */
long weft_io_in_kernel(long nr, long a, long b, long c, long d, long e, long f);
/* The same for what only waits for a disk, which needs nobody else to get on. */
long weft_io_on_disk(long nr, long a, long b, long c, long d, long e, long f);
