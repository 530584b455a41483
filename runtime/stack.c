/*
 * stack.c - slabs of equal stacks, one large NORESERVE mapping each.
 *
 * One mapping for many stacks, and guards that are no mappings of their own
 * (MADV_GUARD_INSTALL, Linux 6.13), keep vm.max_map_count from being the limit on
 * threads. Where the kernel lacks it, a guard is a PROT_NONE page as libc would
 * make it, up to GUARD_BUDGET stacks; beyond that a stack has no guard, and the
 * log says so once.
 *
 * A slot is FRESH (never used), LIVE (libc has it) or FREE. Free slots are reused
 * last-in first-out, while their pages are warm (a page fault costs more than a
 * context switch). Above WARM_BYTES of resident free stacks, the memory of a slot
 * is given back when it is freed; its guard stays.
 *
 * Rejected: handing stacks to libc through pthread_attr_setstack. It makes every
 * stack a "user" stack, which pthread_getattr_np (guard size), executable stacks
 * and pthread_join's freeing then treat differently from what the program asked
 * for; and libc would allocate and free a dtv for every thread, while its own
 * stack cache keeps them.
 */
#include "stack.h"

#include <errno.h>
#include <sys/mman.h>

#include "sched_impl.h"

enum {
	PAGE = 4096,
	FIRST_SLOTS = 32,
	MOST_SLOTS = 4096,
	REGION_SHIFT = 28, /* slabs are aligned to 256 MiB, so that address finds slab */
	REGIONS = 1 << 14, /* hash of regions; 4 TiB of stacks at half load */
	GUARD_BUDGET = 16000,
	TRIM_EVERY = 32,
	GUARD_INSTALL = 102,
	GUARD_REMOVE = 103,
};
/* Beyond this a stack is not one of many: libc may map it itself. */
static const size_t LARGEST = 16ull << 30;
static const size_t WARM_BYTES = 64u << 20;
/* Resident bytes of a stack nobody measured: the control block and a few frames. */
static const size_t WARM_GUESS = 3 * PAGE;

struct slot {
	uint32_t next;  /* free list, index + 1 */
	uint32_t guard; /* pages guarded */
	uint8_t live, tainted, used, ends;
};

struct slab {
	uintptr_t base;
	size_t stack_size;
	uint32_t slots, fresh; /* fresh: next slot never used */
	uint32_t free;         /* index + 1 of the warmest free slot */
	struct slab *next;     /* same stack size */
	struct slot slot[];
};

struct size_class {
	size_t size;
	struct slab *slabs;
	struct size_class *next;
	uint32_t grow; /* slots of the next slab */
};

static struct weft_lock lock;
static struct size_class *classes;
static struct {
	uintptr_t region;
	struct slab *slab;
} regions[REGIONS];
static size_t clear_top = 4096;
static size_t warm_bytes;
static uint64_t live_stacks, free_stacks, reserved;
static int guard_install_works = -1;
static uint32_t mprotect_guards;
static char *arena, *arena_end; /* for struct slab and struct size_class */

static void *take(size_t n)
{
	n = (n + 63) & ~(size_t)63;
	if ((size_t)(arena_end - arena) < n) {
		size_t chunk = n > (256u << 10) ? n : 256u << 10;
		long p = weft_sys_map(chunk, PROT_READ | PROT_WRITE, MAP_NORESERVE);

		if (weft_sys_failed(p))
			return NULL;
		arena = (char *)p;
		arena_end = arena + chunk;
	}
	void *r = arena;

	arena += n;
	return r;
}

/* ---- address to slab ------------------------------------------------------ */

static unsigned region_slot(uintptr_t region)
{
	return (unsigned)((region * 0x9e3779b97f4a7c15ull) >> 50);
}
_Static_assert(REGIONS == 1 << (64 - 50), "the hash's top bits");

static bool add_regions(struct slab *s, size_t bytes)
{
	for (uintptr_t r = s->base >> REGION_SHIFT;
		r <= (s->base + bytes - 1) >> REGION_SHIFT; r++) {
		unsigned i = region_slot(r), n = 0;

		while (regions[i].slab && n++ < REGIONS)
			i = (i + 1) % REGIONS;
		if (regions[i].slab)
			return false;
		regions[i].region = r;
		store_release(&regions[i].slab, s);
	}
	return true;
}

static struct slab *slab_of(uintptr_t addr)
{
	uintptr_t r = addr >> REGION_SHIFT;
	unsigned i = region_slot(r);

	for (;; i = (i + 1) % REGIONS) {
		struct slab *s = load_acquire(&regions[i].slab);

		if (!s)
			return NULL;
		if (regions[i].region == r)
			return addr >= s->base &&
					       addr < s->base + s->slots * s->stack_size
				       ? s
				       : NULL;
	}
}

static struct slot *slot_of(uintptr_t addr, struct slab **ret_slab)
{
	struct slab *s = slab_of(addr);

	if (!s)
		return NULL;
	*ret_slab = s;
	return &s->slot[(addr - s->base) / s->stack_size];
}

static uintptr_t slot_base(const struct slab *s, const struct slot *k)
{
	return s->base + (size_t)(k - s->slot) * s->stack_size;
}

