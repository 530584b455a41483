/*
 * runtime.c - starting and forgetting the runtime.
 *
 * Start-up happens on the program's only thread with every signal blocked. The
 * kernel threads come last, so that everything before can fail and be undone.
 */
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>

#include "attributes.h"
#include "deadline.h"
#include "engine.h"
#include "making.h"
#include "signals.h"
#include "thread_timers.h"
#include "walk.h"

struct runtime weft_rt;

static unsigned count_cpus(void)
{
	unsigned long mask[1024 / 64];
	long n = weft_sys3(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
	unsigned cpus = 0;

	for (long i = 0; i < n / 8; i++)
		for (unsigned long m = mask[i]; m; m &= m - 1)
			cpus++;
	return cpus ? cpus : 1;
}

/* A started carrier's first and only function. */
static void carrier_main(void *arg)
{
	struct carrier *c = arg;
	int err = weft_engine_enable(c);

	if (err)
		weft_bug_error("a carrier could not enable its engine", err);
	weft_engine_enter(c);
	weft_sched_loop(c);
}

/*
 * The same for one that is made later, whom nobody awaits: it is listed already, as
 * ODD_NEW. One that cannot enable its engine ends, and is made again when another one is
 * wanted.
 */
static void further_main(void *arg)
{
	struct carrier *c = arg;
	int err = weft_fault_hits(WEFT_FAULT_ENABLE) ? -EBADF : weft_engine_enable(c);

	/*
	 * Somebody did something to its numbers, most of the time: whose they are now is
	 * not known, and they are not closed.
	 */
	if (err && err != -ENOMEM)
		weft_carrier_disown(c);
	if (!err)
		fetch_and_seq_cst(&c->odd, ~ODD_NEW);
	store_release(&c->began, err ? err : 1); /* [carrier-began] */
	weft_sys3(SYS_futex, (long)&c->began, FUTEX_WAKE_PRIVATE, INT32_MAX);
	if (err)
		weft_carrier_end(c);
	weft_engine_enter(c);
	weft_sched_loop(c);
}

bool weft_carrier_begins(struct carrier *c)
{
	int began;

	while (!(began = load_acquire(&c->began))) /* [carrier-began] */
		weft_sys4(SYS_futex, (long)&c->began, FUTEX_WAIT_PRIVATE, 0, 0);
	return began > 0;
}

/* One that is listed and could not begin, and has left its stack. */
static struct carrier *a_failed_one(void)
{
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (load_acquire(&c->began) < 0 &&
			!load_acquire(&c->lives)) /* [carrier-began] */
			return c;
	}
	return NULL;
}

/*
 * Another engine, in place of one that is not its own any more. Others may be looking at
 * that one's memory: it is never unmapped.
 */
static int open_again(struct carrier *c)
{
	struct carrier *spare = weft_carrier_new(c->id, CARRIER_FULL);
	int err;

	if (!spare)
		return -ENOMEM;
	err = weft_carrier_open(spare);
	if (!err)
		weft_carrier_take_engine(c, spare);
	weft_carrier_free(spare);
	return err;
}

static int make_again(struct carrier *c)
{
	int err = c->began == -ENOMEM ? 0 : open_again(c);

	if (err)
		return err;
	store_relaxed(&c->began, 0);
	err = weft_carrier_spawn(c, further_main);
	if (err)
		store_release(&c->began, -ENOMEM); /* its engine is as it should be */
	else
		weft_carrier_watch(c);
	return err;
}

/* It is listed before it runs: the kernel may not let it for long. */
static int make_one(unsigned n, struct carrier **ret)
{
	struct carrier *c;
	int err;

	if (n == WEFT_CARRIER_TABLE)
		return -EAGAIN;
	c = weft_carrier_new(n, CARRIER_FULL);
	if (!c)
		return -ENOMEM;
	c->odd = ODD_NEW;
	err = weft_carrier_open(c);
	err = err ? err : weft_carrier_spawn(c, further_main);
	if (err) {
		weft_carrier_free(c);
		return err;
	}
	weft_count(c, ADDED);
	weft_carrier_watch(c);
	weft_rt.carrier[n] = c;
	store_release(&weft_rt.carriers, n + 1);
	*ret = c;
	return 0;
}

int weft_carrier_add(struct carrier **ret)
{
	struct carrier *c;
	int err;

	weft_lock(&weft_rt.threads_lock);
	weft_making_begin();
	c = a_failed_one();
	err = c ? make_again(c) : make_one(weft_rt.carriers, &c);
	weft_making_end();
	weft_unlock(&weft_rt.threads_lock);
	if (ret)
		*ret = c;
	return err;
}

static void free_carriers(void)
{
	for (unsigned i = 0; i < weft_rt.target; i++) {
		weft_carrier_free(weft_rt.carrier[i]);
		weft_rt.carrier[i] = NULL;
	}
	store_release(&weft_rt.carriers, 0);
}

