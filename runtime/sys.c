/*
 * sys.c - what the runtime needs of a C library: locks that sleep, memory,
 * clocks, one-line messages. Callable from any kernel thread at any time.
 */
#include "sys.h"

#include <elf.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>

#include "atomic.h"
#include "lock.h"

/* ---- locks ---------------------------------------------------------------- */

enum { SPINS = 100 };

void weft_lock_slow(struct weft_lock *l)
{
	for (int i = 0; i < SPINS; i++) {
		int free = 0;

		__builtin_ia32_pause();
		if (load_relaxed(&l->word) == 0 && cas_acq_rel(&l->word, &free, 1))
			return;
	}
	while (xchg_acq_rel(&l->word, 2) != 0)
		weft_sys4(SYS_futex, (long)&l->word, FUTEX_WAIT_PRIVATE, 2, 0);
}

void weft_unlock_slow(struct weft_lock *l)
{
	weft_sys3(SYS_futex, (long)&l->word, FUTEX_WAKE_PRIVATE, 1);
}

/* ---- fault injection ------------------------------------------------------ */

static unsigned fault_left[WEFT_FAULT_KINDS];

void weft_fault_arm(enum weft_fault kind, unsigned nth)
{
	fault_left[kind] = nth;
}

int weft_fault_hits(enum weft_fault kind)
{
	if (likely(load_relaxed(&fault_left[kind]) == 0))
		return 0;
	return __atomic_sub_fetch(&fault_left[kind], 1, __ATOMIC_RELAXED) == 0;
}

/* ---- memory --------------------------------------------------------------- */

long weft_sys_map(size_t len, int prot, int flags)
{
	if (weft_fault_hits(WEFT_FAULT_MMAP))
		return -ENOMEM;
	return weft_sys6(
		SYS_mmap, 0, (long)len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

long weft_sys_unmap(void *addr, size_t len)
{
	return weft_sys2(SYS_munmap, addr, len);
}

/*
 * Word by word for what the runtime copies all the time (a hundred bytes): REP takes
 * thirty cycles to start.
 */
enum { SMALL = 256 };

void weft_memset(void *p, int c, size_t n)
{
	uint64_t word = 0x0101010101010101ull * (unsigned char)c;
	char *d = p;

	if (n > SMALL) {
		__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
		return;
	}
	for (; n >= 8; n -= 8, d += 8)
		__builtin_memcpy(d, &word, 8);
	while (n--)
		*d++ = (char)c;
}

void weft_memcpy(void *to, const void *from, size_t n)
{
	const char *s = from;
	char *d = to;

	if (n > SMALL) {
		__asm__ volatile("rep movsb"
				 : "+D"(to), "+S"(from), "+c"(n)
				 :
				 : "memory");
		return;
	}
	for (; n >= 8; n -= 8, d += 8, s += 8) {
		uint64_t word;

		__builtin_memcpy(&word, s, 8);
		__builtin_memcpy(d, &word, 8);
	}
	while (n--)
		*d++ = *s++;
}

/*
 * gcc turns struct copies and array initialisers into calls of these two. They
 * must not reach libc's, which use vector registers that a site has to preserve.
 */
void *memset(void *p, int c, size_t n);
void *memcpy(void *restrict d, const void *restrict s, size_t n);

__attribute__((used)) void *memset(void *p, int c, size_t n)
{
	weft_memset(p, c, n);
	return p;
}

__attribute__((used)) void *memcpy(void *restrict d, const void *restrict s, size_t n)
{
	weft_memcpy(d, s, n);
	return d;
}

/* ---- the vDSO ------------------------------------------------------------- */

int (*weft_vdso_clock_gettime)(int, struct timespec *);
static int (*vdso_getcpu)(unsigned *, unsigned *, void *);

static const void *vdso_symbol(uintptr_t base, const char *want)
{
	const Elf64_Ehdr *eh = (const void *)base;
	const Elf64_Phdr *ph = (const void *)(base + eh->e_phoff);
	const Elf64_Dyn *dyn = NULL;
	const Elf64_Sym *sym = NULL;
	const char *str = NULL;
	const uint32_t *hash = NULL;
	uintptr_t bias = 0;

	for (int i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_LOAD)
			bias = base + ph[i].p_offset - ph[i].p_vaddr;
		if (ph[i].p_type == PT_DYNAMIC)
			dyn = (const void *)(base + ph[i].p_offset);
	}
	for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
		const void *p = (const void *)(bias + dyn->d_un.d_ptr);

		if (dyn->d_tag == DT_SYMTAB)
			sym = p;
		else if (dyn->d_tag == DT_STRTAB)
			str = p;
		else if (dyn->d_tag == DT_HASH)
			hash = p;
	}
	if (!sym || !str || !hash)
		return NULL;
	for (uint32_t i = 0; i < hash[1]; i++) {
		const char *a = str + sym[i].st_name, *b = want;

		while (*a && *a == *b)
			a++, b++;
		if (*a == *b && sym[i].st_shndx != SHN_UNDEF)
			return (const void *)(bias + sym[i].st_value);
	}
	return NULL;
}

