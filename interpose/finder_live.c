/*
 * finder_live.c - whether a caller keeps a vector register alive across a call.
 */
#include <errno.h>
#include <stdlib.h>

#include "interpose/finder_impl.h"

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
void weft_finder_close_over_calls(struct finder *f)
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

int weft_finder_mark_live_across_calls(struct finder *f)
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
		next = weft_finder_push(f, &todo, sizeof(*next));
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
			next = weft_finder_push(f, &todo, sizeof(*next));
			if (next)
				*next = to;
		}
	}
	free(todo.data);
	return f->failed ? -ENOMEM : 0;
}
