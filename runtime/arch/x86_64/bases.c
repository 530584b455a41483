/*
 * bases.c - FS and GS base where they need system calls, and ES and DS instead of GS
 * base; see context.h.
 */
#include "context.h"

#include <asm/prctl.h>
#include <signal.h>
#include <ucontext.h>

#include "../../atomic.h"
#include "../../sys.h"

int weft_bases;
/* What GS points at where no carrier is: no self, no fiber. Also for thunk.S. */
const uintptr_t weft_nobody[2];

void weft_bases_use_instructions(void)
{
	weft_bases = WEFT_BASES_INSTRUCTIONS;
}

/* 3.7 us on a virtual machine without FSGSBASE: two exits from the guest. */
void weft_set_fs_slow(uintptr_t v)
{
	weft_sys2(SYS_arch_prctl, ARCH_SET_FS, v);
}

int weft_fs_check(void)
{
	if (weft_bases == WEFT_BASES_INSTRUCTIONS)
		return 0;
	return (int)weft_sys2(SYS_arch_prctl, ARCH_SET_FS, weft_rdfsbase());
}

/* ---- FS base on loan ---- */

bool weft_fs_on_loan;
/* Of a SIGILL that somebody sent meanwhile. */
static volatile sig_atomic_t sent;

static void on_illegal(int sig, siginfo_t *si, void *ctx)
{
	greg_t *rip = &((ucontext_t *)ctx)->uc_mcontext.gregs[REG_RIP];

	(void)sig;
	if (si->si_code > 0 && *rip == (greg_t)weft_fs_probe_insn)
		*rip = (greg_t)weft_fs_probe_fixup;
	else
		sent = 1;
}

bool weft_fs_lend(void)
{
	const struct weft_ksigaction probe = {
		.handler = (void *)on_illegal,
		.flags = SA_SIGINFO | 0x04000000 /* SA_RESTORER */,
		.restorer = (void *)weft_restore_rt,
		.mask = ~0ull,
	};
	const uint64_t illegal = 1ull << (SIGILL - 1);
	struct weft_ksigaction was;
	uint64_t pending = 0;

	weft_sys2(SYS_rt_sigpending, &pending, 8);
	if (pending & illegal ||
		weft_sys4(SYS_rt_sigaction, SIGILL, (long)&probe, (long)&was, 8))
		return false;
	weft_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&illegal, 0, 8);
	weft_fs_on_loan = weft_fs_probe();
	weft_sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&illegal, 0, 8);
	weft_sys4(SYS_rt_sigaction, SIGILL, (long)&was, 0, 8);
	if (sent)
		weft_sys2(SYS_kill, weft_sys0(SYS_getpid), SIGILL);
	sent = 0;
	return weft_fs_on_loan;
}

/* ---- … or ES and DS instead of GS base ---- */

/* Pairs of selectors that may be loaded, as they index weft_selected. None has ES 0. */
enum {
	NUMBERS_MAX = 256,
	FIRST_SELECTOR = 4, /* of the null ones before it the processor may make 0 */
};

uintptr_t weft_selected[1 << 2 * WEFT_SELECTOR_BITS];
static uint16_t numbers[NUMBERS_MAX]; /* (c) the first: see GS base */
static unsigned numbers_count;        /* (c) */

static void load_selectors(unsigned number)
{
	unsigned es = number >> WEFT_SELECTOR_BITS;
	unsigned ds = number & ((1 << WEFT_SELECTOR_BITS) - 1);

	/* A signal between two of these finds nobody's. */
	__asm__ volatile("movl %0, %%es; movl %2, %%ds; movl %1, %%es"
			 :
			 : "r"(0), "r"(es), "r"(ds)
			 : "memory");
}

/* May a program load it and read through it? */
static bool loadable(unsigned selector)
{
	bool yes;

	__asm__("verr %w1" : "=@ccz"(yes) : "r"(selector));
	return yes;
}

bool weft_bases_use_selectors(void)
{
	uint8_t usable[1 << WEFT_SELECTOR_BITS];
	unsigned n = 0;
	uint32_t es, ds;

	__asm__ volatile("movl %%es, %0; movl %%ds, %1" : "=r"(es), "=r"(ds));
	if (es || ds)
		return false;
	for (unsigned s = FIRST_SELECTOR; s < sizeof usable; s++)
		if (loadable(s))
			usable[n++] = (uint8_t)s;
	numbers_count = 0;
	for (unsigned i = 0; i < n * n && i < NUMBERS_MAX; i++)
		numbers[numbers_count++] =
			(uint16_t)(usable[i / n] << WEFT_SELECTOR_BITS | usable[i % n]);
	if (!numbers_count)
		return false;
	weft_selected[numbers[0]] = WEFT_SELECTED_BY_GS;
	weft_bases = WEFT_BASES_SELECTORS;
	return true;
}

void weft_bases_forget(void)
{
	for (unsigned i = 1; i < numbers_count; i++)
		weft_selected[numbers[i]] = 0;
}

void weft_bases_drop(uintptr_t v)
{
	for (unsigned i = 1; i < numbers_count; i++) {
		uintptr_t own = v;

		cas_acq_rel(&weft_selected[numbers[i]], &own, 0);
	}
}

static void select_pointer(uintptr_t v)
{
	if (!v) {
		load_selectors(0);
		return;
	}
	for (unsigned i = 1; i < numbers_count; i++) {
		uintptr_t was = 0;

		if (cas_acq_rel(&weft_selected[numbers[i]], &was, v) || was == v) {
			load_selectors(numbers[i]);
			return;
		}
	}
	weft_sys2(SYS_arch_prctl, ARCH_SET_GS, v);
	load_selectors(numbers[0]);
}

void weft_set_gs_slow(uintptr_t v)
{
	if (weft_bases == WEFT_BASES_SELECTORS) {
		select_pointer(v);
		return;
	}
	weft_sys2(SYS_arch_prctl, ARCH_SET_GS, v ? v : (uintptr_t)weft_nobody);
	weft_bases = WEFT_BASES_CALLS;
}

uintptr_t weft_ask_gs(void)
{
	uintptr_t v = 0;

	weft_sys2(SYS_arch_prctl, ARCH_GET_GS, &v);
	return v;
}
