/*
 * sites.h - the `syscall` instructions of libc.so.6 and ld.so, and their thunks.
 *
 * A *site* is one `syscall` instruction. Two bytes are too few for a jump, so a
 * site is replaced together with instructions beside it: its *span*. Which spans
 * are safe is decided by site_finder.c, either when weft is built (the table is
 * compiled in, keyed by build-id) or, for a libc nobody has seen, at activation
 * (libweft-sites.so). This part only verifies, fills thunks and patches; it
 * trusts a table no further than that every original byte must match.
 *
 * A span becomes `jmp thunk`. The thunk (128 bytes in weft_thunk_area):
 *
 *	+0	the instructions moved from before the syscall
 *		lea raw(%rip), %r11
 *		jmp weft_site_entry	rax = number, r11 = raw
 *	raw:	syscall			weft_site_entry jumps here to go native,
 *		the instructions moved from after it	<- and here, raw+2, when done
 *		jmp end of the span
 *	+104	const struct weft_site *
 *	+112	const struct weft_site_table *
 *	+120	the address just after the original syscall instruction
 *
 * What survives from the jump into the thunk to weft_site_entry: every register,
 * the flags and the stack below rsp (red zone), except r11. weft_site_entry must
 * return to raw or raw+2 with everything but rax, rcx and r11 as it was.
 *
 * Unwinders see a frame between the program's and weft's: pc in the slot, CFA
 * equal to rsp, the caller's pc the word at +120, as if a signal had interrupted
 * libc right after its syscall. So weft_site_entry's own CFI has to give raw (or
 * anything up to raw+2) as return address.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_SLOT_SIZE  128 /* also in thunk_area.S and its CFI */
#define WEFT_SLOT_CODE  104 /* bytes of code a slot can hold */
#define WEFT_SLOT_COUNT 768 /* Debian 12 needs 669; a multiple of 32 (pages) */
#define WEFT_SPAN_MAX   24
#define WEFT_DSO_MAX    4 /* libc, the loader, liburing, libgomp */

enum weft_site_flag {
	/*
	 * No x87, MMX, SSE, AVX or mask register can hold a value of the program
	 * at this site: neither its function nor a part of it that was split off
	 * touches one, and no caller keeps one alive across its call (compilers do
	 * when they know what a local callee clobbers: -fipa-ra).
	 */
	WEFT_SITE_NO_VECTOR = 1,
};

/* Why a site is not patched. The first two come from the running process. */
#define WEFT_SITE_REASONS(X)                                                             \
	X(BREAKPOINT, "a debugger's breakpoint is in the way")                           \
	X(TAINTED, "its function holds an int3 or bytes that do not decode")             \
	X(BRANCH, "a branch leads into every span wide enough")                          \
	X(MOVE, "its neighbours cannot be moved")                                        \
	X(FRAME, "the unwind table has a row inside every span wide enough")             \
	X(INDIRECT, "its function has an indirect jump whose table was not found")       \
	X(RANGE, "its span does not fit a slot")

enum weft_site_reason {
#define WEFT_SITE_REASON(name, text) WEFT_SITE_##name,
	WEFT_SITE_REASONS(WEFT_SITE_REASON)
#undef WEFT_SITE_REASON
		WEFT_SITE_REASON_COUNT
};

struct weft_site {
	uint32_t rva;   /* of the syscall instruction; the span is */
	uint8_t before; /*   [rva - before, rva + 2 + after) */
	uint8_t after;
	uint8_t rip_disp; /* 1 + offset in the span of a disp32 to fix, 0: none */
	uint8_t flags;    /* enum weft_site_flag */
	uint32_t name;    /* offset into the table's names */
	uint32_t func;    /* rva of the function's start */
	uint8_t orig[WEFT_SPAN_MAX]; /* the span's bytes */
};

struct weft_site_left {
	uint32_t rva;
	uint32_t name;
	uint32_t reason; /* enum weft_site_reason */
};

struct weft_site_table {
	const char *soname;
	uint8_t build_id[32];
	uint32_t build_id_len;
	uint32_t count; /* ascending rva; spans do not overlap */
	const struct weft_site *site;
	uint32_t left_count;
	const struct weft_site_left *left;
	uint32_t excluded; /* rt_sigreturn: never patched, by design */
	uint32_t names_len;
	const char *names;
};

