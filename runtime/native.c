/*
 * native.c - see native.h.
 *
 * A fiber is looked at when it has left its stack and before anybody can wake it: on the
 * scheduler's stack (the fiber's may have 16 KiB), with the fiber's registers where
 * weft_switch left them. Found, it is pinned until it goes on, as by weft_pin().
 *
 * When the frames cannot be followed to the end (code without unwind tables) the rest of
 * the stack is searched for words that lead into a listed library: one that only looks
 * like a return address pins in vain, which costs a kernel thread and breaks nothing.
 */
#include "native.h"

#include "pin.h"
#include "sched_impl.h"
#include "stack.h"
#include "walk.h"

enum {
	DEEP = 100000,     /* frames; deeper ones are searched for words */
	SEARCH = 1 << 16,  /* bytes of a stack that weft does not know the end of */
	NAME_MAX_LEN = 64, /* of a file's name that is compared */
};

struct name {
	const char *text;
	unsigned len;
};

static const struct name built_in[] = {
#define WEFT_NATIVE_MODULE(name, reason) {name, sizeof name - 1},
#include "native_modules.def"
#undef WEFT_NATIVE_MODULE
};
enum { BUILT_IN = sizeof built_in / sizeof *built_in };

static struct name name[WEFT_NATIVE_MAX + BUILT_IN]; /* (c) the user's first */
static unsigned count, users;                        /* (c) */
static uint64_t met;                                 /* (a) a bit for each */
static bool possible;                                /* (a) one may be there */

bool weft_native_watches; /* (c) once fibers run */

void weft_native_set(const char *names)
{
	count = 0;
	while (names && *names && count < WEFT_NATIVE_MAX) {
		struct name *n = &name[count++];

		n->text = names;
		while (*names && *names != ',')
			names++;
		n->len = (unsigned)(names - n->text);
		names += *names == ',';
	}
	users = count;
	for (unsigned i = 0; i < BUILT_IN; i++)
		name[count++] = built_in[i];
}

unsigned weft_native_count(bool users_only)
{
	return users_only ? users : count;
}

void weft_native_name(char *buf, unsigned size, unsigned i)
{
	unsigned n = name[i].len < size - 1 ? name[i].len : size - 1;

	weft_memcpy(buf, name[i].text, n);
	buf[n] = 0;
}

int weft_native_match(const char *file)
{
	for (unsigned i = 0; i < count; i++) {
		unsigned k = 0;

		while (k < name[i].len && file[k] == name[i].text[k])
			k++;
		if (k < name[i].len || (file[k] && file[k] != '.'))
			continue;
		if (!(load_relaxed(&met) & 1ull << i))
			fetch_or_seq_cst(&met, 1ull << i);
		return (int)i;
	}
	return -1;
}

bool weft_native_met(unsigned i)
{
	return load_relaxed(&met) & 1ull << i;
}

static bool is_listed(const struct weft_module *m)
{
	char file[NAME_MAX_LEN];

	weft_module_name(file, sizeof file, m);
	return weft_native_match(file) >= 0;
}

bool weft_native_has(uintptr_t address)
{
	struct weft_module m;

	return unlikely(load_relaxed(&possible)) && weft_module_of(address, &m) &&
	       is_listed(&m);
}

void weft_native_expect(void)
{
	store_relaxed(&possible, true);
}

void weft_native_watch(void)
{
	weft_walk_mark = is_listed;
	weft_native_watches = true;
}

/* ---- a fiber that has left its stack ----------------------------------------- */

static uintptr_t search_words(uintptr_t from)
{
	uintptr_t base, end = from + SEARCH;
	size_t size, guard;
	uint64_t word;

	if (weft_stack_bounds(from, &base, &size, &guard))
		end = base + size;
	for (uintptr_t at = from & ~7ul; at < end; at += 8) {
		if (weft_load_word((const uint64_t *)at, &word))
			break;
		if (word >= 4096 && word >> 47 == 0 && weft_native_has(word))
			return word;
	}
	return 0;
}

/* The innermost frame of a listed library, or 0. */
static uintptr_t find_frame(const struct fiber *f)
{
	struct weft_unwind_frame at;
	bool mark;
	int r = 1;

	weft_walk_begin(&at, f->sp);
	for (unsigned n = 0; r > 0 && n < DEEP; n++) {
		uintptr_t pc = at.reg[WEFT_UNWIND_PC];

		r = weft_walk_next(&at, &mark);
		if (mark)
			return pc;
	}
	return r ? search_words(at.reg[WEFT_UNWIND_SP]) : 0;
}

void weft_native_look(struct carrier *c, struct fiber *f)
{
	uintptr_t pc;

	/* A helper makes one call for it; what ends has nothing to come back to. */
	if (c->kind != CARRIER_FULL || f->flags & (FIBER_PINNED | FIBER_BOUND) ||
		f->reason == WEFT_REASON_EXIT)
		return;
	pc = find_frame(f);
	if (!pc)
		return;
	f->flags |= FIBER_PINNED | FIBER_NATIVE;
	weft_pin_begin(f, WEFT_PIN_NATIVE, pc);
}

void weft_native_end(struct fiber *f)
{
	f->flags &= (uint8_t) ~(FIBER_PINNED | FIBER_NATIVE);
	weft_pin_end(f);
}

/* ---- a fiber that is about to go to another kernel thread --------------------- */

static bool look_only(struct fiber *f, void *arg)
{
	*(bool *)arg = (f->flags & FIBER_NATIVE) != 0;
	return false;
}

bool weft_native_stays(void)
{
	bool stays = false;

	weft_park(WEFT_REASON_OFFLOAD, look_only, &stays);
	return stays;
}
