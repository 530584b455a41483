/*
 * io.h - blocking calls on descriptors, with the blocking call's contract met in
 * full, for fibers.
 *
 * Every function may park the calling fiber and returns what the system call
 * would: >= 0 or -EXXX. -EINTR means that a signal wants the fiber and nothing
 * was transferred; whether the call restarts is the caller's business.
 * None of them ever changes a flag of the program's descriptors.
 *
 * The order is: the transfer in a non-blocking form; when it would block, the
 * descriptor's own O_NONBLOCK and time-outs decide; then readiness through the
 * ring, and the transfer again, until the blocking contract is met.
 */
#pragma once
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A first attempt found nothing, and the descriptor is a blocking one. */
#define WEFT_WOULD_BLOCK (-4096)
/* No attempt was made: only the full call knows what to do. */
#define WEFT_FULL_PATH (-4097)
/* No attempt was made, because the last ones on this descriptor would have blocked. */
#define WEFT_LIKELY_BLOCKS (-4098)

/*
 * How a call ends that a signal interrupted, beside plain -EINTR (which restarts
 * after handlers with SA_RESTART, signal(7)). The kernel's own numbers.
 */
#define WEFT_RESTART_ALWAYS (-513) /* ERESTARTNOINTR: whatever the handler says */
#define WEFT_RESTART_NEVER  (-514) /* ERESTARTNOHAND: EINTR if any handler ran */

/* What the front door found out, for the call that follows at libc's site. */
enum weft_tried { WEFT_TRIED_NOT, WEFT_TRIED_BLOCKS, WEFT_TRIED_LIKELY };

/*
 * First attempts, for the front door: the call's result, or one of the above.
 * They do not park but for the rest of a partly sent message and for an answer that is
 * given with others (answer.c), and never return the -EAGAIN of a blocking descriptor.
 */
long weft_io_try_recv(int fd, void *buf, size_t len, int flags);
long weft_io_try_send(int fd, const void *buf, size_t len, int flags);
long weft_io_try_read(int fd, void *buf, size_t len);
long weft_io_try_write(int fd, const void *buf, size_t len);

/* What is written there is somebody's answer: a socket, and not where a log may go. */
bool weft_io_answers(int fd);

/* The calls themselves. */
long weft_io_read(int fd, const struct iovec *iov, int count, enum weft_tried tried);
long weft_io_write(int fd, const struct iovec *iov, int count, enum weft_tried tried);
long weft_io_recv(int fd, void *buf, size_t len, int flags, void *addr, void *addrlen,
	enum weft_tried tried);
long weft_io_send(int fd, const void *buf, size_t len, int flags, const void *addr,
	unsigned addrlen, enum weft_tried tried);
long weft_io_recvmsg(int fd, struct msghdr *msg, int flags);
long weft_io_sendmsg(int fd, const struct msghdr *msg, int flags);
long weft_io_recvmmsg(int fd, struct mmsghdr *vec, unsigned n, unsigned flags,
	const struct timespec *t);
long weft_io_sendmmsg(int fd, struct mmsghdr *vec, unsigned n, unsigned flags);
/* preadv2, pwritev2 and their kin, at >= 0. */
long weft_io_pread(int fd, const struct iovec *iov, int n, int64_t at, int flags);
long weft_io_pwrite(int fd, const struct iovec *iov, int n, int64_t at, int flags);
long weft_io_sendfile(int out, int in, int64_t *off, size_t count);
long weft_io_splice(
	int in, int64_t *off_in, int out, int64_t *off_out, size_t len, unsigned flags);
long weft_io_tee(int in, int out, size_t len, unsigned flags);
long weft_io_vmsplice(int fd, const void *iov, size_t n, unsigned flags);
long weft_io_accept(int fd, void *addr, void *addrlen, int flags);
long weft_io_connect(int fd, const void *addr, unsigned len);
long weft_io_try_poll(struct pollfd *fds, unsigned n, int timeout_ms);
long weft_io_poll(
	struct pollfd *fds, unsigned n, uint64_t deadline_ns, enum weft_tried tried);
/* A futex word in memory shared with other processes, which the kernel waits for. */
long weft_io_futex_shared(
	uint32_t *word, uint32_t val, uint32_t bitset, uint64_t deadline_ns);
/* waitid without a result; options should have WNOWAIT (weft_ring_can_waitid). */
long weft_io_wait_child(int idtype, int id, int options);
long weft_io_select(int n, void *in, void *out, void *ex, uint64_t deadline_ns);
long weft_io_epoll_wait(int epfd, void *events, int max, uint64_t deadline_ns);

/* The numbers first..last are about to be closed, or to mean another file. */
void weft_io_closing(unsigned first, unsigned last);
/* … and they do now. */
void weft_io_closed(unsigned first, unsigned last);
/* SO_RCVTIMEO, SO_SNDTIMEO or SO_RCVLOWAT may be set on some socket from now on. */
void weft_io_expect_timeouts(void);
/* Looks at the descriptors that exist already; see above. */
void weft_io_scan_descriptors(void);

#ifdef __cplusplus
}
#endif
