/*
 * site_finder.c - proves which `syscall` instructions can be replaced.
 *
 * A jump needs five bytes and a syscall has two, so neighbours must move into a
 * thunk with it. That is safe when
 *
 *  - nothing can arrive strictly inside the span. Code can be reached by a direct
 *    branch; through an address some lea or relocation or symbol gives away;
 *    through a switch table (32-bit offsets added to a base); from an unwinder
 *    (landing pads); by returning from a call. All text is decoded for the first
 *    two, tables are read for the third, LSDAs for the fourth, and calls are never
 *    moved, which settles the fifth. What cannot be settled (a table not found,
 *    bytes that do not decode) taints the function, and its sites are left alone.
 *  - what moves means the same elsewhere: no branches, nothing that reads rip but
 *    for one memory operand whose displacement is fixed, nothing that touches rsp
 *    (the thunk's unwind entry says CFA = rsp, and the red zone stays put), and
 *    nothing that could tell that rcx and r11 are gone, which the syscall
 *    clobbers anyway and the thunk uses a little earlier.
 *  - one row of the unwind table describes the whole span.
 *
 * Functions are FDE ranges; what lies between two of them (Debian's clone() ends
 * its FDE just before the syscall) is decoded as a function of its own. Stripped
 * libcs have no other function boundaries.
 *
 * Rejected: trusting a linear sweep of .text (hand-written padding desynchronises
 * it); asking for section headers (not mapped, and not there in every image);
 * looking for branch targets only within the function (.cold parts).
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* -- small things --------------------------------------------------------------- */

static void *push(struct finder *f, struct vec *v, size_t size)
{
	if (v->count == v->room) {
		size_t room = v->room ? v->room * 2 : 64;
		void *p = realloc(v->data, room * size);

		if (!p) {
			f->failed = true;
			return NULL;
		}
		v->data = p;
		v->room = room;
	}
	void *p = (char *)v->data + v->count++ * size;
	memset(p, 0, size);
	return p;
}

static bool in_text(const struct finder *f, uint64_t rva)
{
	return rva >= f->text && rva < f->text_end;
}

static bool bit(const struct finder *f, const uint8_t *map, uint32_t rva)
{
	uint32_t i = rva - f->text;

	return map[i / 8] >> (i % 8) & 1;
}

static void set_bit(const struct finder *f, uint8_t *map, uint64_t rva)
{
	if (in_text(f, rva)) {
		uint32_t i = (uint32_t)rva - f->text;

		map[i / 8] |= (uint8_t)(1u << (i % 8));
	}
}

/* Some bit set strictly between the two ends. */
static bool bit_inside(
	const struct finder *f, const uint8_t *map, uint32_t start, uint32_t end)
{
	for (uint32_t a = start + 1; a < end; a++)
		if (bit(f, map, a))
			return true;
	return false;
}

static const struct func *funcs(const struct finder *f)
{
	return f->func.data;
}

/* The function an address of text lies in; they cover all of it. */
static uint32_t func_at(const struct finder *f, uint32_t rva)
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

/* -- reading the image ------------------------------------------------------------ */

/* The bytes of [rva, rva + len), or NULL when no segment holds them all. */
static const uint8_t *at(const struct finder *f, uint64_t rva, uint64_t len)
{
	for (unsigned i = 0; i < f->loads; i++)
		if (rva >= f->load[i].start && rva < f->load[i].end &&
			len <= f->load[i].end - rva)
			return f->img->base + rva;
	return NULL;
}

static bool read_bytes(const struct finder *f, uint64_t rva, void *to, size_t len)
{
	const uint8_t *p = at(f, rva, len);

	if (p)
		memcpy(to, p, len);
	return p != NULL;
}

/* A name: ends within its segment, and could stand in a C string. Or NULL. */
static const char *string_at(const struct finder *f, uint64_t rva)
{
	for (uint64_t p = rva;; p++) {
		const uint8_t *c = at(f, p, 1);

		if (!c)
			return NULL;
		if (!*c)
			return (const char *)f->img->base + rva;
		if (*c <= ' ' || *c >= 0x7f || *c == '"' || *c == '\\')
			return NULL;
	}
}

/* A cursor that stays at its end once something did not fit. */
struct cursor {
	uint64_t rva, end;
	bool bad;
};

static uint64_t take(const struct finder *f, struct cursor *c, unsigned len)
{
	uint64_t v = 0;

	if (c->bad || c->end - c->rva < len || !read_bytes(f, c->rva, &v, len)) {
		c->bad = true;
		return 0;
	}
	c->rva += len;
	return v;
}

static int64_t take_leb(const struct finder *f, struct cursor *c, bool is_signed)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = (uint8_t)take(f, c, 1);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while (b & 0x80 && !c->bad);
	if (is_signed && b & 0x40 && shift < 64)
		v |= ~(uint64_t)0 << shift;
	return (int64_t)v;
}

enum {
	DW_EH_PE_omit = 0xff,
	DW_EH_PE_pcrel = 0x10,
	DW_EH_PE_datarel = 0x30,
	DW_EH_PE_indirect = 0x80,
};

/* A pointer as .eh_frame encodes them, as rva. Indirect ones are not followed. */
static uint64_t take_encoded(
	const struct finder *f, struct cursor *c, uint8_t enc, uint64_t data)
{
	uint64_t here = c->rva, v;

	if (enc == DW_EH_PE_omit)
		return 0;
	switch (enc & 0x0f) {
	case 0x00: /* absptr */
	case 0x04: /* udata8 */
	case 0x0c: /* sdata8 */
		v = take(f, c, 8);
		break;
	case 0x01:
		v = (uint64_t)take_leb(f, c, false);
		break;
	case 0x09:
		v = (uint64_t)take_leb(f, c, true);
		break;
	case 0x02:
		v = take(f, c, 2);
		break;
	case 0x0a:
		v = (uint64_t)(int64_t)(int16_t)take(f, c, 2);
		break;
	case 0x03:
		v = take(f, c, 4);
		break;
	case 0x0b:
		v = (uint64_t)(int64_t)(int32_t)take(f, c, 4);
		break;
	default:
		c->bad = true;
		return 0;
	}
	if (!v)
		return 0;
	switch (enc & 0x70) {
	case DW_EH_PE_pcrel:
		return v + here;
	case DW_EH_PE_datarel:
		return v + data;
	default:
		return v;
	}
}

