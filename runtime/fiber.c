/*
 * fiber.c - the table of fibers, their ids, their beginning and end.
 *
 * The table grows by chunks and never shrinks: a struct fiber stays readable for
 * ever, so a stale pointer (a signal sent to a thread that just ended) can be
 * checked instead of trusted. An id is an index and a generation; freed entries
 * are reused first-in first-out, and only once KEEP_FREE of them are waiting, so
 * that an id comes back after tens of thousands of others, like a kernel pid.
 *
 * Locks that processes share record their owner's id: each process counts from another
 * place. Where pids are less than 256 apart (relatives, who share memory) and no process
 * has more than 8,190 fibers, ids never coincide; elsewhere almost never.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/mman.h>

#include "sched_impl.h"
#include "attributes.h"
#include "futex.h"
#include "signals.h"

enum {
	INDEX_BITS = 21, /* WEFT_FIBER_CHUNK * WEFT_FIBER_CHUNKS */
	GENERATIONS = (WEFT_TID_MAX - WEFT_TID_MIN) >> INDEX_BITS,
	KEEP_FREE = 256,
	PID_STRIDE = 8191, /* 255 of them are less than a generation */
};

static const uint32_t TIDS = WEFT_TID_MAX - WEFT_TID_MIN;

static int tid_of_entry(uint32_t generation, uint32_t index)
{
	uint32_t n = (generation << INDEX_BITS | index) + weft_rt.tid_offset;

	return WEFT_TID_MIN + 1 + (int)(n < TIDS ? n : n - TIDS);
}

/* The entry that would have this id; whether it has is for the caller to see. */
static uint32_t index_of_tid(int tid)
{
	uint32_t n = (uint32_t)(tid - WEFT_TID_MIN - 1);

	n = n >= weft_rt.tid_offset ? n - weft_rt.tid_offset
				    : n + TIDS - weft_rt.tid_offset;
	return n & ((1u << INDEX_BITS) - 1);
}

void weft_fiber_ids_start(int pid)
{
	weft_rt.tid_offset = (uint32_t)((uint64_t)pid * PID_STRIDE % TIDS);
}

static struct fiber *table_take(void)
{
	struct runtime *rt = &weft_rt;
	struct fiber *f = NULL;

	weft_lock(&rt->table_lock);
	if (rt->free_count <= KEEP_FREE &&
		rt->fresh < (uint32_t)WEFT_FIBER_CHUNK * WEFT_FIBER_CHUNKS) {
		uint32_t chunk = rt->fresh / WEFT_FIBER_CHUNK;

		if (!rt->chunk[chunk]) {
			long p = weft_sys_map(sizeof(struct fiber) * WEFT_FIBER_CHUNK,
				PROT_READ | PROT_WRITE, MAP_NORESERVE);

			if (!weft_sys_failed(p))
				store_release(&rt->chunk[chunk], (struct fiber *)p);
		}
		if (rt->chunk[chunk]) {
			f = weft_fiber_at(rt->fresh);
			f->index = rt->fresh;
			/* Nobody sends it a signal before it is set up (send_fiber). */
			f->sig.mask = f->sig.published = ~0ull;
			store_release(&rt->fresh, rt->fresh + 1);
		}
	}
	if (!f && rt->free_head) {
		f = rt->free_head;
		rt->free_head = f->qnext;
		if (!rt->free_head)
			rt->free_tail = NULL;
		rt->free_count--;
	}
	if (f) {
		if (++f->generation >= GENERATIONS)
			f->generation = 0;
		store_release(&f->tid, tid_of_entry(f->generation, f->index));
		if (++rt->alive > rt->peak)
			rt->peak = rt->alive;
	}
	weft_unlock(&rt->table_lock);
	return f;
}

uint32_t weft_fibers_alive(void)
{
	return load_relaxed(&weft_rt.alive);
}

