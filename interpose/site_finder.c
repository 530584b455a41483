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
#include <errno.h>
#include <stdlib.h>

#include "interpose/finder_impl.h"

/* Can the instruction at `rva` run in the thunk, before or after the syscall? */
static bool can_move(
	const struct finder *f, uint32_t rva, uint32_t len, bool after, uint8_t *ret_disp)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	*ret_disp = 0;
	if (!weft_finder_decode_full(f, rva, f->text_end, &in, op) || in.length != len ||
		weft_finder_kind_of(&in) != INSN_PLAIN ||
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
			reg = weft_finder_wide(op[i].reg.value);
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
			if (!weft_finder_rip_relative(&in) || in.raw.disp.offset == 0)
				return false;
			*ret_disp = in.raw.disp.offset;
		}
		for (int k = 0; k < 2; k++) {
			reg = weft_finder_wide(k ? op[i].mem.index : op[i].mem.base);
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
		uint32_t at = weft_finder_previous(f, fn, s.start);

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

		if (s.end >= fn->end ||
			!weft_finder_decode(f, s.end, fn->end, &ctx, &in) ||
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
	uint32_t at = weft_finder_previous(f, fn, rva);

	return at && weft_finder_decode_full(f, at, fn->end, &in, op) &&
	       in.mnemonic == ZYDIS_MNEMONIC_MOV &&
	       op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       weft_finder_wide(op[0].reg.value) == ZYDIS_REGISTER_RAX &&
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
	struct weft_site_left *l = weft_finder_push(f, &f->left, sizeof(*l));

	if (l) {
		l->rva = rva;
		l->name = weft_finder_name_of(f, rva);
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

	struct weft_site *site = weft_finder_push(f, &f->site, sizeof(*site));

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
	site->name = weft_finder_name_of(f, rva);
}

int weft_finder_run(const struct weft_image *img, struct weft_site_table *ret)
{
	struct finder f = {.img = img};
	struct weft_site_table t = {0};
	uint32_t free_from = 0;
	int r = weft_finder_read_headers(&f, &t);

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
	if ((r = weft_finder_read_dynamic(&f, &t)) ||
		(r = weft_finder_read_symbols(&f)) ||
		(r = weft_finder_read_functions(&f)))
		goto out_free;
	for (uint32_t i = 0; i < f.func.count; i++)
		weft_finder_sweep(&f, i);
	for (uint32_t i = 0; i < f.func.count; i++) {
		struct func *fn = (struct func *)f.func.data + i;

		fn->arm = (uint32_t)f.arm.count;
		if (fn->flags & FUNC_INDIRECT)
			weft_finder_resolve_indirect(&f, fn);
	}
	r = -ENOMEM;
	if (f.failed)
		goto out_free;
	weft_finder_close_over_calls(&f);
	if ((r = weft_finder_mark_live_across_calls(&f)))
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