/* ---- guards --------------------------------------------------------------- */

static long install_guard(uintptr_t at, size_t len)
{
	long r;

	if (guard_install_works) {
		r = weft_sys3(SYS_madvise, (long)at, (long)len, GUARD_INSTALL);
		if (r == 0) {
			guard_install_works = 1;
			return 0;
		}
		if (guard_install_works == 1 || r != -EINVAL)
			return r;
		guard_install_works = 0;
	}
	if (mprotect_guards >= GUARD_BUDGET) {
		if (mprotect_guards++ == GUARD_BUDGET)
			weft_log(
				"this kernel has no MADV_GUARD_INSTALL and guard pages use up "
				"vm.max_map_count: further stacks have no guard page");
		return 0;
	}
	r = weft_sys3(SYS_mprotect, (long)at, (long)len, PROT_NONE);
	if (r == 0)
		mprotect_guards++;
	return r;
}

static long remove_guard(uintptr_t at, size_t len)
{
	if (guard_install_works == 1)
		return weft_sys3(SYS_madvise, (long)at, (long)len, GUARD_REMOVE);
	return weft_sys3(SYS_mprotect, (long)at, (long)len, PROT_READ | PROT_WRITE);
}

static long set_guard(struct slab *s, struct slot *k, size_t len)
{
	uintptr_t base = slot_base(s, k);
	uint32_t pages = (uint32_t)(len / PAGE);
	long r = 0;

	if (k->guard < pages)
		r = install_guard(base + (size_t)k->guard * PAGE,
			(size_t)(pages - k->guard) * PAGE);
	else if (k->guard > pages)
		r = remove_guard(base + len, (size_t)(k->guard - pages) * PAGE);
	if (r == 0)
		k->guard = pages;
	return r;
}

/* ---- slabs ---------------------------------------------------------------- */

static struct size_class *class_of(size_t size)
{
	struct size_class *c;

	for (c = classes; c; c = c->next)
		if (c->size == size)
			return c;
	c = take(sizeof *c);
	if (!c)
		return NULL;
	c->size = size;
	c->slabs = NULL;
	c->grow = FIRST_SLOTS;
	c->next = classes;
	classes = c;
	return c;
}

static struct slab *new_slab(struct size_class *c)
{
	for (uint32_t slots = c->grow; slots; slots /= 2) {
		size_t bytes = slots * c->size, align = (size_t)1 << REGION_SHIFT;
		struct slab *s;
		long p;
		uintptr_t base;

		/* Small slabs would waste a region each: grow them to fill one. */
		if (slots > FIRST_SLOTS && bytes < align / 2)
			slots = (uint32_t)(align / 2 / c->size), bytes = slots * c->size;
		p = weft_sys_map(bytes + align, PROT_NONE, MAP_NORESERVE);
		if (weft_sys_failed(p))
			continue;
		base = ((uintptr_t)p + align - 1) & ~(align - 1);
		if (base > (uintptr_t)p)
			weft_sys_unmap((void *)p, base - (uintptr_t)p);
		if (base + bytes < (uintptr_t)p + bytes + align)
			weft_sys_unmap(
				(void *)(base + bytes), (uintptr_t)p + align - base);
		s = take(sizeof *s + slots * sizeof(struct slot));
		if (!s || weft_sys3(SYS_mprotect, (long)base, (long)bytes,
				  PROT_READ | PROT_WRITE)) {
			weft_sys_unmap((void *)base, bytes);
			continue;
		}
		/* A stack in a huge page costs 2 MiB for its first byte. */
		weft_sys3(SYS_madvise, (long)base, (long)bytes, MADV_NOHUGEPAGE);
		s->base = base;
		s->stack_size = c->size;
		s->slots = slots;
		s->fresh = 0;
		s->free = 0;
		weft_memset(s->slot, 0, slots * sizeof(struct slot));
		if (!add_regions(s, bytes)) {
			weft_sys_unmap((void *)base, bytes);
			return NULL;
		}
		s->next = c->slabs;
		c->slabs = s;
		reserved += bytes;
		if (slots >= c->grow && c->grow < MOST_SLOTS)
			c->grow *= 4;
		return s;
	}
	return NULL;
}

static struct slot *take_slot(struct size_class *c, struct slab **ret_slab)
{
	struct slab *fresh = NULL;

	for (struct slab *s = c->slabs; s; s = s->next) {
		if (s->free) {
			struct slot *k = &s->slot[s->free - 1];

			s->free = k->next;
			free_stacks--;
			*ret_slab = s;
			return k;
		}
		if (s->fresh < s->slots)
			fresh = s;
	}
	if (!fresh)
		fresh = new_slab(c);
	if (!fresh)
		return NULL;
	*ret_slab = fresh;
	return &fresh->slot[fresh->fresh++];
}

/* ---- what libc asks for --------------------------------------------------- */

void weft_stack_set_clear_top(size_t bytes)
{
	clear_top = bytes;
}