static int read_headers(struct finder *f, struct weft_site_table *t)
{
	const uint8_t *base = f->img->base;
	const ElfW(Ehdr) *eh = (const void *)base;

	if (f->img->size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
		eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64 ||
		eh->e_phentsize != sizeof(ElfW(Phdr)) || eh->e_phoff % 8 ||
		eh->e_phoff > f->img->size ||
		eh->e_phoff + (uint64_t)eh->e_phnum * sizeof(ElfW(Phdr)) > f->img->size)
		return -ENOEXEC;

	const ElfW(Phdr) *ph = (const void *)(base + eh->e_phoff);
	unsigned texts = 0;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_DYNAMIC)
			f->dyn = ph[i].p_vaddr;
		if (ph[i].p_type == PT_GNU_EH_FRAME)
			f->eh_hdr = ph[i].p_vaddr;
		if (ph[i].p_type != PT_LOAD)
			continue;
		if (f->loads == 16 || ph[i].p_vaddr + ph[i].p_memsz > f->img->size)
			return -ENOEXEC;
		f->load[f->loads].start = (uint32_t)ph[i].p_vaddr;
		f->load[f->loads++].end = (uint32_t)(ph[i].p_vaddr + ph[i].p_memsz);
		if (!(ph[i].p_flags & PF_X))
			continue;
		f->text = (uint32_t)ph[i].p_vaddr;
		f->text_end = (uint32_t)(ph[i].p_vaddr + ph[i].p_memsz);
		texts++;
	}
	if (texts != 1 || !f->dyn || !f->eh_hdr)
		return -ENOEXEC;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_NOTE)
			continue;
		uint64_t p = ph[i].p_vaddr, end = p + ph[i].p_memsz;
		ElfW(Nhdr) n;

		while (p + sizeof(n) <= end && read_bytes(f, p, &n, sizeof(n))) {
			uint64_t desc = p + sizeof(n) + ((n.n_namesz + 3u) & ~3u);

			if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 &&
				n.n_descsz <= sizeof(t->build_id) &&
				read_bytes(f, desc, t->build_id, n.n_descsz))
				t->build_id_len = n.n_descsz;
			p = desc + ((n.n_descsz + 3u) & ~3u);
		}
	}
	return t->build_id_len ? 0 : -ENOEXEC;
}

/* The loader adds the base to some of the dynamic section's pointers, in place. */
static uint64_t unrelocate(const struct finder *f, uint64_t v)
{
	uint64_t base = (uint64_t)(uintptr_t)f->img->base;

	return v >= base && v - base < f->img->size ? v - base : v;
}

/* Anything the dynamic section or a relocation points to can be jumped to. */
static int read_dynamic(struct finder *f, struct weft_site_table *t)
{
	uint64_t rela = 0, rela_len = 0, jmprel = 0, jmprel_len = 0, relr = 0,
		 relr_len = 0, soname = 0;
	bool has_soname = false;
	ElfW(Dyn) d;

	for (uint64_t p = f->dyn;; p += sizeof(d)) {
		if (!read_bytes(f, p, &d, sizeof(d)))
			return -ENOEXEC;
		uint64_t ptr = unrelocate(f, d.d_un.d_ptr);

		switch (d.d_tag) {
		case DT_STRTAB:
			f->strtab = ptr;
			break;
		case DT_SYMTAB:
			f->symtab = ptr;
			break;
		case DT_GNU_HASH:
			f->gnu_hash = ptr;
			break;
		case DT_HASH:
			f->sysv_hash = ptr;
			break;
		case DT_SONAME:
			soname = d.d_un.d_val;
			has_soname = true;
			break;
		case DT_RELA:
			rela = ptr;
			break;
		case DT_RELASZ:
			rela_len = d.d_un.d_val;
			break;
		case DT_JMPREL:
			jmprel = ptr;
			break;
		case DT_PLTRELSZ:
			jmprel_len = d.d_un.d_val;
			break;
		case DT_RELR:
			relr = ptr;
			break;
		case DT_RELRSZ:
			relr_len = d.d_un.d_val;
			break;
		case DT_INIT:
		case DT_FINI:
			set_bit(f, f->targets, ptr);
			break;
		}
		if (d.d_tag == DT_NULL)
			break;
	}
	const char *name = has_soname ? string_at(f, f->strtab + soname) : NULL;

	if (!name || !f->symtab)
		return -ENOEXEC;
	t->soname = strdup(name);
	if (!t->soname)
		return -ENOMEM;

	for (int which = 0; which < 2; which++) {
		uint64_t p = which ? jmprel : rela;
		uint64_t n = (which ? jmprel_len : rela_len) / sizeof(ElfW(Rela));
		ElfW(Rela) r;

		for (uint64_t i = 0; i < n; i++, p += sizeof(r)) {
			if (!read_bytes(f, p, &r, sizeof(r)))
				return -ENOEXEC;
			uint64_t type = ELF64_R_TYPE(r.r_info);

			if (type == R_X86_64_RELATIVE || type == R_X86_64_IRELATIVE)
				set_bit(f, f->targets, (uint64_t)r.r_addend);
		}
	}
	/* A packed relocation's addend is the word itself, perhaps relocated by now. */
	uint64_t where = 0, entry, word;

	for (uint64_t i = 0; i < relr_len / 8; i++) {
		if (!read_bytes(f, relr + i * 8, &entry, 8))
			return -ENOEXEC;
		if (!(entry & 1)) {
			if (read_bytes(f, entry, &word, 8))
				set_bit(f, f->targets, unrelocate(f, word));
			where = entry + 8;
			continue;
		}
		for (unsigned b = 0; b < 63; b++)
			if (entry >> (b + 1) & 1 &&
				read_bytes(f, where + b * 8, &word, 8))
				set_bit(f, f->targets, unrelocate(f, word));
		where += 63 * 8;
	}
	return 0;
}

/* -- symbols: only .dynsym, for names ----------------------------------------------- */

struct symbol {
	uint32_t start, end;
	const char *name;
};

/* "read" is a better name than "__read": fewest underscores, then shortest. */
static int name_cmp(const char *a, const char *b)
{
	size_t ua = strspn(a, "_"), ub = strspn(b, "_");

	if (ua != ub)
		return ua < ub ? -1 : 1;
	if (strlen(a) != strlen(b))
		return strlen(a) < strlen(b) ? -1 : 1;
	return strcmp(a, b);
}

static int symbol_cmp(const void *pa, const void *pb)
{
	const struct symbol *a = pa, *b = pb;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end > b->end ? -1 : 1;
	return name_cmp(a->name, b->name);
}

static uint32_t symbol_count(const struct finder *f)
{
	uint32_t head[4], count = 0, v;

	if (f->sysv_hash && read_bytes(f, f->sysv_hash, head, 8))
		return head[1];
	if (!f->gnu_hash || !read_bytes(f, f->gnu_hash, head, sizeof(head)))
		return 0;
	uint64_t bucket = f->gnu_hash + 16 + 8ull * head[2];
	uint64_t chain = bucket + 4ull * head[0];

	for (uint32_t i = 0; i < head[0]; i++)
		if (read_bytes(f, bucket + 4ull * i, &v, 4) && v > count)
			count = v;
	if (count < head[1])
		return head[1];
	do {
		if (!read_bytes(f, chain + 4ull * (count - head[1]), &v, 4))
			return 0;
		count++;
	} while (!(v & 1));
	return count;
}

static int read_symbols(struct finder *f)
{
	uint32_t n = symbol_count(f);
	ElfW(Sym) s;

	for (uint32_t i = 0; i < n; i++) {
		if (!read_bytes(f, f->symtab + i * sizeof(s), &s, sizeof(s)))
			return -ENOEXEC;
		unsigned type = ELF64_ST_TYPE(s.st_info);

		if (s.st_shndx == SHN_UNDEF || !in_text(f, s.st_value) ||
			(type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE))
			continue;
		set_bit(f, f->targets, s.st_value);
		const char *name = string_at(f, f->strtab + s.st_name);
		struct symbol *sym = name ? push(f, &f->sym, sizeof(*sym)) : NULL;

		if (!sym)
			continue;

		sym->start = (uint32_t)s.st_value;
		sym->end = (uint32_t)(s.st_value + s.st_size);
		sym->name = name;
	}
	if (f->sym.count)
		qsort(f->sym.data, f->sym.count, sizeof(struct symbol), symbol_cmp);
	return f->failed ? -ENOMEM : 0;
}

