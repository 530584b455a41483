/*
 * unwind.c - libweft-unwind.so: libunwind, asked about one frame at a time.
 *
 * libunwind's remote half is used, on the process itself: it takes no lock of the
 * loader's (a fiber that is parked may hold it), reads through our accessors alone, and
 * starts from any registers. Its cache is off: it would be per thread, in thread-local
 * storage that a carrier does not have. What it allocates is its own pool's.
 *
 * A rule is found by a step in a made-up world: each register holds a number that says
 * which it is, and each word of the stack its own address, so that the result tells where
 * it was taken from. Only what lies in the modules is read for real.
 *
 * Rejected: linking libunwind into libweft.so (Debian's archive is not position
 * independent); reading the tables here (that is an unwinder).
 */
#include "unwind.h"

#define UNW_REMOTE_ONLY
#include <errno.h>
#include <libunwind.h>
#include <string.h>

__attribute__((visibility("default"))) weft_unwind_open_fn weft_unwind_open;

/* Exported by libunwind-x86_64 for its siblings, declared in none of its headers. */
int UNW_OBJ(dwarf_search_unwind_table)(unw_addr_space_t space, unw_word_t pc,
	unw_dyn_info_t *table, unw_proc_info_t *ret, int need_info, void *arg);

static struct weft_unwind_host host;
static unw_addr_space_t space;

/* The made-up world: far from any address that x86-64 has. */
static const uint64_t MADE_UP = 1ull << 60, SAID_BY_STACK = 1ull << 61;
enum { APART = 32 }; /* bits between two registers */

struct question {
	struct weft_unwind_frame *frame;
	bool made_up;
	bool no_table; /* libunwind had to guess */
	bool no_module;
	bool signal;
};

static uint64_t number_of(unsigned reg)
{
	return MADE_UP + ((uint64_t)reg << APART) + (1ull << (APART - 1));
}

static bool is_made_up(uint64_t address)
{
	return address >= MADE_UP &&
	       address < MADE_UP + ((uint64_t)WEFT_UNWIND_REGISTERS << APART);
}

static int load(struct question *q, uint64_t address, uint64_t *ret)
{
	if (q->made_up && is_made_up(address)) {
		*ret = address | SAID_BY_STACK;
		return 0;
	}
	return host.load(address, ret) ? -UNW_EINVAL : 0;
}

static int load32(struct question *q, uint64_t address, uint32_t *ret)
{
	uint64_t word;

	/* Not past the end of a page for bytes that nobody asked for. */
	if (load(q, address & ~7ull, &word))
		return -UNW_EINVAL;
	*ret = (uint32_t)(word >> (address & 4 ? 32 : 0));
	return 0;
}

/* ---- tables ---------------------------------------------------------------- */

/*
 * .eh_frame_hdr as all linkers write it: version 1, the frames relative to the field, the
 * count and the table of two words each, relative to the header.
 */
struct table {
	uint64_t header;
	uint32_t count;
};

enum { USUAL_ENCODINGS = 0x3b031b01, TABLE_AT = 12 };

static bool find_table(struct question *q, uint64_t header, struct table *ret)
{
	uint32_t encodings, count;

	if (!header || header % 4 || load32(q, header, &encodings) ||
		encodings != USUAL_ENCODINGS || load32(q, header + 8, &count) || !count)
		return false;
	ret->header = header;
	ret->count = count;
	return true;
}

static int byte_at(struct question *q, uint64_t address)
{
	uint64_t word;

	return load(q, address & ~7ull, &word) ? -1
					       : (int)(word >> (address % 8 * 8) & 0xff);
}

/* Where the description of the function that has this pc is; 0: nowhere. */
static uint64_t description_of(struct question *q, const struct table *t, uint64_t pc)
{
	uint32_t low = 0, high = t->count, word;

	while (high - low > 1) {
		uint32_t mid = low + (high - low) / 2;

		if (load32(q, t->header + TABLE_AT + 8ull * mid, &word))
			return 0;
		if (t->header + (uint64_t)(int64_t)(int32_t)word <= pc)
			low = mid;
		else
			high = mid;
	}
	if (load32(q, t->header + TABLE_AT + 8ull * low + 4, &word))
		return 0;
	return t->header + (uint64_t)(int64_t)(int32_t)word;
}

/* Is it a signal's frame? The augmentation of its common entry has an S then. */
static bool is_signal(struct question *q, const struct table *t, uint64_t pc)
{
	uint64_t fde = description_of(q, t, pc);
	uint32_t back;
	int c;

	if (!fde || load32(q, fde + 4, &back))
		return false;
	for (uint64_t at = fde + 4 - back + 9; (c = byte_at(q, at)) > 0; at++)
		if (c == 'S')
			return true;
	return false;
}

