/*
 * real.h - libc's own functions behind the wrappers.
 *
 * Wrappers may be called at any moment, even from another library's constructor
 * before ours or from an allocator that is being set up. So nothing here uses
 * dlsym (which may allocate and lock): the slots are filled from libc's dynamic
 * symbol table, read in place, at the first use or in the constructor.
 */
#pragma once
#include <aio.h>
#include <stddef.h>
#include <mqueue.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Fortified twins are declared by no header. */
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(
	struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

struct weft_real {
#define WEFT_CALL(name, version, kind) __typeof__(&name) name;
#include "calls.def"
#undef WEFT_CALL
};
extern struct weft_real weft_real;

/* Fills every slot; idempotent, callable before any constructor. */
void weft_real_init(void);
/* A symbol of libc.so.6 (or of ld.so) by name, in its default version, or NULL. */
void *weft_real_symbol(const char *dso_prefix, const char *name);

/* libc's function, whatever moment it is. */
#define WEFT_REAL(name)                                                                  \
	(__builtin_expect(weft_real.name != NULL, 1)                                     \
			? weft_real.name                                                 \
			: (weft_real_init(), weft_real.name))

#define WEFT_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
}
#endif
