/*
 * sys.h - the runtime's own way into the kernel.
 *
 * Every system call weft makes for itself is issued here, from libweft's own
 * text, and never through libc: libc's sites lead back to weft, libc's wrappers
 * write errno (which belongs to whichever fiber's TLS happens to be loaded), and
 * libc may be unexecutable while its text is being patched.
 *
 * All functions return what the kernel returns: >= 0, or -EXXX.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline long weft_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long weft_sys4(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long weft_sys3(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

#define weft_sys0(nr)                weft_sys3(nr, 0, 0, 0)
#define weft_sys1(nr, a)             weft_sys3(nr, (long)(a), 0, 0)
#define weft_sys2(nr, a, b)          weft_sys3(nr, (long)(a), (long)(b), 0)
#define weft_sys5(nr, a, b, c, d, e) weft_sys6(nr, a, b, c, d, e, 0)

static inline int weft_sys_failed(long r)
{
	return (unsigned long)r > -4096UL;
}

/*
 * Fault injection (WEFT_FAULT=mmap:3): the n-th call of a kind fails. The
 * countdowns are plain words: they are set once, before the first carrier.
 */
enum weft_fault {
	WEFT_FAULT_MMAP,
	WEFT_FAULT_IO_URING_SETUP,
	WEFT_FAULT_IO_URING_ENTER,
	WEFT_FAULT_CLONE,
	WEFT_FAULT_ENABLE, /* a further carrier's engine; for unit tests */
	WEFT_FAULT_KINDS,
};
void weft_fault_arm(enum weft_fault kind, unsigned nth);
/* True when this call of `kind` is the one that has to fail. */
int weft_fault_hits(enum weft_fault kind);

/* As rt_sigaction(2) takes it. */
struct weft_ksigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

/* Anonymous private memory, or -ENOMEM. `flags` adds to MAP_PRIVATE|MAP_ANONYMOUS. */
long weft_sys_map(size_t len, int prot, int flags);
long weft_sys_unmap(void *addr, size_t len);

/* CLOCK_MONOTONIC in nanoseconds, through the vDSO when weft_vdso_init found one. */
uint64_t weft_now_ns(void);
/* clock_gettime for any clock; 0 or -EXXX. */
struct timespec;
int weft_clock_get(int clock, struct timespec *ret);
/* The vDSO's, NULL until found. */
extern int (*weft_vdso_clock_gettime)(int, struct timespec *);
/* Looks the vDSO's functions up; `vdso` is AT_SYSINFO_EHDR or 0. */
void weft_vdso_init(uintptr_t vdso);
/* The CPU that the caller runs on: getcpu(2). It may be another one by now. */
unsigned weft_cpu_here(void);

/* One line on stderr, made on the stack, written by one write(2). */
void weft_log(const char *line);
/* The same from pieces; the list ends with NULL. Longer than 480 bytes is cut. */
void weft_log_parts(const char *first, ...) __attribute__((sentinel));
/* Text that its owner has made into lines. */
void weft_log_text(const char *text, size_t n);
/* A broken promise of weft's own: says it, and aborts the process. */
void weft_bug(const char *what) __attribute__((noreturn));
/* `error`: the errno of the call that must not fail, negative or not. */
void weft_bug_error(const char *what, long error) __attribute__((noreturn));

#ifndef NDEBUG
#define weft_assert(cond)                                                                \
	do {                                                                             \
		if (!(cond))                                                             \
			weft_bug(#cond);                                                 \
	} while (0)
#else
#define weft_assert(cond) ((void)sizeof(!(cond)))
#endif

/* "123" into buf (at least 21 bytes); returns buf. */
const char *weft_format_u64(char *buf, uint64_t v);

static inline bool weft_same_text(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

void weft_memset(void *p, int c, size_t n);
void weft_memcpy(void *d, const void *s, size_t n);

#ifdef __cplusplus
}
#endif