static uint32_t name_of(struct finder *f, uint32_t rva)
{
	const struct symbol *s = f->sym.data, *best = NULL, *before = NULL;
	char buf[256];

	for (size_t i = 0; i < f->sym.count && s[i].start <= rva; i++) {
		if (rva < s[i].end && (!best || s[i].start > best->start))
			best = &s[i];
		if (!before || s[i].start > before->start)
			before = &s[i];
	}
	if (best)
		snprintf(buf, sizeof(buf), "%s", best->name);
	else if (before)
		snprintf(buf, sizeof(buf), "%s+0x%x", before->name, rva - before->start);
	else
		snprintf(buf, sizeof(buf), "0x%x", rva);

	const char *pool = f->names.data;

	for (size_t i = 0; i < f->names.count; i += strlen(pool + i) + 1)
		if (!strcmp(pool + i, buf))
			return (uint32_t)i;
	uint32_t at = (uint32_t)f->names.count;

	for (const char *c = buf;; c++) {
		char *to = push(f, &f->names, 1);

		if (to)
			*to = *c;
		if (!*c)
			break;
	}
	return at;
}

/* -- functions: the unwind tables ---------------------------------------------------- */

struct cie {
	uint64_t code_align;
	uint64_t init, init_end; /* initial instructions */
	uint8_t fde_enc, lsda_enc;
	bool augmented, signal, ok;
};

static struct cie read_cie(const struct finder *f, uint64_t rva)
{
	struct cie c = {.lsda_enc = DW_EH_PE_omit};
	struct cursor cur = {rva, rva + 4, false};
	uint64_t len = take(f, &cur, 4);
	char aug[8] = "";

	if (!len || len == 0xffffffff)
		return c;
	cur.end = rva + 4 + len;
	uint64_t id = take(f, &cur, 4), version = take(f, &cur, 1);

	if (id != 0 || (version != 1 && version != 3))
		return c;
	for (unsigned i = 0;; i++) {
		if (i == sizeof(aug))
			return c;
		aug[i] = (char)take(f, &cur, 1);
		if (!aug[i])
			break;
	}
	c.code_align = (uint64_t)take_leb(f, &cur, false);
	take_leb(f, &cur, true);
	if (version == 1)
		take(f, &cur, 1);
	else
		take_leb(f, &cur, false);
	c.init_end = cur.end;
	if (aug[0] == 'z') {
		uint64_t n = (uint64_t)take_leb(f, &cur, false);

		c.init = cur.rva + n;
		c.augmented = true;
		for (const char *a = aug + 1; *a; a++) {
			if (*a == 'R') {
				c.fde_enc = (uint8_t)take(f, &cur, 1);
			} else if (*a == 'L') {
				c.lsda_enc = (uint8_t)take(f, &cur, 1);
			} else if (*a == 'P') {
				uint8_t enc = (uint8_t)take(f, &cur, 1);

				take_encoded(f, &cur, enc, 0);
			} else if (*a == 'S') {
				c.signal = true;
			} else if (*a != 'B') {
				return c;
			}
		}
	} else if (aug[0]) {
		return c;
	}
	c.ok = !cur.bad;
	return c;
}

/* Marks where each row of the unwind table begins. False: not understood. */
static bool mark_rows(
	struct finder *f, struct cursor c, const struct cie *cie, uint64_t pc)
{
	while (!c.bad && c.rva < c.end) {
		uint8_t op = (uint8_t)take(f, &c, 1);
		uint64_t step = 0;

		switch (op >> 6) {
		case 1:
			step = op & 0x3f;
			goto advance;
		case 2:
			take_leb(f, &c, false);
			continue;
		case 3:
			continue;
		}
		switch (op) {
		case 0x00: /* nop */
		case 0x0a: /* remember_state */
		case 0x0b: /* restore_state */
		case 0x2d: /* GNU_window_save */
			continue;
		case 0x01: /* set_loc */
			pc = take_encoded(f, &c, cie->fde_enc, 0);
			set_bit(f, f->rows, pc);
			continue;
		case 0x02:
			step = take(f, &c, 1);
			break;
		case 0x03:
			step = take(f, &c, 2);
			break;
		case 0x04:
			step = take(f, &c, 4);
			break;
		case 0x06: /* restore_extended */
		case 0x07: /* undefined */
		case 0x08: /* same_value */
		case 0x0d: /* def_cfa_register */
		case 0x0e: /* def_cfa_offset */
		case 0x13: /* def_cfa_offset_sf */
		case 0x2e: /* GNU_args_size */
			take_leb(f, &c, false);
			continue;
		case 0x05: /* offset_extended */
		case 0x09: /* register */
		case 0x0c: /* def_cfa */
		case 0x11: /* offset_extended_sf */
		case 0x12: /* def_cfa_sf */
		case 0x14: /* val_offset */
		case 0x15: /* val_offset_sf */
		case 0x2f: /* GNU_negative_offset_extended */
			take_leb(f, &c, false);
			take_leb(f, &c, false);
			continue;
		case 0x10: /* expression */
		case 0x16: /* val_expression */
			take_leb(f, &c, false);
			/* fall through */
		case 0x0f: { /* def_cfa_expression */
			uint64_t n = (uint64_t)take_leb(f, &c, false);

			if (c.bad || n > c.end - c.rva)
				return false;
			c.rva += n;
			continue;
		}
		default:
			return false;
		}
	advance:
		pc += step * cie->code_align;
		set_bit(f, f->rows, pc);
	}
	return !c.bad;
}

/* Landing pads are reached from the unwinder. False: not understood. */
static bool mark_landing_pads(struct finder *f, uint64_t lsda, uint32_t start)
{
	struct cursor c = {lsda, f->img->size, false};
	uint8_t enc = (uint8_t)take(f, &c, 1);
	uint64_t lpstart = enc == DW_EH_PE_omit ? start : take_encoded(f, &c, enc, 0);

	enc = (uint8_t)take(f, &c, 1);
	if (enc != DW_EH_PE_omit)
		take_leb(f, &c, false);
	enc = (uint8_t)take(f, &c, 1);
	uint64_t len = (uint64_t)take_leb(f, &c, false);

	if (c.bad || len > f->img->size - c.rva)
		return false;
	c.end = c.rva + len;
	while (!c.bad && c.rva < c.end) {
		take_encoded(f, &c, enc & 0x0f, 0);
		take_encoded(f, &c, enc & 0x0f, 0);
		uint64_t pad = take_encoded(f, &c, enc & 0x0f, 0);

		take_leb(f, &c, false);
		if (pad)
			set_bit(f, f->targets, lpstart + pad);
	}
	return !c.bad;
}