/* Every carrier's ring or epoll set; this thread is going to be the first carrier. */
static int open_carriers(unsigned n, const char **ret_what)
{
	int err = 0;

	*ret_what = weft_engine_name();
	for (unsigned i = 0; i < n && !err; i++)
		err = weft_carrier_open(weft_rt.carrier[i]);
	if (!err)
		err = weft_engine_enable(weft_rt.carrier[0]);
	if (!err || !weft_engine_fall_back(err))
		return err;
	for (unsigned i = 0; i < n; i++)
		weft_carrier_close(weft_rt.carrier[i]);
	return open_carriers(n, ret_what);
}

int weft_runtime_start(const struct weft_config *config, const char **ret_what)
{
	struct runtime *rt = &weft_rt;
	struct carrier *home;
	unsigned n;
	int err;

	*ret_what = "setting FS base";
	err = weft_fs_check();
	if (err)
		return err;
	/* Threads that are made from here on inherit a GS base that can be read. */
	weft_wrgsbase(0);
	rt->config = *config;
	rt->pid = (int)weft_sys0(SYS_getpid);
	weft_fiber_ids_start(rt->pid);
	weft_attributes_start();
	rt->cpus = count_cpus();
	n = config->carriers ? config->carriers : rt->cpus < 2 ? 2 : rt->cpus;
	if (n > WEFT_CARRIERS_MAX)
		n = WEFT_CARRIERS_MAX;
	rt->target = n;
	if (!rt->config.carriers_cap)
		rt->config.carriers_cap = WEFT_CARRIERS_CAP;
	weft_vector_init();

	*ret_what = "memory for a carrier";
	for (unsigned i = 0; i < n; i++) {
		rt->carrier[i] = weft_carrier_new(i, CARRIER_FULL);
		err = -ENOMEM;
		if (!rt->carrier[i])
			goto out_carriers;
	}
	*ret_what = "io_uring";
	err = weft_engine_choose();
	if (!err)
		err = open_carriers(n, ret_what);
	if (err)
		goto out_carriers;
	home = rt->carrier[0];
	*ret_what = "memory for fibers";
	err = -ENOMEM;
	rt->main_fiber = weft_fiber_new_main();
	if (!rt->main_fiber)
		goto out_carriers;

	/* This thread is carrier 0 from here on, and stands on the main fiber's stack. */
	home->sched_sp = weft_context_make(home->sched_top, weft_sched_home, home);
	home->fs_loaded = rt->main_fiber->fs_base;
	home->current = rt->main_fiber;
	rt->main_fiber->carrier = home;
	weft_cpu_start(home, rt->main_fiber);
	*ret_what = "the signal thread";
	err = weft_signals_start();
	if (err)
		goto out_main;
	*ret_what = "the monitor's thread";
	err = config->unwatched ? 0 : weft_monitor_start();
	if (err)
		goto out_signals;
	weft_carrier_enter(home);
	weft_carrier_watch(home);
	weft_engine_enter(home);
	/* Carriers look at each other's queues: each is listed once it runs. */
	store_release(&rt->carriers, 1);
	store_release(&rt->running, true);

	*ret_what = "a carrier's kernel thread";
	for (unsigned i = 1; i < n; i++) {
		err = weft_carrier_spawn(rt->carrier[i], carrier_main);
		if (!err) {
			weft_carrier_watch(rt->carrier[i]);
			store_release(&rt->carriers, i + 1);
			continue;
		}
		if (i == 1)
			goto out_running;
		/* Fewer carriers are fewer cores, not another behaviour. */
		rt->target = i;
		for (; i < n; i++) {
			weft_carrier_free(rt->carrier[i]);
			rt->carrier[i] = NULL;
		}
	}
	/* Before there were carriers it had nothing to watch. */
	weft_monitor_wake();
	*ret_what = NULL;
	return 0;

out_running:
	store_release(&rt->running, false);
	weft_carrier_leave(home);
	weft_monitor_stop();
out_signals:
	weft_signals_stop();
out_main:
	weft_fiber_table_free();
out_carriers:
	free_carriers();
	return err;
}

int weft_runtime_spawn(void (*fn)(void *))
{
	struct carrier *c = weft_carrier_new(3000, CARRIER_HELPER);
	int err;

	if (!c)
		return -ENOMEM;
	err = weft_carrier_spawn(c, fn);
	if (err)
		weft_carrier_free(c);
	return err;
}

bool weft_runtime_running(void)
{
	return load_acquire(&weft_rt.running);
}

const struct weft_config *weft_runtime_config(void)
{
	return &weft_rt.config;
}

unsigned weft_runtime_cpus(void)
{
	return weft_rt.cpus;
}

/* ---- fork ----------------------------------------------------------------- */

