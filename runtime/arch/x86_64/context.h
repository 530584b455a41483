/*
 * context.h - the layout of a stopped fiber's stack, shared by C and assembly.
 *
 * A stopped fiber is one stack pointer. It points at:
 *   +0   mxcsr (4), x87 control word (2), padding
 *   +8   r15 r14 r13 r12 rbx rbp
 *   +56  return address
 * Caller-saved registers are dead (the C ABI) or kept by whoever cares: vector
 * registers by weft_park for fibers that came through a site, general registers
 * by the site's entry.
 */
#pragma once

#define WEFT_CTX_SIZE 64

/*
 * struct weft_regs: the general registers at a site, pushed by weft_site_entry.
 * A new fiber made by clone/clone3 starts from such a frame.
 */
#define WEFT_REGS_R15  0
#define WEFT_REGS_R14  8
#define WEFT_REGS_R13  16
#define WEFT_REGS_R12  24
#define WEFT_REGS_RBP  32
#define WEFT_REGS_RBX  40
#define WEFT_REGS_R9   48
#define WEFT_REGS_R8   56
#define WEFT_REGS_R10  64
#define WEFT_REGS_RDX  72
#define WEFT_REGS_RSI  80
#define WEFT_REGS_RDI  88
#define WEFT_REGS_RAX  96
#define WEFT_REGS_RAW  104 /* r11 of the thunk: address of its own syscall */
#define WEFT_REGS_MASK 112 /* of a real clone's child; keeps the stack aligned */
#define WEFT_REGS_RSP  120 /* the caller's stack pointer */
#define WEFT_REGS_RIP  128 /* as RAW: where an unwinder goes on, in the thunk */
#define WEFT_REGS_SIZE 136
#define WEFT_RED_ZONE  128

/* First words of struct carrier, reached through GS base. */
#define WEFT_GS_SELF    0
#define WEFT_GS_CURRENT 8

/* Numbers the dispatch table knows; anything above goes to the kernel. */
#define WEFT_SYSCALL_TABLE_SIZE 512

/* Fields of struct fiber that signal.S touches; checked in signals.c. */
#define WEFT_FIBER_IN_WEFT   0x28
#define WEFT_FIBER_ATTENTION 0x2c

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct weft_regs {
	uint64_t r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi;
	uint64_t rax;
	uint64_t raw;
	uint64_t mask;
	uint64_t rsp;
	uint64_t rip;
};

#ifndef __cplusplus
_Static_assert(sizeof(struct weft_regs) == WEFT_REGS_SIZE, "regs");
_Static_assert(offsetof(struct weft_regs, raw) == WEFT_REGS_RAW, "regs");
_Static_assert(offsetof(struct weft_regs, rip) == WEFT_REGS_RIP, "regs");
#endif

/*
 * Saves the running context's stack pointer in *save and continues at `load`,
 * a stack pointer saved the same way. Returns when somebody switches back.
 */
void weft_switch(void **save, void *load);

/* Prepares a first stack that calls fn(arg) at its first switch. fn never returns. */
void *weft_context_make(void *stack_top, void (*fn)(void *), void *arg);
/*
 * Prepares a first stack for the child of clone/clone3: all registers as in
 * `regs` but rax = 0 and rsp = stack_top, continuing after the thunk's syscall.
 */
void *weft_context_make_clone(void *stack_top, const struct weft_regs *regs);

/*
 * The vector state of a fiber that stopped at a site, where nothing may change.
 * The usual case (only XMM in use) costs sixteen moves; anything else goes
 * through XSAVEC into `area` (weft_vector_size() bytes, 64-byte aligned).
 */
size_t weft_vector_size(void);
void weft_vector_init(void);
void weft_vector_save(void *area);
void weft_vector_restore(const void *area);

/*
 * FS and GS base. Where the kernel does not keep what the FSGSBASE instructions write
 * (AT_HWCAP2 says so: before 5.9, or a hypervisor that hides the feature; the next
 * context switch loses it, also when the instructions themselves work), the bases are
 * set by system calls, and read back from the first word of what they point at: a
 * thread control block and a struct carrier both begin with their own address. A GS
 * base once set is never 0 then: threads inherit their creator's, and those that have
 * no carrier get weft_nobody, whose first words are 0.
 *
 * Such a kernel also takes 9 us more to switch to a thread with a GS base and back, under
 * a hypervisor that has to be asked. So GS base is left alone where ES and DS can say
 * whose a kernel thread is: 64-bit code does not use them, and the kernel keeps both for
 * each thread (arch/x86/kernel/process_64.c, __switch_to). Each pair of selectors that
 * may be loaded is a number, and weft_selected has the carrier of that number. What is
 * called GS base everywhere else is then this pointer.
 */
enum weft_bases {
	WEFT_BASES_UNSET,        /* system calls; no GS base has been set so far */
	WEFT_BASES_CALLS,        /* system calls */
	WEFT_BASES_INSTRUCTIONS, /* FSGSBASE */
	WEFT_BASES_SELECTORS     /* FS by system calls; ES and DS instead of GS */
};
extern int weft_bases; /* (c) enum weft_bases, from the start of the process on */
void weft_bases_use_instructions(void);
/* False, and nothing is changed, if the program has something in ES or DS. */
bool weft_bases_use_selectors(void);
/* In a fork child, or when the memory at v is about to go: no thread is v's any more. */
void weft_bases_forget(void);
void weft_bases_drop(uintptr_t v);

