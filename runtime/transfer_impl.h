/* transfer_impl.h - what transfer.c and gather.c share. */
#pragma once
#include <sys/socket.h>

#include "io_impl.h"

struct incoming {
	struct weft_held file;
	int flags;
	void *addr, *addrlen; /* recvfrom */
	struct msghdr *msg;   /* recvmsg */
	struct iovec iov;     /* recv */
	enum weft_tried tried;
};

/* One attempt, as it was asked for and with `extra` flags. */
long weft_receive(const struct incoming *in, int extra);
/* On a helper thread. A signal ends it. */
long weft_receive_in_kernel(const struct incoming *in);
/*
 * Waits as long as the socket's own time-out says; *deadline is 0 before the call's first
 * wait. Readiness, -EAGAIN when the time is over, -EINTR or WEFT_RESTART_NEVER.
 */
long weft_wait_as_told(struct weft_held *file, unsigned events, int option,
	uint64_t *deadline, enum weft_park_reason reason);
/* An error of a TCP connection that was not told yet: the next call has to tell it. */
bool weft_tcp_error_waits(int fd);

/* ---- gather.c ------------------------------------------------------------- */

/*
 * A receive that is not content with what is there, of a blocking socket: `low` is its
 * low-water mark. False when it is content.
 */
bool weft_gathers(const struct incoming *in, size_t low);
long weft_gather(struct incoming *in, size_t low);