static int add_fde(struct finder *f, uint64_t rva)
{
	struct cursor c = {rva, rva + 4, false};
	uint64_t len = take(f, &c, 4);

	if (c.bad || !len || len == 0xffffffff)
		return -ENOEXEC;
	c.end = rva + 4 + len;
	uint64_t here = c.rva, delta = take(f, &c, 4);

	if (c.bad || delta > here)
		return -ENOEXEC;
	struct cie cie = read_cie(f, here - delta);

	if (!cie.ok)
		return -ENOEXEC;
	uint64_t start = take_encoded(f, &c, cie.fde_enc, 0);
	uint64_t size = take_encoded(f, &c, cie.fde_enc & 0x0f, 0);
	uint64_t lsda = 0;

	if (cie.augmented) {
		uint64_t n = (uint64_t)take_leb(f, &c, false), next = c.rva + n;

		if (cie.lsda_enc != DW_EH_PE_omit)
			lsda = take_encoded(f, &c, cie.lsda_enc, 0);
		if (cie.lsda_enc & DW_EH_PE_indirect && cie.lsda_enc != DW_EH_PE_omit)
			return -ENOEXEC;
		c.rva = next;
	}
	if (c.bad || c.rva > c.end)
		return -ENOEXEC;
	if (!in_text(f, start) || !size || size > f->text_end - start)
		return start ? -ENOEXEC : 0; /* 0: discarded by the linker */

	struct func *fn = push(f, &f->func, sizeof(*fn));

	if (!fn)
		return -ENOMEM;
	/* A signal frame's FDE begins a byte early, so that pc - 1 finds it too. */
	if (cie.signal && size > 1)
		start++, size--;
	fn->start = (uint32_t)start;
	fn->end = (uint32_t)(start + size);
	set_bit(f, f->targets, start);
	set_bit(f, f->rows, start);
	set_bit(f, f->rows, start + size);
	if (!mark_rows(f, c, &cie, start))
		fn->flags |= FUNC_TAINTED;
	if (lsda && !mark_landing_pads(f, lsda, fn->start))
		fn->flags |= FUNC_TAINTED;
	return 0;
}

static int func_cmp(const void *pa, const void *pb)
{
	const struct func *a = pa, *b = pb;

	return a->start < b->start ? -1 : a->start > b->start;
}

/* Reads all FDEs through the sorted table of .eh_frame_hdr, and fills the gaps. */
static int read_functions(struct finder *f)
{
	struct cursor c = {f->eh_hdr, f->img->size, false};
	uint64_t version = take(f, &c, 1);
	uint8_t ptr_enc = (uint8_t)take(f, &c, 1);
	uint8_t count_enc = (uint8_t)take(f, &c, 1);
	uint8_t table_enc = (uint8_t)take(f, &c, 1);

	take_encoded(f, &c, ptr_enc, f->eh_hdr);
	uint64_t n = take_encoded(f, &c, count_enc, f->eh_hdr);

	if (c.bad || version != 1 || !n || table_enc == DW_EH_PE_omit)
		return -ENOEXEC;
	for (uint64_t i = 0; i < n; i++) {
		take_encoded(f, &c, table_enc, f->eh_hdr);
		uint64_t fde = take_encoded(f, &c, table_enc, f->eh_hdr);
		int r = c.bad ? -ENOEXEC : add_fde(f, fde);

		if (r)
			return r;
	}
	if (!f->func.count)
		return -ENOEXEC;
	qsort(f->func.data, f->func.count, sizeof(struct func), func_cmp);

	size_t fdes = f->func.count;
	uint32_t end = f->text;

	for (size_t i = 0; i <= fdes; i++) {
		struct func *fn = f->func.data;
		uint32_t start = i < fdes ? fn[i].start : f->text_end;

		if (start < end) { /* overlapping: neither is what it says */
			fn[i].flags |= FUNC_TAINTED;
			fn[i - 1].flags |= FUNC_TAINTED;
			fn[i - 1].end = start;
		} else if (start > end) {
			struct func *gap = push(f, &f->func, sizeof(*gap));

			if (!gap)
				return -ENOMEM;
			gap->start = end;
			gap->end = start;
			gap->flags = FUNC_GAP;
			fn = f->func.data;
		}
		if (i < fdes && fn[i].end > end)
			end = fn[i].end;
	}
	qsort(f->func.data, f->func.count, sizeof(struct func), func_cmp);
	return 0;
}

/* -- decoding --------------------------------------------------------------------------
 */

static bool decode(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecoderContext *ctx, ZydisDecodedInstruction *in)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
		&f->decoder, ctx, f->img->base + rva, end - rva, in));
}

static bool decode_full(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecodedInstruction *in, ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT])
{
	ZydisDecoderContext ctx;

	return decode(f, rva, end, &ctx, in) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeOperands(
		       &f->decoder, &ctx, in, op, in->operand_count));
}

/* Where the instruction that ends at `rva` starts, or 0. */
static uint32_t previous(const struct finder *f, const struct func *fn, uint32_t rva)
{
	for (uint32_t at = rva; at-- > fn->start;)
		if (bit(f, f->starts, at))
			return at;
	return 0;
}

static uint8_t kind_of(const ZydisDecodedInstruction *in)
{
	bool direct = in->raw.imm[0].is_relative;

	switch (in->meta.category) {
	case ZYDIS_CATEGORY_CALL:
		return direct ? INSN_CALL : INSN_CALL_INDIRECT;
	case ZYDIS_CATEGORY_UNCOND_BR:
		/* xbegin and xabort share the category; xbegin also falls through */
		if (in->mnemonic == ZYDIS_MNEMONIC_XBEGIN)
			return INSN_JCC;
		if (in->mnemonic == ZYDIS_MNEMONIC_XABORT)
			return INSN_PLAIN;
		return direct ? INSN_JMP : INSN_JMP_INDIRECT;
	case ZYDIS_CATEGORY_COND_BR:
		return in->mnemonic == ZYDIS_MNEMONIC_XABORT ? INSN_PLAIN : INSN_JCC;
	case ZYDIS_CATEGORY_RET:
		return INSN_RET;
	default:
		break;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_XBEGIN:
		return INSN_JCC;
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		return INSN_STOP;
	default:
		return INSN_PLAIN;
	}
}

/* Where a rip-relative operand points; only meaningful with rip_relative(). */
static uint64_t rip_target(const ZydisDecodedInstruction *in, uint32_t rva)
{
	return rva + in->length + (uint64_t)in->raw.disp.value;
}

static bool rip_relative(const ZydisDecodedInstruction *in)
{
	return in->attributes & ZYDIS_ATTRIB_HAS_MODRM && in->raw.modrm.mod == 0 &&
	       in->raw.modrm.rm == 5 && in->raw.disp.size == 32;
}

/*
 * Everything that is not known to stay within the general registers counts as a
 * vector instruction; the list errs on that side.
 */
static bool is_vector(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
		return false;
	default:
		break;
	}
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
		/* fxsave and fxrstor are of the base set in some tables */
		return in->meta.category == ZYDIS_CATEGORY_SSE ||
		       in->mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
		       in->mnemonic == ZYDIS_MNEMONIC_FXSAVE64 ||
		       in->mnemonic == ZYDIS_MNEMONIC_FXRSTOR ||
		       in->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_CET:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_PAUSE:
	case ZYDIS_ISA_EXT_PKU:
	case ZYDIS_ISA_EXT_RDPID:
	case ZYDIS_ISA_EXT_RDRAND:
	case ZYDIS_ISA_EXT_RDSEED:
	case ZYDIS_ISA_EXT_RDTSCP:
	case ZYDIS_ISA_EXT_RDWRFSGS:
	case ZYDIS_ISA_EXT_RTM:
		return false;
	default:
		return true;
	}
}

static uint64_t vec_bit(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_ZMM:
		return 1ull << (ZydisRegisterGetId(r) & 31);
	case ZYDIS_REGCLASS_MASK:
		return 1ull << (32 + (ZydisRegisterGetId(r) & 7));
	default: /* compilers empty the x87 stack before any call */
		return 0;
	}
}