static void table_give(struct fiber *f)
{
	struct runtime *rt = &weft_rt;

	weft_lock(&rt->table_lock);
	store_release(&f->tid, 0);
	store_relaxed(&f->state, FIBER_FREE);
	f->qnext = NULL;
	if (rt->free_tail)
		rt->free_tail->qnext = f;
	else
		rt->free_head = f;
	rt->free_tail = f;
	rt->free_count++;
	weft_unlock(&rt->table_lock);
}

/* It is not counted any more, but still found by its id. */
static void table_leave(void)
{
	weft_lock(&weft_rt.table_lock);
	weft_rt.alive--;
	weft_unlock(&weft_rt.table_lock);
}

static void reset(struct fiber *f, uintptr_t fs_base)
{
	f->fs_base = fs_base;
	f->carrier = NULL;
	f->wake = (f->wake & ~(uint32_t)WAKE_STATE) | WEFT_WAKE_BUSY;
	f->state = FIBER_NEW;
	f->reason = WEFT_REASON_NONE;
	f->flags = 0;
	f->vector_live = 0;
	f->tried = 0;
	f->creating = 0;
	f->in_weft = 0;
	f->helper = NULL;
	f->bound = NULL;
	f->kernel_tid = 0;
	f->bind_due = 0;
	f->attention = f->give_way = 0;
	f->interruptible = 0;
	f->accepted = 0;
	f->heard = 0;
	f->lent_id = NULL;
	f->follows = f->asked_on = NULL;
	f->io_carrier = NULL;
	f->io_pending = 0;
	f->io_words = 0;
	f->io_fd = -1;
	f->again_fd = -1;
	f->timer_carrier = NULL;
	f->clear_tid = NULL;
	f->robust_head = NULL;
	f->proxy = NULL;
	f->pins = 0;
	f->robust_len = 0;
	f->start_routine = 0;
	f->ran = 0;
	f->computed_tsc = 0;
	weft_memset(f->name, 0, sizeof f->name);
	weft_attributes_drop(f);
	weft_cpu_reset(f);
	weft_signals_reset(f);
	store_relaxed(&f->sig_queued, 0);
}

struct fiber *weft_fiber_new(
	void *stack_top, uintptr_t fs_base, void (*fn)(void *), void *arg)
{
	struct fiber *f = table_take();

	if (!f)
		return NULL;
	reset(f, fs_base);
	f->sp = weft_context_make(stack_top, fn, arg);
	return f;
}

struct fiber *weft_fiber_new_clone(
	void *stack_top, uintptr_t fs_base, const struct weft_regs *regs)
{
	struct fiber *f = table_take();

	if (!f)
		return NULL;
	reset(f, fs_base);
	f->sp = weft_context_make_clone(stack_top, regs);
	return f;
}

void weft_fiber_start(struct fiber *f)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (c)
		weft_count(c, CREATED);
	weft_unpark(f);
}

struct fiber *weft_fiber_new_main(void)
{
	struct fiber *f = table_take();

	if (!f)
		return NULL;
	reset(f, weft_rdfsbase());
	store_release(&f->tid, weft_rt.pid);
	f->flags = FIBER_MAIN;
	f->state = FIBER_RUNNING;
	/* libc registered it before there was weft. */
	if (weft_sys3(SYS_get_robust_list, weft_rt.pid, (long)&f->robust_head,
		    (long)&f->robust_len))
		f->robust_head = NULL;
	return f;
}

void weft_fiber_table_free(void)
{
	struct runtime *rt = &weft_rt;

	for (int i = 0; i < WEFT_FIBER_CHUNKS && rt->chunk[i]; i++) {
		weft_sys_unmap(rt->chunk[i], sizeof(struct fiber) * WEFT_FIBER_CHUNK);
		rt->chunk[i] = NULL;
	}
	rt->main_fiber = NULL;
	rt->fresh = rt->free_count = rt->alive = rt->peak = 0;
	rt->free_head = rt->free_tail = NULL;
}

/* ---- the end -------------------------------------------------------------- */

