/*
 * walk.c - see walk.h.
 *
 * Remembered rules are in a table that anybody reads without a lock: an entry's key is
 * taken away before and set again after it is written, so that a reader who finds the
 * same key before and after has read what belongs to it. The key has the number of times
 * that code was unmapped: what was remembered before does not match any more.
 *
 * What lies in no module (code that the program made itself) is not remembered: nobody
 * says when it changes.
 */
#include "walk.h"

#include <errno.h>

#include "sched_impl.h"

enum {
	RULES = 8192,
	PROBES = 4,
	EXACT_BIT = 47, /* of a key: the address is below it … */
	AGE_BIT = 48,   /* … and the age above */
	AGES = 1 << 16,
	SCAN = 4096, /* bytes of stack in which return addresses are guessed */
};

/* enum weft_unwind_kind; the base; flags; saved[2..7], 8 bits each from here on */
enum {
	KIND_BITS = 3,
	BASE_SHIFT = 2,
	PC_KNOWN = 1 << 5,
	SIGNAL = 1 << 6,
	MARK = 1 << 7,
	SAVED_SHIFT = 8,
};

struct remembered {
	uint64_t key;  /* (a) 0: none */
	uint64_t rule; /* (a) */
	uint64_t pc;   /* (a) the caller's if PC_KNOWN, else cfa and pc_at */
};

bool (*weft_walk_mark)(const struct weft_module *m);

static struct remembered table[RULES];
static uint32_t age;                     /* (a) */
static struct weft_lock lock;            /* the module, and writing the table */
static const struct weft_unwind *unwind; /* (c) once set */
static weft_module_find_fn *find;        /* (c) once set */

void weft_walk_set_find(weft_module_find_fn *f)
{
	find = f;
}

static int load(uint64_t address, uint64_t *ret)
{
	return weft_load_word((const uint64_t *)address, ret);
}

bool weft_walk_open(weft_unwind_open_fn *open)
{
	const struct weft_unwind_host host = {load, weft_module_of};

	if (!unwind)
		unwind = open(&host);
	return unwind != NULL;
}

bool weft_walk_ready(void)
{
	return unwind != NULL;
}

bool weft_module_of(uintptr_t address, struct weft_module *ret)
{
	return find && find(address, ret);
}

void weft_walk_forget(void)
{
	uint32_t was = load_relaxed(&age);

	if (!unwind)
		return;
	weft_lock(&lock);
	/* Once in 65,536 times keys would come back. */
	if ((was + 1) % AGES == 0)
		for (unsigned i = 0; i < RULES; i++)
			store_release(&table[i].key, 0);
	store_release(&age, was + 1);
	weft_unlock(&lock);
}

void weft_walk_lock(void)
{
	weft_lock(&lock);
}

void weft_walk_unlock(void)
{
	weft_unlock(&lock);
}

/* ---- remembering ------------------------------------------------------------ */

static uint64_t key_of(uint64_t pc, bool exact)
{
	return pc | (uint64_t)exact << EXACT_BIT |
	       (uint64_t)(load_acquire(&age) % AGES) << AGE_BIT;
}

static unsigned place_of(uint64_t key)
{
	return (unsigned)(key * 0x9e3779b97f4a7c15ull >> 51) % RULES;
}

static bool recall(uint64_t key, uint64_t *ret_rule, uint64_t *ret_pc)
{
	unsigned at = place_of(key);

	for (unsigned i = 0; i < PROBES; i++) {
		struct remembered *e = &table[(at + i) % RULES];

		if (load_acquire(&e->key) != key) /* [rule-key] */
			continue;
		*ret_rule = load_relaxed(&e->rule);
		*ret_pc = load_relaxed(&e->pc);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		return load_relaxed(&e->key) == key;
	}
	return false;
}