long weft_stack_map(size_t size)
{
	struct carrier *self = (struct carrier *)weft_rdgsbase();
	struct size_class *c;
	struct slot *k = NULL;
	struct slab *s = NULL;
	bool warm = false;

	if (!size || size > LARGEST)
		return -ENOMEM;
	weft_lock(&lock);
	c = class_of(size);
	if (c)
		k = take_slot(c, &s);
	if (k) {
		k->live = 1;
		warm = k->used;
		if (warm)
			warm_bytes -= warm_bytes < WARM_GUESS ? warm_bytes : WARM_GUESS;
		k->used = 1;
		live_stacks++;
	}
	weft_unlock(&lock);
	if (!k)
		return -ENOMEM;
	if (warm) {
		uintptr_t top = slot_base(s, k) + size;
		size_t n = clear_top < size - (size_t)k->guard * PAGE
				   ? clear_top
				   : size - (size_t)k->guard * PAGE;

		weft_memset((void *)(top - n), 0, n);
	}
	if (self) {
		if (warm)
			weft_count(self, STACK_REUSES);
		else
			weft_count(self, STACK_MAPS);
	}
	return (long)slot_base(s, k);
}

bool weft_stack_owns(uintptr_t addr, size_t len)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);

	return k && k->live && addr + len <= slot_base(s, k) + s->stack_size;
}

bool weft_stack_bounds(
	uintptr_t addr, uintptr_t *ret_base, size_t *ret_size, size_t *ret_guard)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);

	if (!k || !k->live)
		return false;
	*ret_base = slot_base(s, k);
	*ret_size = s->stack_size;
	*ret_guard = (size_t)k->guard * PAGE;
	return true;
}

long weft_stack_guard(uintptr_t addr, size_t len)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);
	long r;

	if (!k || addr != slot_base(s, k) || len > s->stack_size)
		return -EINVAL;
	weft_lock(&lock);
	r = set_guard(s, k, len);
	weft_unlock(&lock);
	return r;
}

void weft_stack_taint(uintptr_t addr)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);

	if (k)
		k->tainted = 1;
}

bool weft_stack_skip_trim(uintptr_t addr)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);

	/*
	 * One exit in TRIM_EVERY trims: what a deep call chain once touched goes
	 * back, and the rest of the exits do not pay a system call for nothing.
	 */
	return k && ++k->ends % TRIM_EVERY;
}

bool weft_stack_unmap(uintptr_t addr, size_t len)
{
	struct slab *s;
	struct slot *k = slot_of(addr, &s);
	bool cold;

	if (!k || !k->live || addr != slot_base(s, k) || len != s->stack_size)
		return false;
	weft_lock(&lock);
	cold = k->tainted || warm_bytes + WARM_GUESS > WARM_BYTES;
	if (!cold)
		warm_bytes += WARM_GUESS;
	weft_unlock(&lock);
	if (k->tainted) {
		/* Protections are unknown: a new mapping in the same place. */
		weft_sys6(SYS_mmap, (long)addr, (long)len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
		k->tainted = 0;
		k->guard = 0;
		k->used = 0;
	} else if (cold) {
		/* Guards survive MADV_DONTNEED (madvise(2), MADV_GUARD_INSTALL). */
		weft_sys3(SYS_madvise, (long)addr, (long)len, MADV_DONTNEED);
		k->used = 0;
	}
	weft_lock(&lock);
	k->live = 0;
	k->next = s->free;
	s->free = (uint32_t)(k - s->slot) + 1;
	live_stacks--;
	free_stacks++;
	weft_unlock(&lock);
	return true;
}

void weft_stack_stats(struct weft_stack_stats *ret)
{
	weft_lock(&lock);
	ret->live = live_stacks;
	ret->warm = free_stacks;
	ret->reserved_bytes = reserved;
	weft_unlock(&lock);
}

/* ---- vector areas --------------------------------------------------------- */

/*
 * Where a fiber that parks at a site keeps its vector registers: not on its
 * stack, which may be 16 KiB. Taken at its first such park, pooled at its end.
 */
static struct weft_lock area_lock;
static void *area_free;
static char *area_next, *area_end;

void *weft_vector_area_get(void)
{
	size_t size = (weft_vector_size() + 63) & ~(size_t)63;
	void *p;

	weft_lock(&area_lock);
	p = area_free;
	if (p) {
		area_free = *(void **)p;
	} else {
		if ((size_t)(area_end - area_next) < size) {
			long m = weft_sys_map(
				256u << 10, PROT_READ | PROT_WRITE, MAP_NORESERVE);

			if (weft_sys_failed(m))
				weft_bug("out of memory for vector registers");
			area_next = (char *)m;
			area_end = area_next + (256u << 10);
		}
		p = area_next;
		area_next += size;
	}
	weft_unlock(&area_lock);
	return p;
}

void weft_vector_area_put(void *area)
{
	weft_lock(&area_lock);
	*(void **)area = area_free;
	area_free = area;
	weft_unlock(&area_lock);
}

void weft_stacks_lock(void)
{
	weft_lock(&lock);
	weft_lock(&area_lock);
}

void weft_stacks_unlock(void)
{
	weft_unlock(&area_lock);
	weft_unlock(&lock);
}