static int find_proc_info(unw_addr_space_t as, unw_word_t pc, unw_proc_info_t *ret,
	int need_info, void *arg)
{
	struct question *q = arg;
	struct weft_module m;
	struct table t;
	unw_dyn_info_t table = {.format = UNW_INFO_FORMAT_REMOTE_TABLE};
	int r;

	q->no_table = true;
	if (!host.find(pc, &m)) {
		q->no_module = true;
		return -UNW_ENOINFO;
	}
	if (!find_table(q, m.unwind_info, &t))
		return -UNW_ENOINFO;
	table.start_ip = m.from;
	table.end_ip = m.to;
	table.u.rti.segbase = t.header;
	table.u.rti.table_data = t.header + TABLE_AT;
	table.u.rti.table_len = 8ull * t.count / sizeof(unw_word_t);
	r = UNW_OBJ(dwarf_search_unwind_table)(as, pc, &table, ret, need_info, arg);
	if (r)
		return -UNW_ENOINFO;
	q->no_table = false;
	q->signal = is_signal(q, &t, pc);
	return 0;
}

/* ---- what libunwind asks for ------------------------------------------------- */

static void put_unwind_info(unw_addr_space_t as, unw_proc_info_t *info, void *arg)
{
	(void)as;
	(void)info;
	(void)arg;
}

static int no_dynamic_list(unw_addr_space_t as, unw_word_t *ret, void *arg)
{
	(void)as;
	(void)ret;
	(void)arg;
	return -UNW_ENOINFO;
}

static int access_mem(
	unw_addr_space_t as, unw_word_t address, unw_word_t *value, int write, void *arg)
{
	uint64_t low, high;
	unsigned shift = address % 8 * 8;

	(void)as;
	if (write || load(arg, address & ~7ull, &low))
		return -UNW_EINVAL;
	if (!shift || is_made_up(address)) {
		*value = is_made_up(address) ? address | SAID_BY_STACK : low;
		return 0;
	}
	/* The last bytes of a table may be the last of a page. */
	if (load(arg, (address & ~7ull) + 8, &high))
		high = 0;
	*value = low >> shift | high << (64 - shift);
	return 0;
}

static int register_of(unw_regnum_t reg)
{
	switch (reg) {
	case UNW_X86_64_RIP:
		return WEFT_UNWIND_PC;
	case UNW_X86_64_RSP:
		return WEFT_UNWIND_SP;
	case UNW_X86_64_RBP:
		return WEFT_UNWIND_BP;
	case UNW_X86_64_RBX:
		return WEFT_UNWIND_BX;
	case UNW_X86_64_R12:
		return WEFT_UNWIND_R12;
	case UNW_X86_64_R13:
		return WEFT_UNWIND_R13;
	case UNW_X86_64_R14:
		return WEFT_UNWIND_R14;
	case UNW_X86_64_R15:
		return WEFT_UNWIND_R15;
	default:
		return -1;
	}
}

static int access_reg(
	unw_addr_space_t as, unw_regnum_t reg, unw_word_t *value, int write, void *arg)
{
	struct question *q = arg;
	int i = register_of(reg);

	(void)as;
	if (write)
		return -UNW_EREADONLYREG;
	if (i < 0) {
		*value = 0; /* a call does not keep it */
	} else if (i == WEFT_UNWIND_PC) {
		/* Behind a call another function may begin: look at the call. */
		*value = q->frame->reg[i] - !q->frame->exact;
	} else {
		*value = q->made_up ? number_of((unsigned)i) : q->frame->reg[i];
	}
	return 0;
}

static int access_fpreg(
	unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *value, int write, void *arg)
{
	(void)as;
	(void)reg;
	(void)value;
	(void)write;
	(void)arg;
	return -UNW_EBADREG;
}

static int resume(unw_addr_space_t as, unw_cursor_t *cursor, void *arg)
{
	(void)as;
	(void)cursor;
	(void)arg;
	return -UNW_EINVAL;
}

static int get_proc_name(unw_addr_space_t as, unw_word_t address, char *buf, size_t len,
	unw_word_t *offset, void *arg)
{
	(void)as;
	(void)address;
	(void)buf;
	(void)len;
	(void)offset;
	(void)arg;
	return -UNW_ENOINFO;
}

/* ---- one step -------------------------------------------------------------- */