/* Which vector registers an instruction reads, and which it fully writes. */
static void vector_effects(const struct finder *f, ZydisDecoderContext *ctx,
	const ZydisDecodedInstruction *in, uint64_t *ret_read, uint64_t *ret_write)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t read = 0, write = 0;

	if (ZYAN_FAILED(ZydisDecoderDecodeOperands(
		    &f->decoder, ctx, in, op, in->operand_count))) {
		*ret_read = UINT64_MAX;
		return;
	}
	for (unsigned i = 0; i < in->operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			read |= vec_bit(op[i].mem.index); /* gathers */
		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
			(op[i].encoding == ZYDIS_OPERAND_ENCODING_MASK &&
				op[i].reg.value == ZYDIS_REGISTER_K0)) /* no mask */
			continue;
		if (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			read |= vec_bit(op[i].reg.value);
		if (op[i].actions & ZYDIS_OPERAND_ACTION_WRITE)
			write |= vec_bit(op[i].reg.value);
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_PXOR: /* x ^ x and x == x do not depend on x */
	case ZYDIS_MNEMONIC_XORPS:
	case ZYDIS_MNEMONIC_XORPD:
	case ZYDIS_MNEMONIC_PCMPEQB:
	case ZYDIS_MNEMONIC_PCMPEQW:
	case ZYDIS_MNEMONIC_PCMPEQD:
	case ZYDIS_MNEMONIC_VPXOR:
	case ZYDIS_MNEMONIC_VXORPS:
	case ZYDIS_MNEMONIC_VPCMPEQD: {
		unsigned last = in->operand_count_visible - 1u;

		if (op[last].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			op[last - 1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			op[last].reg.value == op[last - 1].reg.value)
			read = 0;
		break;
	}
	case ZYDIS_MNEMONIC_VZEROUPPER:
	case ZYDIS_MNEMONIC_EMMS:
		read = write = 0;
		break;
	default:
		break;
	}
	*ret_read = read;
	*ret_write = write;
}

static void add_edge(struct finder *f, uint32_t from, uint32_t to, bool call)
{
	struct edge *e = push(f, &f->edge, sizeof(*e));

	if (e)
		*e = (struct edge){from, func_at(f, to), call};
}

static void sweep_branch(struct finder *f, uint32_t index, struct insn *insn,
	const ZydisDecodedInstruction *in)
{
	const struct func *fn = funcs(f) + index;
	uint64_t to = insn->rva + in->length + (uint64_t)in->raw.imm[0].value.s;
	bool call = insn->kind == INSN_CALL;

	set_bit(f, f->targets, to);
	if (!in_text(f, to))
		return;
	insn->target = (uint32_t)to;
	if (call || to < fn->start || to >= fn->end)
		add_edge(f, index, (uint32_t)to, call);
}

/* One pass over a function: boundaries, branch targets, sites, what it is made of. */
static void sweep(struct finder *f, uint32_t index)
{
	struct func *fn = (struct func *)f->func.data + index;
	uint8_t kind = INSN_STOP;
	ZydisDecoderContext ctx;
	ZydisDecodedInstruction in;

	fn->edge = (uint32_t)f->edge.count;
	fn->insn = (uint32_t)f->insn.count;
	for (uint32_t rva = fn->start; rva < fn->end; rva += in.length) {
		if (!decode(f, rva, fn->end, &ctx, &in)) {
			fn->flags |= FUNC_TAINTED;
			in.length = 1;
			kind = INSN_PLAIN;
			continue;
		}
		struct insn *insn = push(f, &f->insn, sizeof(*insn));

		if (!insn)
			return;
		set_bit(f, f->starts, rva);
		kind = kind_of(&in);
		insn->rva = rva;
		insn->kind = kind;
		insn->target = NO_INSN;
		if (is_vector(&in)) {
			fn->flags |= FUNC_VECTOR;
			vector_effects(f, &ctx, &in, &insn->read, &insn->write);
			fn->clobbers |= insn->write;
		}
		if (in.mnemonic == ZYDIS_MNEMONIC_SYSCALL) {
			uint32_t *at = push(f, &f->syscall, sizeof(*at));

			if (at)
				*at = rva;
		}
		/* int3 is padding in a gap, elsewhere a debugger's; what it hides
		 * could be a branch. */
		if (in.mnemonic == ZYDIS_MNEMONIC_INT3 && !(fn->flags & FUNC_GAP))
			fn->flags |= FUNC_TAINTED;
		if (rip_relative(&in)) {
			uint64_t to = rip_target(&in, rva);

			set_bit(f, f->targets, to);
			if (in.mnemonic == ZYDIS_MNEMONIC_LEA && to < f->img->size)
				f->taken[to / 8] |= (uint8_t)(1u << to % 8);
		}
		if (kind == INSN_CALL || kind == INSN_JMP || kind == INSN_JCC)
			sweep_branch(f, index, insn, &in);
		else if (kind == INSN_JMP_INDIRECT)
			fn->flags |= FUNC_INDIRECT;
		else if (kind == INSN_CALL_INDIRECT)
			fn->clobbers = UINT64_MAX;
		else if (kind == INSN_RET)
			fn->flags |= FUNC_RETURNS;
	}
	if (kind == INSN_PLAIN || kind == INSN_JCC)
		fn->flags |= FUNC_FALLS;
}

/* -- indirect jumps
 * ---------------------------------------------------------------------- */

/*
 * The target of an indirect jump is an address somebody took (a lea, a relocation:
 * those are targets already), one a call or the kernel saved, or a sum. Only the
 * sum needs work: a switch table of 32-bit offsets to some base. Which table goes
 * with which jump would take data flow; instead each address of constant data the
 * function mentions is read as a table, relative to itself and, in case of a
 * computed goto, to each label the function mentions. Other data read as a table
 * ends at once, because its words lead out of the text.
 */
struct leas {
	uint32_t data[256], code[64];
	unsigned datas, codes;
	bool overflow;
};

static unsigned mark_table(struct finder *f, uint32_t table, uint32_t base)
{
	bool own = true; /* nobody else's address has been passed yet */
	size_t arms = f->arm.count;
	unsigned n = 0;
	int32_t off;

	for (;; n++) {
		uint64_t p = table + 4ull * n;

		if (!read_bytes(f, p, &off, 4))
			break;
		uint64_t to = (uint64_t)((int64_t)base + off);

		if (!in_text(f, to) || !bit(f, f->starts, (uint32_t)to))
			break;
		/* Reading on into the next table makes up targets, which is the safe
		 * side for spans; for liveness the guess has to be better. */
		set_bit(f, f->targets, to);
		own &= !n || !(f->taken[p / 8] >> p % 8 & 1);
		uint32_t *arm = own ? push(f, &f->arm, sizeof(*arm)) : NULL;

		if (arm)
			*arm = (uint32_t)to;
	}
	/* a short run relative to a label is some other table, or none */
	if (table != base && n < 6)
		f->arm.count = arms;
	return n;
}

/* True when `in` may compute the register by arithmetic on an offset. */
static bool is_sum(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		return true;
	case ZYDIS_MNEMONIC_LEA:
		return !rip_relative(in);
	default:
		return false;
	}
}

static ZydisRegister wide(ZydisRegister r)
{
	return ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
}