/* [selectors] 6 bits each; 0: nobody. Those that found no number are found by GS. */
enum { WEFT_SELECTOR_BITS = 6, WEFT_SELECTED_BY_GS = 1 };
extern uintptr_t weft_selected[1 << 2 * WEFT_SELECTOR_BITS]; /* (a) */

static inline uintptr_t weft_selected_pointer(void)
{
	const uint32_t mask = (1 << WEFT_SELECTOR_BITS) - 1;
	uint32_t es, ds;
	uintptr_t v;

	__asm__ volatile("movl %%es, %0; movl %%ds, %1" : "=r"(es), "=r"(ds));
	v = __atomic_load_n(
		&weft_selected[(es & mask) << WEFT_SELECTOR_BITS | (ds & mask)],
		__ATOMIC_RELAXED);
	if (__builtin_expect(v == WEFT_SELECTED_BY_GS, 0))
		__asm__ volatile("movq %%gs:%c1, %0" : "=r"(v) : "i"(WEFT_GS_SELF));
	return v;
}

/* By system calls, and weft_nobody for 0; or by selectors. */
void weft_set_gs_slow(uintptr_t v);
void weft_set_fs_slow(uintptr_t v);
/* Asks the kernel: also before anything was set. */
uintptr_t weft_ask_gs(void);

static inline uintptr_t weft_rdgsbase(void)
{
	uintptr_t v;

	if (__builtin_expect(weft_bases == WEFT_BASES_INSTRUCTIONS, 1))
		__asm__ volatile("rdgsbase %0" : "=r"(v));
	else if (weft_bases == WEFT_BASES_SELECTORS)
		return weft_selected_pointer();
	else if (weft_bases == WEFT_BASES_UNSET)
		return 0;
	else
		__asm__ volatile("movq %%gs:%c1, %0" : "=r"(v) : "i"(WEFT_GS_SELF));
	return v;
}

static inline void weft_wrgsbase(uintptr_t v)
{
	if (__builtin_expect(weft_bases == WEFT_BASES_INSTRUCTIONS, 1))
		__asm__ volatile("wrgsbase %0" : : "r"(v) : "memory");
	else
		weft_set_gs_slow(v);
}

/* libc's own: every thread control block begins with its address. */
static inline uintptr_t weft_rdfsbase(void)
{
	uintptr_t v;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(v));
	return v;
}

static inline void weft_wrfsbase(uintptr_t v)
{
	if (__builtin_expect(weft_bases == WEFT_BASES_INSTRUCTIONS, 1))
		__asm__ volatile("wrfsbase %0" : : "r"(v) : "memory");
	else
		weft_set_fs_slow(v);
}

/*
 * FS base on loan. Where the FSGSBASE instructions work although the kernel knows nothing
 * of them (a hypervisor that hides them, but runs its guest's programs with them), a
 * carrier tells the kernel once that its FS base is WEFT_FS_LOST, and writes that of each
 * fiber by an instruction: 16 ns instead of 3.7 us. The kernel's next switch of threads
 * puts WEFT_FS_LOST back (arch/x86/kernel/process_64.c, load_seg_legacy). All of a thread
 * control block is then in the first page, which is never mapped (vm.mmap_min_addr is
 * that of the second one at least), and what thread-local storage has in front of it in
 * the kernel's half of the address space: the next access faults, and the handler writes
 * FS base again. It can do so at any instruction, as no code that blocks SIGSEGV or runs
 * in the handler reads through FS. Not 0, which the kernel takes for none at all.
 */
enum { WEFT_FS_LOST = 0x40 };
extern bool weft_fs_on_loan; /* (c) once there are carriers */
/* 0, or -EXXX: a filter does not let FS base be set by system calls. */
int weft_fs_check(void);
/* Tries whether the instructions work. Signals are blocked, on the only thread. */
bool weft_fs_lend(void);
int weft_fs_probe(void);
extern const char weft_fs_probe_insn[], weft_fs_probe_fixup[];

static inline void weft_fs_write(uintptr_t v)
{
	__asm__ volatile("wrfsbase %0" : : "r"(v) : "memory");
}

/* (on loan only) */
static inline uintptr_t weft_fs_read(void)
{
	uintptr_t v;

	__asm__ volatile("rdfsbase %0" : "=r"(v) : : "memory");
	return v;
}

static inline bool weft_fs_is_lost(void)
{
	return __builtin_expect(weft_fs_on_loan, 0) && weft_fs_read() == WEFT_FS_LOST;
}

static inline uint64_t weft_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* The restorer of weft's own signal handlers; signal.S. */
void weft_restore_rt(void);

long weft_clone_thread(unsigned long flags, void *stack_top, void (*fn)(void *),
	void *arg, int *child_tid);

/* Reads the 32-bit word at p; 0, or -EFAULT when the page is not readable. */
int weft_load_user(const uint32_t *p, uint32_t *ret);
/* The same for 64 bits. */
int weft_load_word(const uint64_t *p, uint64_t *ret);
/* Compares and swaps a word of the program's: 1, 0 or -EFAULT. */
int weft_cas_user(uint32_t *p, uint32_t *expected, uint32_t desired);
/* Copies from or to memory of the program's; 0, or -EFAULT when a page is not there. */
int weft_copy_user(void *d, const void *s, size_t n);
/* For the SIGSEGV handler: instructions that may fault, and where all continue. */
extern const char weft_load_user_insn[], weft_load_word_insn[], weft_cas_user_insn[],
	weft_copy_user_insn[], weft_load_user_fixup[];

#ifdef __cplusplus
}
#endif
#endif /* !__ASSEMBLER__ */