static int step_with(struct question *q, uint64_t ret_reg[WEFT_UNWIND_REGISTERS])
{
	static const unw_regnum_t theirs[WEFT_UNWIND_REGISTERS] = {
		[WEFT_UNWIND_PC] = UNW_REG_IP,
		[WEFT_UNWIND_SP] = UNW_REG_SP,
		[WEFT_UNWIND_BP] = UNW_X86_64_RBP,
		[WEFT_UNWIND_BX] = UNW_X86_64_RBX,
		[WEFT_UNWIND_R12] = UNW_X86_64_R12,
		[WEFT_UNWIND_R13] = UNW_X86_64_R13,
		[WEFT_UNWIND_R14] = UNW_X86_64_R14,
		[WEFT_UNWIND_R15] = UNW_X86_64_R15,
	};
	unw_cursor_t cursor;
	int r = unw_init_remote(&cursor, space, q);

	r = r < 0 ? r : unw_step(&cursor);
	if (r <= 0)
		return r;
	for (int i = 0; i < WEFT_UNWIND_REGISTERS; i++) {
		unw_word_t value;

		if (unw_get_reg(&cursor, theirs[i], &value))
			return -UNW_EBADREG;
		ret_reg[i] = value;
	}
	return 1;
}

static int step(struct weft_unwind_frame *f)
{
	uint64_t reg[WEFT_UNWIND_REGISTERS];
	struct question q = {.frame = f};
	int r = step_with(&q, reg);

	if (r <= 0)
		return r;
	if (!reg[WEFT_UNWIND_PC])
		return 0;
	memcpy(f->reg, reg, sizeof reg);
	f->exact = q.signal;
	return 1;
}

/* The word of the stack that a value was read from, relative to the CFA. */
static bool read_at(uint64_t value, uint64_t cfa, int64_t *ret)
{
	if (!(value & SAID_BY_STACK) || !is_made_up(value & ~SAID_BY_STACK))
		return false;
	*ret = (int64_t)((value & ~SAID_BY_STACK) - cfa);
	return true;
}

/* Which register the CFA is an offset from. */
static bool find_base(uint64_t cfa, struct weft_unwind_rule *ret)
{
	uint64_t reg = (cfa - MADE_UP) >> APART;

	if (!is_made_up(cfa) || reg == WEFT_UNWIND_PC)
		return false;
	ret->base = (uint8_t)reg;
	ret->cfa = (int32_t)(int64_t)(cfa - number_of((unsigned)reg));
	return true;
}

static bool find_saved(const uint64_t *reg, uint64_t cfa, struct weft_unwind_rule *ret)
{
	int64_t at;

	for (unsigned i = WEFT_UNWIND_BP; i < WEFT_UNWIND_REGISTERS; i++) {
		if (reg[i] == number_of(i))
			continue;
		if (!read_at(reg[i], cfa, &at) || at % 8 || at >= 0 || at < -255 * 8)
			return false;
		ret->saved[i] = (uint8_t)(-at / 8);
	}
	return true;
}

static void find_rule(uint64_t pc, bool exact, struct weft_unwind_rule *ret)
{
	struct weft_unwind_frame f = {.reg = {[WEFT_UNWIND_PC] = pc}, .exact = exact};
	struct question q = {.frame = &f, .made_up = true};
	uint64_t reg[WEFT_UNWIND_REGISTERS], cfa, value;
	int64_t at = 0;
	int r = step_with(&q, reg);

	memset(ret, 0, sizeof *ret);
	ret->kind = WEFT_UNWIND_HARD;
	ret->has_module = !q.no_module;
	ret->signal = q.signal;
	if (q.no_table || r < 0)
		return;
	if (!r) {
		ret->kind = WEFT_UNWIND_OUTER;
		return;
	}
	cfa = reg[WEFT_UNWIND_SP];
	value = reg[WEFT_UNWIND_PC];
	if (!find_base(cfa, ret) || !find_saved(reg, cfa, ret))
		return;
	/* A thunk's caller is written in the thunk. */
	ret->pc_known = !(value & SAID_BY_STACK) && !is_made_up(value);
	if (!ret->pc_known && (!read_at(value, cfa, &at) || at != (int32_t)at))
		return;
	ret->pc = ret->pc_known ? value : 0;
	ret->pc_at = (int32_t)at;
	ret->kind = WEFT_UNWIND_SIMPLE;
}

const struct weft_unwind *weft_unwind_open(const struct weft_unwind_host *h)
{
	static unw_accessors_t accessors = {
		.find_proc_info = find_proc_info,
		.put_unwind_info = put_unwind_info,
		.get_dyn_info_list_addr = no_dynamic_list,
		.access_mem = access_mem,
		.access_reg = access_reg,
		.access_fpreg = access_fpreg,
		.resume = resume,
		.get_proc_name = get_proc_name,
	};
	static const struct weft_unwind ours = {find_rule, step};

	host = *h;
	space = unw_create_addr_space(&accessors, 0);
	if (!space)
		return NULL;
	unw_set_caching_policy(space, UNW_CACHE_NONE);
	return &ours;
}