/* A word that set_tid_address(2) named: a bad one is nobody's error. */
static void clear_moved(int *word)
{
	uint32_t now = 0;

	while (!weft_cas_user((uint32_t *)word, &now, 0))
		continue;
}

static bool exit_commit(struct fiber *f, void *arg)
{
	struct carrier *c = weft_carrier_self();
	int *clear_tid = f->clear_tid;
	bool moved = f->flags & FIBER_TID_MOVED;

	(void)arg;
	/*
	 * The thread control block may be unmapped as soon as *clear_tid is 0. FS
	 * base may go on pointing there: nothing on a carrier reads through it.
	 */
	store_relaxed(&f->state, FIBER_EXITED);
	if (f->vector_area) {
		weft_vector_area_put(f->vector_area);
		f->vector_area = NULL;
	}
	weft_signals_drop(f);
	weft_attributes_drop(f);
	if (f == weft_rt.main_fiber)
		store_relaxed(&weft_rt.main_fiber, NULL);
	weft_count(c, EXITED);
	if (unlikely(f->flags & FIBER_BOUND))
		weft_bound_end(f);
	table_leave();
	/*
	 * Its id is given up after the word has become 0: who waits for the word while
	 * it holds an id of no fiber waits for a kernel thread, in the kernel
	 * (wait_shared, sys_thread.c), which finds the 0. But before its joiner is
	 * woken, to whom the id is nobody's.
	 */
	if (clear_tid && unlikely(moved))
		clear_moved(clear_tid);
	else if (clear_tid)
		store_seq_cst(clear_tid, 0);
	table_give(f);
	/* Who waits for a word that moved, or waited while it was away: in the kernel. */
	if (clear_tid && !weft_futex_wake(clear_tid, 1, UINT32_MAX, true) &&
		unlikely(moved))
		weft_sys3(SYS_futex, (long)clear_tid, FUTEX_WAKE, 1);
	return true;
}

void weft_fiber_exit(void)
{
	struct fiber *f = weft_fiber_self();

	f->vector_live = 0;
	if (unlikely(f->pins))
		weft_pin_drop(f);
	if (unlikely(f->proxy))
		weft_proxy_drop(f);
	if (unlikely(f->flags & FIBER_BOUND))
		weft_bound_drop_robust(f);
	weft_futex_walk_robust(f->robust_head, f->robust_len, f->tid);
	weft_park(WEFT_REASON_EXIT, exit_commit, NULL);
	weft_bug("an exited fiber ran");
}

/* ---- asking --------------------------------------------------------------- */

struct fiber *weft_fiber_self(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	return c ? c->current : NULL;
}

int weft_fiber_tid(const struct fiber *f)
{
	return f->tid;
}

struct fiber *weft_fiber_main(void)
{
	return load_relaxed(&weft_rt.main_fiber);
}

struct fiber *weft_fiber_by_tid(int tid)
{
	if (tid == weft_rt.pid)
		return weft_fiber_main();
	/* libc may just have lent it its proxy's. */
	if (tid <= WEFT_TID_MIN || tid > WEFT_TID_MAX) {
		struct fiber *owner = weft_proxy_owner(tid);

		return owner ? owner : weft_bound_owner(tid);
	}
	uint32_t index = index_of_tid(tid);
	struct fiber *chunk = load_acquire(&weft_rt.chunk[index / WEFT_FIBER_CHUNK]);

	if (!chunk)
		return NULL;
	struct fiber *f = &chunk[index % WEFT_FIBER_CHUNK];

	return load_acquire(&f->tid) == tid ? f : NULL;
}

void weft_fiber_set_clear_tid(struct fiber *f, int *word)
{
	f->clear_tid = word;
}

void weft_fiber_move_clear_tid(struct fiber *f, int *word)
{
	f->flags |= FIBER_TID_MOVED;
	f->clear_tid = word;
}

int *weft_fiber_clear_tid(const struct fiber *f)
{
	return f->clear_tid;
}