static bool writes(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
	ZydisRegister reg)
{
	for (unsigned i = 0; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
			wide(op[i].reg.value) == reg)
			return true;
	return false;
}

/* A jump's register comes from a sum, or from nobody knows where. */
static bool needs_table(struct finder *f, const struct func *fn, uint32_t jump)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	if (!decode_full(f, jump, fn->end, &in, op))
		return true;
	if (op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return false; /* a pointer: GOT, vtable, table of relocated words */
	ZydisRegister reg = wide(op[0].reg.value);

	for (uint32_t at = jump; at > fn->start && !bit(f, f->targets, at);) {
		at = previous(f, fn, at);
		if (!at || !decode_full(f, at, fn->end, &in, op))
			break;
		if (writes(&in, op, reg))
			return is_sum(&in);
		uint8_t kind = kind_of(&in);

		if (kind != INSN_PLAIN && kind != INSN_JCC)
			break;
	}
	/* More than one way to get there: any sum in the function may be the one. */
	for (uint32_t at = fn->start; at < fn->end; at += in.length) {
		if (!decode_full(f, at, fn->end, &in, op))
			in.length = 1;
		else if (is_sum(&in) && writes(&in, op, reg))
			return true;
	}
	return false;
}

static void resolve_indirect(struct finder *f, struct func *fn)
{
	struct leas l = {.datas = 0};
	ZydisDecodedInstruction in;
	ZydisDecoderContext ctx;
	unsigned entries = 0;
	bool needed = false;

	for (uint32_t rva = fn->start; rva < fn->end; rva += in.length) {
		if (!decode(f, rva, fn->end, &ctx, &in)) {
			in.length = 1;
			continue;
		}
		if (kind_of(&in) == INSN_JMP_INDIRECT)
			needed |= needs_table(f, fn, rva);
		if (in.mnemonic != ZYDIS_MNEMONIC_LEA || !rip_relative(&in))
			continue;
		uint64_t to = rip_target(&in, rva);

		if (to >= fn->start && to < fn->end) {
			if (l.codes < 64)
				l.code[l.codes++] = (uint32_t)to;
			else
				l.overflow = true;
		} else if (!in_text(f, to) && at(f, to, 4)) {
			if (l.datas < 256)
				l.data[l.datas++] = (uint32_t)to;
			else
				l.overflow = true;
		}
	}
	for (unsigned i = 0; i < l.datas; i++) {
		entries += mark_table(f, l.data[i], l.data[i]);
		for (unsigned j = 0; j < l.codes; j++)
			entries += mark_table(f, l.data[i], l.code[j]);
	}
	if (needed && (!entries || l.overflow))
		fn->flags |= FUNC_UNRESOLVED;
}

/* -- vector registers kept alive across calls
 * --------------------------------------------- */

/*
 * By the ABI no vector register survives a call. But a compiler that has seen the
 * callee of a local call knows what it really clobbers (gcc: -fipa-ra, on at -O2),
 * and a syscall site clobbers none. So for each direct call: is a vector register
 * that the callee leaves alone read afterwards, without having been written? Then nothing
 * the callee can reach by direct branches may lose its vectors. Arguments and return
 * values are not followed: a caller would have to keep one across a call in the very
 * register it is passed on in.
 */
static struct edge *edges_of(const struct finder *f, uint32_t index, size_t *ret_n)
{
	const struct func *fn = funcs(f) + index;
	size_t end = index + 1 < f->func.count ? fn[1].edge : f->edge.count;

	*ret_n = end - fn->edge;
	return (struct edge *)f->edge.data + fn->edge;
}

/*
 * Two things a function has from those it calls or jumps to. Which vector registers
 * it clobbers: at least these, so at most the others can be kept across a call.
 * Whether it returns at all: abort() and its like are followed by other code, and
 * taking that for what runs next would find registers alive that are not.
 */
static void close_over_calls(struct finder *f)
{
	struct func *fn = f->func.data;
	bool again = true;

	for (uint32_t i = 0; i < f->func.count; i++)
		if (fn[i].flags & (FUNC_INDIRECT | FUNC_TAINTED | FUNC_FALLS))
			fn[i].flags |= FUNC_RETURNS;
	while (again) {
		again = false;
		for (uint32_t i = 0; i < f->func.count; i++) {
			size_t n;
			struct edge *e = edges_of(f, i, &n);

			for (; n; n--, e++) {
				const struct func *to = fn + e->to;

				if (to->clobbers & ~fn[i].clobbers) {
					fn[i].clobbers |= to->clobbers;
					again = true;
				}
				if (!e->call && to->flags & ~fn[i].flags & FUNC_RETURNS) {
					fn[i].flags |= FUNC_RETURNS;
					again = true;
				}
			}
		}
	}
}

static uint32_t insn_at(const struct finder *f, uint32_t rva)
{
	const struct func *fn = funcs(f) + func_at(f, rva);
	const struct insn *in = f->insn.data;
	size_t lo = fn->insn, hi = f->insn.count;

	if (fn + 1 < funcs(f) + f->func.count)
		hi = fn[1].insn;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (in[mid].rva < rva)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < f->insn.count && in[lo].rva == rva ? (uint32_t)lo : NO_INSN;
}

/* From here on a target is an index: of a callee's function, or an instruction. */
static void index_targets(struct finder *f)
{
	struct insn *in = f->insn.data;
	uint32_t *arm = f->arm.data;

	for (size_t i = 0; i < f->insn.count; i++) {
		if (in[i].target == NO_INSN)
			continue;
		uint32_t callee = func_at(f, in[i].target);

		if (in[i].kind == INSN_CALL)
			in[i].target = callee;
		else if (funcs(f)[callee].start == in[i].target &&
			 callee != func_at(f, in[i].rva))
			in[i].target = NO_INSN; /* a tail call, by the ABI */
		else
			in[i].target = insn_at(f, in[i].target);
	}
	for (size_t i = 0; i < f->arm.count; i++)
		arm[i] = insn_at(f, arm[i]);
}

static uint64_t live_after(const struct finder *f, uint32_t func, size_t i)
{
	const struct insn *in = f->insn.data;
	uint64_t next = i + 1 < f->insn.count ? in[i + 1].live : 0, live = 0;
	const struct func *fn = funcs(f);

	switch (in[i].kind) {
	case INSN_PLAIN:
		return next;
	case INSN_CALL:
		if (in[i].target == NO_INSN || !(fn[in[i].target].flags & FUNC_RETURNS))
			return 0;
		return next & ~fn[in[i].target].clobbers;
	case INSN_JCC:
		live = next;
		/* fall through */
	case INSN_JMP:
		return in[i].target == NO_INSN ? live : live | in[in[i].target].live;
	case INSN_JMP_INDIRECT: {
		/* any arm of any of the function's switches */
		size_t arm = fn[func].arm, end = f->arm.count;

		if (func + 1 < f->func.count)
			end = fn[func + 1].arm;
		for (; arm < end; arm++)
			live |= in[((uint32_t *)f->arm.data)[arm]].live;
		return live;
	}
	default: /* an indirect call clobbers everything; a return; the end */
		return 0;
	}
}