void weft_vdso_init(uintptr_t vdso)
{
	if (!vdso)
		return;
	weft_vdso_clock_gettime = (int (*)(int, struct timespec *))vdso_symbol(
		vdso, "__vdso_clock_gettime");
	vdso_getcpu = (int (*)(unsigned *, unsigned *, void *))vdso_symbol(
		vdso, "__vdso_getcpu");
}

unsigned weft_cpu_here(void)
{
	unsigned cpu = 0;

	if (likely(vdso_getcpu))
		vdso_getcpu(&cpu, NULL, NULL);
	else
		weft_sys3(SYS_getcpu, (long)&cpu, 0, 0);
	return cpu;
}

int weft_clock_get(int clock, struct timespec *ret)
{
	if (likely(weft_vdso_clock_gettime))
		return weft_vdso_clock_gettime(clock, ret);
	return (int)weft_sys2(SYS_clock_gettime, clock, ret);
}

uint64_t weft_now_ns(void)
{
	struct timespec t;

	weft_clock_get(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- messages ------------------------------------------------------------- */

const char *weft_format_u64(char *buf, uint64_t v)
{
	char tmp[20];
	int n = 0, o = 0;

	do {
		tmp[n++] = (char)('0' + v % 10);
	} while (v /= 10);
	while (n)
		buf[o++] = tmp[--n];
	buf[o] = 0;
	return buf;
}

static size_t put(char *buf, size_t at, size_t max, const char *s)
{
	while (*s && at < max)
		buf[at++] = *s++;
	return at;
}

static void write_all(const char *s, size_t n)
{
	while (n) {
		long w = weft_sys3(SYS_write, 2, (long)s, (long)n);

		if (w == -EINTR)
			continue;
		if (w <= 0)
			return; /* stderr is gone: nobody left to tell */
		s += w;
		n -= (size_t)w;
	}
}

void weft_log_parts(const char *first, ...)
{
	char buf[512];
	size_t at = put(buf, 0, 480, "weft: ");
	va_list ap;

	va_start(ap, first);
	for (const char *s = first; s; s = va_arg(ap, const char *))
		at = put(buf, at, 480, s);
	va_end(ap);
	buf[at++] = '\n';
	write_all(buf, at);
}

void weft_log_text(const char *text, size_t n)
{
	write_all(text, n);
}

void weft_log(const char *line)
{
	weft_log_parts(line, NULL);
}

static void die(void) __attribute__((noreturn));
static void die(void)
{
	long pid = weft_sys0(SYS_getpid), tid = weft_sys0(SYS_gettid);
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} dfl = {0, 0, 0, 0};
	unsigned long set = 1ul << 5; /* SIGABRT */

	weft_sys4(SYS_rt_sigaction, 6, (long)&dfl, 0, 8);
	weft_sys4(SYS_rt_sigprocmask, 1, (long)&set, 0, 8);
	weft_sys3(SYS_tgkill, pid, tid, 6);
	for (;;)
		weft_sys1(SYS_exit_group, 134);
}

void weft_bug_error(const char *what, long error)
{
	char digits[24], *at = digits + sizeof digits - 1;
	unsigned long n = error < 0 ? -(unsigned long)error : (unsigned long)error;

	*at = 0;
	do
		*--at = (char)('0' + n % 10);
	while (n /= 10);
	weft_log_parts("bug: ", what, ", error ", at, " (please report this)", NULL);
	die();
}

void weft_bug(const char *what)
{
	weft_log_parts("bug: ", what, " (please report this)", NULL);
	die();
}
