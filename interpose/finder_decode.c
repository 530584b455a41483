/*
 * finder_decode.c - decodes every instruction of text once: where it starts, where
 * it branches to, which vector registers it reads and writes; and finds the tables
 * of switches.
 */
#include "interpose/finder_impl.h"

bool weft_finder_decode(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecoderContext *ctx, ZydisDecodedInstruction *in)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
		&f->decoder, ctx, f->img->base + rva, end - rva, in));
}

bool weft_finder_decode_full(const struct finder *f, uint32_t rva, uint32_t end,
	ZydisDecodedInstruction *in, ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT])
{
	ZydisDecoderContext ctx;

	return weft_finder_decode(f, rva, end, &ctx, in) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeOperands(
		       &f->decoder, &ctx, in, op, in->operand_count));
}

/* Where the instruction that ends at `rva` starts, or 0. */
uint32_t weft_finder_previous(const struct finder *f, const struct func *fn, uint32_t rva)
{
	for (uint32_t at = rva; at-- > fn->start;)
		if (bit(f, f->starts, at))
			return at;
	return 0;
}

uint8_t weft_finder_kind_of(const ZydisDecodedInstruction *in)
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

/* Where a rip-relative operand points; only meaningful with weft_finder_rip_relative().
 */
static uint64_t rip_target(const ZydisDecodedInstruction *in, uint32_t rva)
{
	return rva + in->length + (uint64_t)in->raw.disp.value;
}

bool weft_finder_rip_relative(const ZydisDecodedInstruction *in)
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
	struct edge *e = weft_finder_push(f, &f->edge, sizeof(*e));

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
void weft_finder_sweep(struct finder *f, uint32_t index)
{
	struct func *fn = (struct func *)f->func.data + index;
	uint8_t kind = INSN_STOP;
	ZydisDecoderContext ctx;
	ZydisDecodedInstruction in;

	fn->edge = (uint32_t)f->edge.count;
	fn->insn = (uint32_t)f->insn.count;
	for (uint32_t rva = fn->start; rva < fn->end; rva += in.length) {
		if (!weft_finder_decode(f, rva, fn->end, &ctx, &in)) {
			fn->flags |= FUNC_TAINTED;
			in.length = 1;
			kind = INSN_PLAIN;
			continue;
		}
		struct insn *insn = weft_finder_push(f, &f->insn, sizeof(*insn));

		if (!insn)
			return;
		set_bit(f, f->starts, rva);
		kind = weft_finder_kind_of(&in);
		insn->rva = rva;
		insn->kind = kind;
		insn->target = NO_INSN;
		if (is_vector(&in)) {
			fn->flags |= FUNC_VECTOR;
			vector_effects(f, &ctx, &in, &insn->read, &insn->write);
			fn->clobbers |= insn->write;
		}
		if (in.mnemonic == ZYDIS_MNEMONIC_SYSCALL) {
			uint32_t *at = weft_finder_push(f, &f->syscall, sizeof(*at));

			if (at)
				*at = rva;
		}
		/* int3 is padding in a gap, elsewhere a debugger's; what it hides
		 * could be a branch. */
		if (in.mnemonic == ZYDIS_MNEMONIC_INT3 && !(fn->flags & FUNC_GAP))
			fn->flags |= FUNC_TAINTED;
		if (weft_finder_rip_relative(&in)) {
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

/* ---- indirect jumps ------------------------------------------------------ */

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

		if (!weft_finder_read(f, p, &off, 4))
			break;
		uint64_t to = (uint64_t)((int64_t)base + off);

		if (!in_text(f, to) || !bit(f, f->starts, (uint32_t)to))
			break;
		/* Reading on into the next table makes up targets, which is the safe
		 * side for spans; for liveness the guess has to be better. */
		set_bit(f, f->targets, to);
		own &= !n || !(f->taken[p / 8] >> p % 8 & 1);
		uint32_t *arm = own ? weft_finder_push(f, &f->arm, sizeof(*arm)) : NULL;

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
		return !weft_finder_rip_relative(in);
	default:
		return false;
	}
}

ZydisRegister weft_finder_wide(ZydisRegister r)
{
	return ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
}

static bool writes(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
	ZydisRegister reg)
{
	for (unsigned i = 0; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
			weft_finder_wide(op[i].reg.value) == reg)
			return true;
	return false;
}

/* A jump's register comes from a sum, or from nobody knows where. */
static bool needs_table(struct finder *f, const struct func *fn, uint32_t jump)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	if (!weft_finder_decode_full(f, jump, fn->end, &in, op))
		return true;
	if (op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return false; /* a pointer: GOT, vtable, table of relocated words */
	ZydisRegister reg = weft_finder_wide(op[0].reg.value);

	for (uint32_t at = jump; at > fn->start && !bit(f, f->targets, at);) {
		at = weft_finder_previous(f, fn, at);
		if (!at || !weft_finder_decode_full(f, at, fn->end, &in, op))
			break;
		if (writes(&in, op, reg))
			return is_sum(&in);
		uint8_t kind = weft_finder_kind_of(&in);

		if (kind != INSN_PLAIN && kind != INSN_JCC)
			break;
	}
	/* More than one way to get there: any sum in the function may be the one. */
	for (uint32_t at = fn->start; at < fn->end; at += in.length) {
		if (!weft_finder_decode_full(f, at, fn->end, &in, op))
			in.length = 1;
		else if (is_sum(&in) && writes(&in, op, reg))
			return true;
	}
	return false;
}

void weft_finder_resolve_indirect(struct finder *f, struct func *fn)
{
	struct leas l = {.datas = 0};
	ZydisDecodedInstruction in;
	ZydisDecoderContext ctx;
	unsigned entries = 0;
	bool needed = false;

	for (uint32_t rva = fn->start; rva < fn->end; rva += in.length) {
		if (!weft_finder_decode(f, rva, fn->end, &ctx, &in)) {
			in.length = 1;
			continue;
		}
		if (weft_finder_kind_of(&in) == INSN_JMP_INDIRECT)
			needed |= needs_table(f, fn, rva);
		if (in.mnemonic != ZYDIS_MNEMONIC_LEA || !weft_finder_rip_relative(&in))
			continue;
		uint64_t to = rip_target(&in, rva);

		if (to >= fn->start && to < fn->end) {
			if (l.codes < 64)
				l.code[l.codes++] = (uint32_t)to;
			else
				l.overflow = true;
		} else if (!in_text(f, to) && weft_finder_at(f, to, 4)) {
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