/* One backward pass; true when something changed. */
static bool pass_live(struct finder *f)
{
	struct insn *in = f->insn.data;
	uint32_t func = (uint32_t)f->func.count - 1;
	bool changed = false;

	for (size_t i = f->insn.count; i-- > 0;) {
		while (i < funcs(f)[func].insn)
			func--;
		uint64_t live = in[i].read | (live_after(f, func, i) & ~in[i].write);

		changed |= live != in[i].live;
		in[i].live = live;
	}
	return changed;
}

static int mark_live_across_calls(struct finder *f)
{
	struct func *fn = f->func.data;
	const struct insn *in = f->insn.data;
	struct vec todo = {0};
	uint32_t *next;

	index_targets(f);
	while (pass_live(f))
		;
	for (uint32_t i = 0; i < f->insn.count; i++) {
		if (in[i].kind != INSN_CALL || in[i].target == NO_INSN ||
			fn[in[i].target].flags & FUNC_LIVE_IN || !live_after(f, 0, i))
			continue;
		fn[in[i].target].flags |= FUNC_LIVE_IN;
		next = push(f, &todo, sizeof(*next));
		if (next)
			*next = in[i].target;
	}
	while (todo.count) {
		uint32_t i = ((uint32_t *)todo.data)[--todo.count];
		size_t n;
		struct edge *e = edges_of(f, i, &n);

		for (; n; n--, e++) {
			uint32_t to = e->to;

			if (fn[to].flags & FUNC_LIVE_IN)
				continue;
			fn[to].flags |= FUNC_LIVE_IN;
			next = push(f, &todo, sizeof(*next));
			if (next)
				*next = to;
		}
	}
	free(todo.data);
	return f->failed ? -ENOMEM : 0;
}

/* -- choosing a span
 * ------------------------------------------------------------------------ */

/* Can the instruction at `rva` run in the thunk, before or after the syscall? */
static bool can_move(
	const struct finder *f, uint32_t rva, uint32_t len, bool after, uint8_t *ret_disp)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	*ret_disp = 0;
	if (!decode_full(f, rva, f->text_end, &in, op) || in.length != len ||
		kind_of(&in) != INSN_PLAIN ||
		in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	switch (in.meta.category) {
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
	case ZYDIS_CATEGORY_CET: /* endbr64 stays where a jump expects it */
	case ZYDIS_CATEGORY_INVALID:
		return false;
	default:
		break;
	}
	if (in.mnemonic == ZYDIS_MNEMONIC_ENDBR64)
		return false;
	for (unsigned i = 0; i < in.operand_count; i++) {
		ZydisRegister reg = ZYDIS_REGISTER_NONE;
		bool write = op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

		if (op[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op[i].imm.is_relative)
			return false;
		if (op[i].type == ZYDIS_OPERAND_TYPE_POINTER)
			return false;
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			reg = wide(op[i].reg.value);
			if (reg == ZYDIS_REGISTER_RIP ||
				(reg == ZYDIS_REGISTER_RSP && write))
				return false;
			if ((reg == ZYDIS_REGISTER_RCX || reg == ZYDIS_REGISTER_R11) &&
				(write || after))
				return false;
		}
		if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (op[i].mem.base == ZYDIS_REGISTER_EIP)
			return false;
		if (op[i].mem.base == ZYDIS_REGISTER_RIP) {
			if (!rip_relative(&in) || in.raw.disp.offset == 0)
				return false;
			*ret_disp = in.raw.disp.offset;
		}
		for (int k = 0; k < 2; k++) {
			reg = wide(k ? op[i].mem.index : op[i].mem.base);
			if (after &&
				(reg == ZYDIS_REGISTER_RCX || reg == ZYDIS_REGISTER_R11))
				return false;
		}
	}
	return true;
}

struct span {
	uint32_t start, end;
	uint8_t rip_disp;
};

/*
 * The span of `nb` instructions before and `na` after the syscall at `rva`. On
 * failure `why` says the first rule it broke; a span too short breaks none.
 */
static bool span_of(const struct finder *f, const struct func *fn, uint32_t rva,
	unsigned nb, unsigned na, struct span *ret, enum weft_site_reason *why)
{
	struct span s = {rva, rva + 2, 0};
	uint32_t disp_at = 0;
	uint8_t disp;

	for (; nb; nb--) {
		uint32_t at = previous(f, fn, s.start);

		if (!at || !can_move(f, at, s.start - at, false, &disp) ||
			(disp && disp_at)) {
			*why = WEFT_SITE_MOVE;
			return false;
		}
		if (disp)
			disp_at = at + disp;
		s.start = at;
	}
	for (; na; na--) {
		ZydisDecoderContext ctx;
		ZydisDecodedInstruction in;

		if (s.end >= fn->end || !decode(f, s.end, fn->end, &ctx, &in) ||
			!can_move(f, s.end, in.length, true, &disp) ||
			(disp && disp_at)) {
			*why = WEFT_SITE_MOVE;
			return false;
		}
		if (disp)
			disp_at = s.end + disp;
		s.end += in.length;
	}
	if (s.end - s.start < 5)
		return false;
	if (s.end - s.start > WEFT_SPAN_MAX) {
		*why = WEFT_SITE_RANGE;
		return false;
	}
	if (bit_inside(f, f->targets, s.start, s.end)) {
		*why = WEFT_SITE_BRANCH;
		return false;
	}
	if (bit_inside(f, f->rows, s.start, s.end)) {
		*why = WEFT_SITE_FRAME;
		return false;
	}
	s.rip_disp = disp_at ? (uint8_t)(disp_at - s.start + 1) : 0;
	*ret = s;
	return true;
}

/*
 * Preceding instructions first: a thread or a signal frame that is inside the
 * system call while its site is patched then comes back to the span's end. After
 * that following ones, then both. Never into what the previous site took.
 */
static bool choose(const struct finder *f, const struct func *fn, uint32_t rva,
	uint32_t free_from, struct span *ret, enum weft_site_reason *why)
{
	*why = WEFT_SITE_MOVE;
	for (unsigned nb = 1; nb <= 4; nb++)
		if (span_of(f, fn, rva, nb, 0, ret, why) && ret->start >= free_from)
			return true;
	for (unsigned na = 1; na <= 4; na++)
		if (span_of(f, fn, rva, 0, na, ret, why))
			return true;
	for (unsigned both = 2; both <= 4; both++)
		for (unsigned na = 1; na < both; na++)
			if (span_of(f, fn, rva, both - na, na, ret, why) &&
				ret->start >= free_from)
				return true;
	return false;
}

/* mov $15, %eax right before it: __restore_rt. */
static bool is_sigreturn(const struct finder *f, const struct func *fn, uint32_t rva)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint32_t at = previous(f, fn, rva);

	return at && decode_full(f, at, fn->end, &in, op) &&
	       in.mnemonic == ZYDIS_MNEMONIC_MOV &&
	       op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       wide(op[0].reg.value) == ZYDIS_REGISTER_RAX &&
	       op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op[1].imm.value.u == 15;
}

/*
 * Flags of the function and of the parts that hang together with it by branches
 * in either direction: .cold parts, and tail calls, which do no harm here.
 */
static uint32_t group_flags(const struct finder *f, uint32_t index)
{
	const struct func *fn = funcs(f);
	uint32_t flags = fn[index].flags;
	const struct edge *e = f->edge.data;

	for (size_t i = 0; i < f->edge.count; i++) {
		if (e[i].call)
			continue;
		if (e[i].from == index)
			flags |= fn[e[i].to].flags;
		if (e[i].to == index)
			flags |= fn[e[i].from].flags;
	}
	if (index && fn[index - 1].flags & FUNC_FALLS)
		flags |= fn[index - 1].flags;
	if (fn[index].flags & FUNC_FALLS && index + 1 < f->func.count)
		flags |= fn[index + 1].flags;
	return flags;
}