/* Under the lock. */
static void remember(uint64_t key, uint64_t rule, uint64_t pc)
{
	unsigned at = place_of(key), now = load_relaxed(&age) % AGES;
	struct remembered *e = &table[at];

	for (unsigned i = 0; i < PROBES; i++) {
		struct remembered *o = &table[(at + i) % RULES];

		if (!o->key || o->key >> AGE_BIT != now) {
			e = o;
			break;
		}
	}
	store_relaxed(&e->key, 0);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	store_relaxed(&e->rule, rule);
	store_relaxed(&e->pc, pc);
	store_release(&e->key, key); /* [rule-key] */
}

static uint64_t pack(const struct weft_unwind_rule *r, bool mark)
{
	uint64_t v = (uint64_t)r->kind | (uint64_t)r->base << BASE_SHIFT |
		     (r->pc_known ? PC_KNOWN : 0) | (r->signal ? SIGNAL : 0) |
		     (mark ? MARK : 0);

	for (unsigned i = WEFT_UNWIND_BP; i < WEFT_UNWIND_REGISTERS; i++)
		v |= (uint64_t)r->saved[i] << (SAVED_SHIFT + 8 * (i - WEFT_UNWIND_BP));
	return v;
}

/*
 * libunwind has a stack protector, and calls libc: never on a fiber's own TLS. It blocks
 * all signals at times, and a lost FS base would not be found then.
 */
static void leave_tls(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (!c)
		return;
	weft_carrier_set_fs(c, c->fs_own);
	weft_fs_settle();
}

static uint64_t ask(uint64_t pc, bool exact, uint64_t *ret_pc)
{
	uint64_t key = key_of(pc, exact), packed;
	struct weft_unwind_rule rule;
	struct weft_module m;
	bool mark;

	leave_tls();
	mark = weft_walk_mark && weft_module_of(pc - !exact, &m) && weft_walk_mark(&m);
	weft_lock(&lock);
	unwind->rule(pc, exact, &rule);
	packed = pack(&rule, mark);
	*ret_pc = rule.pc_known
			  ? rule.pc
			  : (uint32_t)rule.cfa | (uint64_t)(uint32_t)rule.pc_at << 32;
	if (rule.has_module)
		remember(key, packed, *ret_pc);
	weft_unlock(&lock);
	return packed;
}

/* ---- walking ---------------------------------------------------------------- */

void weft_walk_begin(struct weft_unwind_frame *f, const void *sp)
{
	/* As context.h has it. */
	static const uint8_t saved[] = {WEFT_UNWIND_R15, WEFT_UNWIND_R14, WEFT_UNWIND_R13,
		WEFT_UNWIND_R12, WEFT_UNWIND_BX, WEFT_UNWIND_BP, WEFT_UNWIND_PC};
	uint64_t at = (uint64_t)sp + 8;

	for (unsigned i = 0; i < sizeof saved; i++, at += 8)
		if (load(at, &f->reg[saved[i]]))
			f->reg[saved[i]] = 0;
	f->reg[WEFT_UNWIND_SP] = at;
	f->exact = false;
}

static int step_simply(struct weft_unwind_frame *f, uint64_t rule, uint64_t pc)
{
	uint64_t cfa = f->reg[rule >> BASE_SHIFT & 7];

	if (rule & PC_KNOWN) {
		f->reg[WEFT_UNWIND_PC] = pc;
	} else {
		cfa += (uint64_t)(int64_t)(int32_t)(uint32_t)pc;
		if (load(cfa + (uint64_t)((int64_t)pc >> 32), &f->reg[WEFT_UNWIND_PC]))
			return -EFAULT;
	}
	rule >>= SAVED_SHIFT;
	for (unsigned i = WEFT_UNWIND_BP; rule; i++, rule >>= 8)
		if (rule & 0xff && load(cfa - 8 * (rule & 0xff), &f->reg[i]))
			return -EFAULT;
	/* A caller's frame lies higher, or the chain is broken and may go in circles. */
	if (cfa < f->reg[WEFT_UNWIND_SP])
		return -EINVAL;
	f->reg[WEFT_UNWIND_SP] = cfa;
	return f->reg[WEFT_UNWIND_PC] != 0;
}

