/*
 * unwind.h - who called whom on a stack that nobody runs on; see walk.h for its user.
 *
 * The knowledge is libunwind's. It lives in a module of its own, libweft-unwind.so, which
 * is opened only when it is needed, and at activation: libweft.so itself needs no library
 * but libc. The module is asked about one frame at a time and keeps nothing; whatever it
 * reads of the process it reads through the host.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded library, or the program, as the loader knows it. */
struct weft_module {
	const char *path;      /* the loader's string: "" is the program itself */
	uintptr_t base;        /* what its addresses are relative to */
	uintptr_t from, to;    /* where it is mapped */
	uintptr_t unwind_info; /* its .eh_frame_hdr, 0: none */
};

/* The module that has this address. From any kernel thread, without locks. */
typedef bool weft_module_find_fn(uintptr_t address, struct weft_module *ret);

/* What a call keeps for its caller, and where it is. */
enum weft_unwind_register {
	WEFT_UNWIND_PC,
	WEFT_UNWIND_SP,
	WEFT_UNWIND_BP,
	WEFT_UNWIND_BX,
	WEFT_UNWIND_R12,
	WEFT_UNWIND_R13,
	WEFT_UNWIND_R14,
	WEFT_UNWIND_R15,
	WEFT_UNWIND_REGISTERS,
};

struct weft_unwind_frame {
	uint64_t reg[WEFT_UNWIND_REGISTERS];
	bool exact; /* pc is an instruction to come, not the one behind a call */
};

/*
 * How to get from a frame with this pc to its caller, whatever the registers are.
 *   SIMPLE  CFA = reg[base] + cfa; the caller's sp is the CFA, its pc at CFA + pc_at or
 *           always the same; each other register is unchanged or at CFA - 8 * saved
 *   OUTER   nobody called it
 *   HARD    none of these: to be asked with the registers, each time
 */
enum weft_unwind_kind {
	WEFT_UNWIND_SIMPLE = 1,
	WEFT_UNWIND_OUTER,
	WEFT_UNWIND_HARD,
};

struct weft_unwind_rule {
	uint8_t kind;
	uint8_t base;    /* enum weft_unwind_register */
	bool pc_known;   /* the caller's pc is always `pc` */
	bool signal;     /* what it interrupted goes on at exactly that pc */
	bool has_module; /* the pc lies in one, so that its end will be noticed */
	uint8_t saved[WEFT_UNWIND_REGISTERS]; /* 0: unchanged */
	int32_t cfa, pc_at;
	uint64_t pc;
};

struct weft_unwind_host {
	/* Reads a word; 0, or -EFAULT where there is nothing to read. */
	int (*load)(uint64_t address, uint64_t *ret);
	weft_module_find_fn *find;
};

/*
 * Both are called by one kernel thread at a time, with thread-local storage that may be a
 * carrier's (no errno, no variables of others), on 16 KiB of stack or more.
 */
struct weft_unwind {
	void (*rule)(uint64_t pc, bool exact, struct weft_unwind_rule *ret);
	/* 1: *f is the caller now; 0: there is none; negative: nobody knows. */
	int (*step)(struct weft_unwind_frame *f);
};

/* libweft-unwind.so's only export; NULL when libunwind does not work here. */
#define WEFT_UNWIND_OPEN_NAME "weft_unwind_open"
typedef const struct weft_unwind *weft_unwind_open_fn(const struct weft_unwind_host *);

#ifdef __cplusplus
}
#endif