static void leave(struct finder *f, uint32_t rva, enum weft_site_reason why)
{
	struct weft_site_left *l = push(f, &f->left, sizeof(*l));

	if (l) {
		l->rva = rva;
		l->name = name_of(f, rva);
		l->reason = why;
	}
}

static void decide(struct finder *f, uint32_t rva, uint32_t *free_from)
{
	uint32_t index = func_at(f, rva);
	const struct func *fn = funcs(f) + index;
	uint32_t flags = group_flags(f, index), head = index;
	enum weft_site_reason why;
	struct span s;

	if (is_sigreturn(f, fn, rva)) {
		f->excluded++;
		return;
	}
	if (flags & FUNC_TAINTED)
		return leave(f, rva, WEFT_SITE_TAINTED);
	if (flags & FUNC_UNRESOLVED)
		return leave(f, rva, WEFT_SITE_INDIRECT);
	if (!choose(f, fn, rva, *free_from, &s, &why))
		return leave(f, rva, why);

	struct weft_site *site = push(f, &f->site, sizeof(*site));

	if (!site)
		return;
	*free_from = s.end;
	while (funcs(f)[head].flags & FUNC_GAP && head && fn[-1].flags & FUNC_FALLS)
		head--, fn--;
	site->rva = rva;
	site->before = (uint8_t)(rva - s.start);
	site->after = (uint8_t)(s.end - rva - 2);
	site->rip_disp = s.rip_disp;
	site->flags = flags & (FUNC_VECTOR | FUNC_LIVE_IN) ? 0 : WEFT_SITE_NO_VECTOR;
	site->func = funcs(f)[head].start;
	memcpy(site->orig, f->img->base + s.start, s.end - s.start);
	site->name = name_of(f, rva);
}

int weft_finder_run(const struct weft_image *img, struct weft_site_table *ret)
{
	struct finder f = {.img = img};
	struct weft_site_table t = {0};
	uint32_t free_from = 0;
	int r = read_headers(&f, &t);

	if (r)
		return r;
	size_t map = (f.text_end - f.text) / 8 + 1;

	f.starts = calloc(map, 1);
	f.targets = calloc(map, 1);
	f.rows = calloc(map, 1);
	f.taken = calloc(img->size / 8 + 1, 1);
	r = -ENOMEM;
	if (!f.starts || !f.targets || !f.rows || !f.taken)
		goto out_free;
	r = -ENOSYS;
	if (ZYAN_FAILED(ZydisDecoderInit(
		    &f.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		goto out_free;
	if ((r = read_dynamic(&f, &t)) || (r = read_symbols(&f)) ||
		(r = read_functions(&f)))
		goto out_free;
	for (uint32_t i = 0; i < f.func.count; i++)
		sweep(&f, i);
	for (uint32_t i = 0; i < f.func.count; i++) {
		struct func *fn = (struct func *)f.func.data + i;

		fn->arm = (uint32_t)f.arm.count;
		if (fn->flags & FUNC_INDIRECT)
			resolve_indirect(&f, fn);
	}
	r = -ENOMEM;
	if (f.failed)
		goto out_free;
	close_over_calls(&f);
	if ((r = mark_live_across_calls(&f)))
		goto out_free;
	for (size_t i = 0; i < f.syscall.count; i++)
		decide(&f, ((uint32_t *)f.syscall.data)[i], &free_from);
	r = f.failed ? -ENOMEM : 0;
	if (r)
		goto out_free;
	t.count = (uint32_t)f.site.count;
	t.site = f.site.data;
	t.left_count = (uint32_t)f.left.count;
	t.left = f.left.data;
	t.excluded = f.excluded;
	t.names_len = (uint32_t)f.names.count;
	t.names = f.names.data;
	*ret = t;
	f.site.data = f.left.data = f.names.data = NULL;
	t.soname = NULL;
out_free:
	free((void *)t.soname);
	free(f.starts);
	free(f.targets);
	free(f.rows);
	free(f.taken);
	free(f.insn.data);
	free(f.func.data);
	free(f.edge.data);
	free(f.arm.data);
	free(f.syscall.data);
	free(f.sym.data);
	free(f.site.data);
	free(f.left.data);
	free(f.names.data);
	return r;
}

void weft_finder_free(struct weft_site_table *t)
{
	free((void *)t->soname);
	free((void *)t->site);
	free((void *)t->left);
	free((void *)t->names);
	memset(t, 0, sizeof(*t));
}

/* -- images
 * --------------------------------------------------------------------------------- */

static int measure(const ElfW(Ehdr) * eh, const ElfW(Phdr) * ph, size_t *ret)
{
	uint64_t end = 0;

	if (memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_type != ET_DYN)
		return -ENOEXEC;
	for (unsigned i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD) {
			if (ph[i].p_vaddr > 1u << 30 || ph[i].p_memsz > 1u << 30)
				return -ENOEXEC;
			if (ph[i].p_vaddr + ph[i].p_memsz > end)
				end = ph[i].p_vaddr + ph[i].p_memsz;
		}
	if (!end || end > 1u << 30)
		return -ENOEXEC;
	*ret = end;
	return 0;
}

int weft_image_load(const char *path, struct weft_image *ret)
{
	struct stat st;
	uint8_t *file = MAP_FAILED, *mem;
	size_t size, len = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = -ENOEXEC;
	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(ElfW(Ehdr)))
		goto out_close;
	len = (size_t)st.st_size;
	r = -ENOMEM;
	file = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED)
		goto out_close;
	const ElfW(Ehdr) *eh = (const void *)file;

	r = -ENOEXEC;
	if (eh->e_phentsize != sizeof(ElfW(Phdr)) || eh->e_phoff > len ||
		eh->e_phoff % 8 || eh->e_phnum * sizeof(ElfW(Phdr)) > len - eh->e_phoff)
		goto out_unmap;
	const ElfW(Phdr) *ph = (const void *)(file + eh->e_phoff);

	if ((r = measure(eh, ph, &size)))
		goto out_unmap;
	r = -ENOMEM;
	mem = calloc(1, size);
	if (!mem)
		goto out_unmap;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		if (ph[i].p_offset > len || ph[i].p_filesz > len - ph[i].p_offset ||
			ph[i].p_filesz > ph[i].p_memsz) {
			free(mem);
			r = -ENOEXEC;
			goto out_unmap;
		}
		memcpy(mem + ph[i].p_vaddr, file + ph[i].p_offset, ph[i].p_filesz);
	}
	*ret = (struct weft_image){mem, size, mem};
	r = 0;
out_unmap:
	munmap(file, len);
out_close:
	close(fd);
	return r;
}

int weft_image_mapped(uintptr_t base, struct weft_image *ret)
{
	const ElfW(Ehdr) *eh = (const void *)base;
	size_t size;
	int r = measure(eh, (const void *)(base + eh->e_phoff), &size);

	if (!r)
		*ret = (struct weft_image){(const uint8_t *)base, size, NULL};
	return r;
}

void weft_image_unload(struct weft_image *img)
{
	free(img->owned);
	img->owned = NULL;
}