void weft_runtime_lock_all(void)
{
	weft_fs_settle();
	weft_lock(&weft_rt.threads_lock);
	weft_lock(&weft_rt.table_lock);
	weft_signals_lock();
	weft_futex_lock_all();
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		weft_lock(&weft_rt.carrier[i]->timers.lock);
		weft_lock(&weft_rt.carrier[i]->spill_lock);
	}
	weft_thread_timers_lock();
	weft_attributes_lock();
	weft_stacks_lock();
	weft_proxy_lock();
	weft_offload_lock();
	weft_walk_lock();
}

void weft_runtime_unlock_all(void)
{
	weft_walk_unlock();
	weft_offload_unlock();
	weft_proxy_unlock();
	weft_stacks_unlock();
	weft_attributes_unlock();
	weft_thread_timers_unlock();
	for (unsigned i = weft_rt.carriers; i--;) {
		weft_unlock(&weft_rt.carrier[i]->spill_lock);
		weft_unlock(&weft_rt.carrier[i]->timers.lock);
	}
	weft_futex_unlock_all();
	weft_signals_unlock();
	weft_unlock(&weft_rt.table_lock);
	weft_unlock(&weft_rt.threads_lock);
}

/*
 * The child is one kernel thread with a copy of everything. The parent's fibers
 * stay in the table as memory that is never used again; their stacks belong to
 * libc, whose reclaim_stacks gives them to its cache.
 */
void weft_runtime_forget(void)
{
	struct runtime *rt = &weft_rt;

	for (unsigned i = 0; i < rt->carriers; i++) {
		struct carrier *c = rt->carrier[i];

		weft_engine_forget(c);
		weft_sys1(SYS_close, c->event_fd);
		if (c->stat_fd >= 0)
			weft_sys1(SYS_close, c->stat_fd);
		rt->carrier[i] = NULL;
	}
	rt->carriers = 0;
	rt->helpers = NULL;
	rt->sleepers = 0;
	rt->stuck = 0;
	rt->main_fiber = NULL;
	for (int i = 0; i < WEFT_FIBER_CHUNKS; i++)
		rt->chunk[i] = NULL;
	rt->fresh = rt->free_count = rt->alive = rt->peak = 0;
	rt->free_head = rt->free_tail = NULL;
	weft_futex_forget();
	weft_offload_forget();
	weft_proxy_forget();
	weft_bound_forget();
	weft_making_forget();
	weft_monitor_forget();
	weft_clocks_forget();
	weft_signals_forget();
	weft_thread_timers_forget();
	weft_runtime_unlock_all();
	weft_fs_on_loan = false;
	weft_bases_forget();
	weft_wrgsbase(0);
	store_release(&rt->running, false);
}

/* ---- descriptors ---------------------------------------------------------- */

bool weft_runtime_owns_fd(int fd)
{
	if (!load_acquire(&weft_rt.running) || fd < 0)
		return false;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (fd == c->event_fd || fd == weft_engine_fd(c) || fd == c->stat_fd)
			return true;
	}
	return false;
}

int weft_runtime_move_fd(int fd)
{
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];
		bool event = fd == c->event_fd, stat = fd == c->stat_fd;
		long to;

		if (!event && !stat && fd != weft_engine_fd(c))
			continue;
		/*
		 * The other carrier may be inside a call with the old number: that
		 * call holds the file. The old number is the program's from now on.
		 */
		to = weft_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd > 64 ? fd / 2 : 3);
		if (weft_sys_failed(to))
			return (int)to;
		if (event)
			store_release(&c->event_fd, (int)to);
		else if (stat)
			store_release(&c->stat_fd, (int)to);
		else
			weft_engine_set_fd(c, (int)to);
		return 0;
	}
	return 0;
}

bool weft_runtime_fd_range(int *ret_low, int *ret_high)
{
	int low = -1, high = -1;

	if (!load_acquire(&weft_rt.running))
		return false;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];
		int fd[3] = {c->event_fd, weft_engine_fd(c), c->stat_fd};

		for (int k = 0; k < 3; k++) {
			if (fd[k] < 0)
				continue;
			low = low < 0 || fd[k] < low ? fd[k] : low;
			high = fd[k] > high ? fd[k] : high;
		}
	}
	*ret_low = low;
	*ret_high = high;
	return low >= 0;
}

/* ---- counting ------------------------------------------------------------- */

bool weft_runtime_is_here(void)
{
	return weft_sys0(SYS_getpid) == weft_rt.pid;
}

void weft_count_native(unsigned nr)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (c && nr < WEFT_SYSCALL_SLOTS)
		counter_inc(&c->native_calls[nr]);
}

void weft_count_mutex_contended(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (c)
		weft_count(c, MUTEX_CONTENDED);
}

void weft_count_first_try(enum weft_turn at, int fd)
{
	weft_count(weft_carrier_self(), FIRST_TRIES);
	weft_sched_turn(at, fd);
}