void weft_fiber_set_vector_live(struct fiber *f, bool live)
{
	f->vector_live = live;
}

void weft_fiber_lent_id(struct fiber *f, int *id)
{
	f->own_id = id ? *id : 0;
	f->lent_id = id;
}

void weft_fiber_set_tried(struct fiber *f, uint8_t tried)
{
	f->tried = tried;
}

uint8_t weft_fiber_take_tried(struct fiber *f)
{
	uint8_t tried = f->tried;

	f->tried = 0;
	return tried;
}

uintptr_t weft_fiber_fs_base(const struct fiber *f)
{
	return f->fs_base;
}

void weft_fiber_set_fs_base(struct fiber *f, uintptr_t v)
{
	f->fs_base = v;
	weft_carrier_set_fs(weft_carrier_self(), v);
}

void weft_fiber_set_robust(struct fiber *f, void *head, size_t len)
{
	f->robust_head = head;
	f->robust_len = len;
}

void weft_fiber_get_robust(struct fiber *f, void **ret_head, size_t *ret_len)
{
	*ret_head = f->robust_head;
	*ret_len = f->robust_len;
}

void weft_fiber_set_creating(struct fiber *f, enum weft_creating what)
{
	f->creating = (uint8_t)what;
}

enum weft_creating weft_fiber_creating(const struct fiber *f)
{
	return (enum weft_creating)f->creating;
}

void weft_fiber_set_name(struct fiber *f, const char *name)
{
	size_t i = 0;

	for (; i < sizeof f->name - 1 && name[i]; i++)
		f->name[i] = name[i];
	weft_memset(f->name + i, 0, sizeof f->name - i);
}

const char *weft_fiber_name(const struct fiber *f)
{
	return f->name;
}

void weft_fiber_set_start(struct fiber *f, uint64_t start_routine)
{
	f->start_routine = start_routine;
}

bool weft_fiber_in_weft(struct fiber *f, bool in)
{
	bool was = f->in_weft;

	store_relaxed(&f->in_weft, in);
	/* A signal handler on this kernel thread reads it: no reordering by gcc. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return was;
}

/*
 * A CLONE_VM child (vfork, posix_spawn's) runs with the parent's FS and GS base
 * and must reach the kernel, while the parent fiber is stopped in its clone. The
 * child's kernel thread id tells them apart; asking costs a system call, so only
 * fibers marked by weft_fiber_expect_vm_child pay for it.
 */
struct fiber *weft_enter_fiber(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (unlikely(!c))
		return NULL;
	struct fiber *f = c->current;

	if (likely(!f || !(f->flags & (FIBER_PASS | FIBER_KEEP_PASS))))
		return f;
	if (weft_sys0(SYS_gettid) != c->tid)
		return NULL;
	if (f->flags & FIBER_PASS) {
		/* The child has gone its way, perhaps with the fiber's real mask. */
		f->flags &= (uint8_t)~FIBER_PASS;
		weft_signals_unblock();
	}
	return f;
}

struct fiber *weft_enter_carried(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	struct fiber *f = c ? c->current : NULL;

	if (likely(!f || !(f->flags & (FIBER_PASS | FIBER_KEEP_PASS | FIBER_BOUND))))
		return f;
	return f->flags & FIBER_BOUND ? NULL : weft_enter_fiber();
}

/*
 * No fiber ever runs here; its counters are nobody's. Not GS base 0, as native threads
 * have it: then each call would ask the kernel, and in a pid namespace of its own such a
 * process may have our number (weft_runtime_is_here).
 */
static struct carrier stranger = {.self = &stranger, .kind = CARRIER_HELPER};

uintptr_t weft_stranger(void)
{
	return (uintptr_t)&stranger;
}

void weft_fiber_expect_vm_child(struct fiber *f, bool may_outlive)
{
	/* The child has what the kernel believes to be the parent's FS base. */
	weft_fs_settle();
	f->flags |= may_outlive ? FIBER_KEEP_PASS | FIBER_PASS : FIBER_PASS;
}