/* One loaded DSO. The pointers lead into the loader's own data. */
struct weft_dso {
	const char *name; /* last component of the path it was loaded from */
	uintptr_t base;
	uintptr_t text, text_end; /* its only executable segment */
	const uint8_t *build_id;
	size_t build_id_len;
};

/* The tables made when weft was built (sitegen.c); [weft_site_table_count]. */
extern const struct weft_site_table weft_site_tables[];
extern const unsigned weft_site_table_count;

struct weft_slot {
	uint8_t code[WEFT_SLOT_CODE];
	const struct weft_site *site;
	const struct weft_site_table *table;
	uintptr_t after_syscall;
};

struct weft_sites_report {
	struct {
		const char *soname;
		unsigned patched, left;
	} dso[WEFT_DSO_MAX];
	unsigned dso_count;
	unsigned patched, left;
	unsigned no_vector;    /* of the patched ones */
	int wrote_through_mem; /* W^X is enforced: /proc/self/mem was used */
};

/*
 * Finds the loaded DSO whose file name starts with `prefix` ("libc.so",
 * "ld-linux-x86-64.so") in the loader's list, without its locks and without
 * allocating. -ENOENT, or -ENOEXEC when it is no DSO this module understands.
 */
int weft_dso_find(const char *prefix, struct weft_dso *ret);

/* The compiled-in table for exactly this build of the DSO, or NULL. */
const struct weft_site_table *weft_sites_table(const struct weft_dso *dso);

/*
 * Patches all sites of the tables, or nothing. The caller has blocked all signals
 * and is the only thread: while pages are being written neither libc nor ld.so is
 * executable. Tables (and what they point to) must live as long as the process.
 *
 * -ESTALE   the running text is not what a table was made from
 * -ERANGE   weft and a DSO lie more than 2 GiB apart
 * -ENOSPC   more sites than slots
 * -EACCES   the system allows neither way of writing text
 * -EBUSY    already installed
 * or what mprotect said. On failure the text is as it was.
 */
int weft_sites_install(const struct weft_dso *const dsos[],
	const struct weft_site_table *const tables[], unsigned n,
	struct weft_sites_report *ret);

/*
 * Puts every original byte back; for an activation that failed later on. No
 * thread may be inside a thunk. 0, or -EXXX with everything still installed.
 */
int weft_sites_uninstall(void);

/*
 * Walks the sites that are not patched: start with *cursor = 0; returns 1 and
 * fills the three (any may be NULL), 0 at the end.
 */
int weft_sites_next_left(unsigned *cursor, const char **ret_soname, const char **ret_name,
	const char **ret_reason);

/* -- what a thunk says about itself; `raw` is any address within its slot ------ */

static inline const struct weft_slot *weft_slot_of(uintptr_t raw)
{
	return (const struct weft_slot *)(raw & -(uintptr_t)WEFT_SLOT_SIZE);
}

static inline const struct weft_site *weft_slot_site(const struct weft_slot *s)
{
	return s->site;
}

/* Where the program goes on, as a debugger would see it natively. */
static inline uintptr_t weft_slot_return_address(const struct weft_slot *s)
{
	return s->after_syscall;
}

/* "read", or "pthread_create+0x5c" where libc has no symbol for the function. */
static inline const char *weft_site_name(const struct weft_slot *s)
{
	return s->table->names + s->site->name;
}

static inline const char *weft_site_soname(const struct weft_slot *s)
{
	return s->table->soname;
}

/* The span's first byte in the DSO. */
static inline uintptr_t weft_slot_span(const struct weft_slot *s)
{
	return s->after_syscall - 2 - s->site->before;
}

/* True for an address in the thunk area (a fault's or a signal's pc, say). */
int weft_in_thunk(uintptr_t pc);

/* libweft-sites.so's only export; see sites_plugin.c. 0 or -EXXX. */
#define WEFT_SITES_DECODE_NAME "weft_sites_decode"
typedef int weft_sites_decode_fn(const struct weft_dso *dso, struct weft_site_table *ret);

#ifdef __cplusplus
}
#endif
