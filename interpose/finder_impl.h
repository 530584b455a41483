/*
 * finder_impl.h - what the parts of the finder share: the image, functions,
 * instructions, and what is known about each byte of text. Nobody else's.
 *
 * finder_image.c reads ELF, finder_unwind.c the unwind tables, finder_decode.c
 * the instructions, finder_live.c follows vector registers, site_finder.c decides.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "interpose/site_finder.h"

enum func_flag {
	FUNC_VECTOR = 1,     /* touches a vector, mask or x87 register */
	FUNC_TAINTED = 2,    /* int3, undecodable, or its range is not trustworthy */
	FUNC_INDIRECT = 4,   /* has an indirect jump */
	FUNC_UNRESOLVED = 8, /* ... whose table was not found */
	FUNC_RETURNS = 16,
	FUNC_GAP = 32,     /* no FDE: what lies between two */
	FUNC_FALLS = 64,   /* its last instruction runs on into the next function */
	FUNC_LIVE_IN = 128 /* some caller keeps a vector register across its call */
};

struct func {
	uint32_t start, end;
	uint32_t flags;
	uint32_t edge;     /* first of its outgoing edges */
	uint32_t arm;      /* first of its switches' arms */
	uint32_t insn;     /* first of its instructions */
	uint64_t clobbers; /* vector registers it, or what it calls, writes */
};

/* A direct branch or call that leaves its function; both ends as indices. */
struct edge {
	uint32_t from, to;
	bool call;
};

struct insn {
	uint32_t rva;
	uint32_t target; /* direct branches: where to; later its index, or NO_INSN */
	uint8_t kind;
	uint64_t read, write; /* vector registers, as bits */
	uint64_t live;        /* those whose value may be read from here on */
};
#define NO_INSN UINT32_MAX

enum insn_kind {
	INSN_PLAIN,
	INSN_CALL,
	INSN_CALL_INDIRECT,
	INSN_JMP,
	INSN_JCC,
	INSN_JMP_INDIRECT,
	INSN_RET,
	INSN_STOP, /* hlt, ud2, int3: nothing comes after */
};

struct vec {
	void *data;
	size_t count, room;
};

struct finder {
	const struct weft_image *img;
	uint32_t text, text_end;
	struct {
		uint32_t start, end;
	} load[16];
	unsigned loads;
	uint64_t dyn, eh_hdr;
	uint64_t strtab, symtab, gnu_hash, sysv_hash;

	uint8_t *starts, *targets, *rows; /* bitmaps over text */
	uint8_t *taken;                   /* bitmap over the image: data addresses */
	struct vec insn;                  /* struct insn, ascending */
	struct vec func;                  /* struct func, ascending */
	struct vec edge;                  /* struct edge, ascending from */
	struct vec arm;                   /* uint32_t (like a target), by function */
	struct vec syscall;               /* uint32_t, ascending */
	struct vec sym;                   /* struct symbol, ascending */
	struct vec site, left, names;
	uint32_t excluded;

	ZydisDecoder decoder;
	bool failed; /* out of memory somewhere below */
};

static inline bool in_text(const struct finder *f, uint64_t rva)
{
	return rva >= f->text && rva < f->text_end;
}

static inline bool bit(const struct finder *f, const uint8_t *map, uint32_t rva)
{
	uint32_t i = rva - f->text;

	return map[i / 8] >> (i % 8) & 1;
}

static inline void set_bit(const struct finder *f, uint8_t *map, uint64_t rva)
{
	if (in_text(f, rva)) {
		uint32_t i = (uint32_t)rva - f->text;

		map[i / 8] |= (uint8_t)(1u << (i % 8));
	}
}

/* Some bit set strictly between the two ends. */
static inline bool bit_inside(
	const struct finder *f, const uint8_t *map, uint32_t start, uint32_t end)
{
	for (uint32_t a = start + 1; a < end; a++)
		if (bit(f, map, a))
			return true;
	return false;
}

static inline const struct func *funcs(const struct finder *f)
{
	return f->func.data;
}

/* The function an address of text lies in; they cover all of it. */
static inline uint32_t func_at(const struct finder *f, uint32_t rva)
{
	const struct func *fn = funcs(f);
	size_t lo = 0, hi = f->func.count;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (fn[mid].start <= rva)
			lo = mid;
		else
			hi = mid;
	}
	return (uint32_t)lo;
}

/* ---- finder_image.c ---------------------------------------------------------- */

/* A zeroed element at the end of `v`, or NULL: then f->failed. */
void *weft_finder_push(struct finder *f, struct vec *v, size_t size);
/* The bytes of [rva, rva + len), or NULL when no segment holds them all. */
const uint8_t *weft_finder_at(const struct finder *f, uint64_t rva, uint64_t len);
bool weft_finder_read(const struct finder *f, uint64_t rva, void *to, size_t len);

/* A cursor that stays at its end once something did not fit. */
struct cursor {
	uint64_t rva, end;
	bool bad;
};

uint64_t weft_finder_take(const struct finder *f, struct cursor *c, unsigned len);
int64_t weft_finder_take_leb(const struct finder *f, struct cursor *c, bool is_signed);

enum {
	DW_EH_PE_omit = 0xff,
	DW_EH_PE_pcrel = 0x10,
	DW_EH_PE_datarel = 0x30,
	DW_EH_PE_indirect = 0x80,
};

/* A pointer as .eh_frame encodes them, as rva. Indirect ones are not followed. */
uint64_t weft_finder_take_encoded(
	const struct finder *f, struct cursor *c, uint8_t enc, uint64_t data);
/* Segments, soname, build-id; then .dynamic with relocations; .dynsym. 0 or -EXXX. */
int weft_finder_read_headers(struct finder *f, struct weft_site_table *t);
int weft_finder_read_dynamic(struct finder *f, struct weft_site_table *t);
int weft_finder_read_symbols(struct finder *f);
/* A name for an address, as an offset into f->names. */
uint32_t weft_finder_name_of(struct finder *f, uint32_t rva);

/* ---- finder_unwind.c --------------------------------------------------------- */

/* Fills f->func and f->rows from .eh_frame, landing pads into f->targets. 0 or -EXXX. */
int weft_finder_read_functions(struct finder *f);

/* ---- finder_decode.c --------------------------------------------------------- */

bool weft_finder_decode(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecoderContext *ctx, ZydisDecodedInstruction *in);
bool weft_finder_decode_full(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecodedInstruction *in, ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT]);
/* Where the instruction that ends at `rva` starts, or 0. */
uint32_t weft_finder_previous(
	const struct finder *f, const struct func *fn, uint32_t rva);
uint8_t weft_finder_kind_of(const ZydisDecodedInstruction *in);
bool weft_finder_rip_relative(const ZydisDecodedInstruction *in);
/* The 64-bit register that a general register is a part of. */
ZydisRegister weft_finder_wide(ZydisRegister r);
/* One pass over a function: boundaries, branch targets, sites, what it is made of. */
void weft_finder_sweep(struct finder *f, uint32_t index);
/* After all were swept: where a function's indirect jumps go. */
void weft_finder_resolve_indirect(struct finder *f, struct func *fn);

/* ---- finder_live.c ----------------------------------------------------------- */

void weft_finder_close_over_calls(struct finder *f);
/* Marks FUNC_LIVE_IN. 0 or -ENOMEM. */
int weft_finder_mark_live_across_calls(struct finder *f);