static int step_hard(struct weft_unwind_frame *f)
{
	int r;

	leave_tls();
	weft_lock(&lock);
	r = unwind->step(f);
	weft_unlock(&lock);
	return r;
}

int weft_walk_next(struct weft_unwind_frame *f, bool *ret_mark)
{
	uint64_t pc = f->reg[WEFT_UNWIND_PC], rule, value;
	int r;

	*ret_mark = false;
	if (!unwind || pc >> EXACT_BIT)
		return -EINVAL;
	if (unlikely(!recall(key_of(pc, f->exact), &rule, &value)))
		rule = ask(pc, f->exact, &value);
	*ret_mark = (rule & MARK) != 0;
	if (unlikely((rule & KIND_BITS) == WEFT_UNWIND_OUTER))
		return 0;
	/*
	 * The outermost frame says so in its table, which is a rule. Where libunwind
	 * comes to an end by itself it has lost the way.
	 */
	if (unlikely((rule & KIND_BITS) == WEFT_UNWIND_HARD)) {
		r = step_hard(f);
		return r ? r : -EINVAL;
	}
	r = step_simply(f, rule, value);
	f->exact = (rule & SIGNAL) != 0;
	return r;
}

/* ---- for people -------------------------------------------------------------- */

/* Is there a call right before it? The longest is seven bytes. */
static bool follows_call(uintptr_t pc)
{
	uint64_t word;
	const unsigned char *b = (const unsigned char *)&word;

	if (load(pc - 8, &word))
		return false;
	if (b[3] == 0xe8)
		return true;
	for (int i = 1; i < 7; i++)
		if (b[i] == 0xff && (b[i + 1] & 0x38) == 0x10)
			return true;
	return false;
}

static unsigned guess(uintptr_t sp, uintptr_t *ret, unsigned max)
{
	struct weft_module m;
	unsigned n = 0;
	uint64_t word;

	sp &= ~7ul;
	for (uintptr_t at = sp; n < max && at < sp + SCAN && !load(at, &word); at += 8)
		if (weft_module_of(word, &m) && follows_call(word))
			ret[n++] = word;
	return n;
}

unsigned weft_walk_collect(
	struct weft_unwind_frame f, uintptr_t *ret, unsigned max, bool *ret_guessed)
{
	uintptr_t sp = f.reg[WEFT_UNWIND_SP];
	unsigned n = 0;
	int r = 1;
	bool mark;

	*ret_guessed = false;
	while (unwind && n < max && r > 0) {
		ret[n++] = f.reg[WEFT_UNWIND_PC];
		r = weft_walk_next(&f, &mark);
	}
	/* Known to the end, or far enough. */
	if (unwind && (r >= 0 || n > 3))
		return n;
	*ret_guessed = true;
	n = 0;
	if (f.exact || !unwind)
		ret[n++] = f.reg[WEFT_UNWIND_PC];
	return n + guess(sp, ret + n, max - n);
}

void weft_module_name(char *buf, size_t size, const struct weft_module *m)
{
	uintptr_t at = (uintptr_t)m->path;
	size_t n = 0;

	for (;; at++) {
		uint64_t word;
		char c;

		if (load(at & ~7ul, &word))
			break;
		c = (char)(word >> (at % 8 * 8));
		if (!c)
			break;
		if (c == '/')
			n = 0;
		else if (n < size - 1)
			buf[n++] = c;
	}
	buf[n] = 0;
}

const char *weft_where(char buf[WEFT_WHERE_MAX], uintptr_t address)
{
	static const char hex[] = "0123456789abcdef";
	struct weft_module m;
	char digits[16];
	size_t at = 0;
	unsigned n = 0;

	if (weft_module_of(address, &m)) {
		weft_module_name(buf, WEFT_WHERE_MAX - 21, &m);
		while (buf[at])
			at++;
		buf[at++] = '+';
		address -= m.base;
	}
	do
		digits[n++] = hex[address & 15];
	while (address >>= 4);
	buf[at++] = '0';
	buf[at++] = 'x';
	while (n)
		buf[at++] = digits[--n];
	buf[at] = 0;
	return buf;
}
