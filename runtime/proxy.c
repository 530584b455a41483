/*
 * proxy.c - kernel threads in whose name fibers hold locks of other processes.
 *
 * A robust or priority-inheritance mutex that processes share names its owner by kernel
 * thread id: when that thread dies, also by SIGKILL, the kernel walks the robust list
 * that the thread registered and marks what it held. A fiber's id means nothing to the
 * kernel. So a fiber that locks such a mutex gets a proxy, until it ends: a kernel thread
 * that sleeps, has registered the fiber's robust list as its own, and lends its id to
 * glibc for the length of each call (mutex.c). It dies with the process, or with a fiber
 * that has locked what inherits priorities; what it holds then is marked exactly as
 * natively. The fiber itself stays free to
 * run on any carrier: the kernel does not care who writes the words. Calls that the
 * kernel accepts from the owner alone (FUTEX_LOCK_PI, FUTEX_UNLOCK_PI) are made by the
 * proxy.
 *
 * So is the wait for a robust mutex. Who unlocks one wakes one waiter, and when that one
 * was killed first, the kernel wakes another in its stead, because its robust list says
 * what it was about to lock. That holds as long as a thread's wait is over before its
 * list is looked at. A wait in a ring is the carrier's, whose end may come after the
 * proxy's: a wake-up in between would be nobody's, and the others would wait for ever.
 *
 * Rejected: binding the fiber to a kernel thread of its own (the same thread, and every
 * switch to it costs a wake-up); renaming the fiber for good (what it holds by then,
 * recursive mutexes and rwlocks, knows it by its old id).
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/mman.h>

#include "bind.h"
#include "futex.h"
#include "io_impl.h"
#include "signals.h"

enum { PAUSE_NS = 1000000 };

struct proxy {
	struct carrier *c;     /* (c) its kernel thread */
	struct proxy *next;    /* (c) every proxy ever made */
	struct fiber *owner;   /* (lock) NULL: in the pool */
	bool inherits;         /* (o) its owner has locked what inherits priorities */
	struct fiber *waiter;  /* of the call it makes */
	long nr, args[6], ret; /* of that call */
	uint32_t posted;       /* (a) the call is to be made */
};

static struct weft_lock lock;
static struct proxy *all; /* (lock; a) grows */
static unsigned count;    /* (lock) */

static void make_call(struct proxy *p, struct fiber *f)
{
	const long *a = p->args;

	/* The list is lent whatever is due for the fiber. */
	if (p->nr == SYS_set_robust_list) {
		p->ret = weft_sys2(p->nr, a[0], a[1]);
		return;
	}
	/* [attention-open] Who sends it a signal kicks this thread, or is seen here. */
	store_seq_cst(&f->helper, p->c);
	p->ret = weft_sys_interruptible(&f->attention, p->nr, a);
	store_seq_cst(&f->helper, NULL);
}

static void proxy_main(void *arg)
{
	struct proxy *p = ((struct carrier *)arg)->proxy;

	for (;;) {
		while (!load_acquire(&p->posted)) /* [proxy-call] */
			weft_sys4(SYS_futex, (long)&p->posted, FUTEX_WAIT_PRIVATE, 0, 0);
		store_relaxed(&p->posted, 0);
		if (p->nr == SYS_exit)
			weft_carrier_end(p->c);
		struct fiber *f = p->waiter;

		make_call(p, f);
		weft_park_finish(f, WEFT_WAKE_DONE);
		weft_unpark(f);
	}
}

static void post(struct proxy *p)
{
	store_release(&p->posted, 1); /* [proxy-call] */
	weft_sys3(SYS_futex, (long)&p->posted, FUTEX_WAKE_PRIVATE, 1);
}

static bool call_commit(struct fiber *f, void *arg)
{
	struct proxy *p = arg;

	p->waiter = f;
	post(p);
	return true;
}

static long call(struct proxy *p, long nr, const long args[6])
{
	p->nr = nr;
	for (int i = 0; i < 6; i++)
		p->args[i] = args[i];
	weft_park(WEFT_REASON_OFFLOAD, call_commit, p);
	return p->ret;
}

static void lend_list(struct proxy *p, void *head, size_t len)
{
	const long args[6] = {(long)head, (long)len};

	call(p, SYS_set_robust_list, args);
}

static struct proxy *make(unsigned id)
{
	long at = weft_sys_map(sizeof(struct proxy), PROT_READ | PROT_WRITE, 0);
	struct proxy *p = (struct proxy *)at;
	bool made;

	if (weft_sys_failed(at))
		return NULL;
	p->c = weft_carrier_new(4000 + id, CARRIER_HELPER);
	if (!p->c)
		goto out_unmap;
	p->c->proxy = p;
	weft_lock(&weft_rt.threads_lock);
	made = !weft_carrier_spawn(p->c, proxy_main);
	if (made) {
		p->c->all_next = weft_rt.helpers;
		store_release(&weft_rt.helpers, p->c);
	}
	weft_unlock(&weft_rt.threads_lock);
	if (made)
		return p;
	weft_carrier_free(p->c);
out_unmap:
	weft_sys_unmap(p, sizeof *p);
	return NULL;
}

/* False: no kernel thread can be made. */
static bool made_again(struct carrier *c)
{
	bool made;

	weft_carrier_join(c);
	weft_lock(&weft_rt.threads_lock);
	made = !weft_carrier_spawn(c, proxy_main);
	weft_unlock(&weft_rt.threads_lock);
	return made;
}

static struct proxy *take(struct fiber *f)
{
	struct proxy *p;
	unsigned id = 0;

	weft_lock(&lock);
	for (p = all; p && p->owner; p = p->next)
		;
	if (p)
		store_release(&p->owner, f);
	else
		id = ++count;
	weft_unlock(&lock);
	if (p && (!load_relaxed(&p->c->over) || made_again(p->c)))
		return p;
	if (p)
		store_release(&p->owner, NULL);
	if (p || !(p = make(id)))
		return NULL;
	p->owner = f;
	weft_lock(&lock);
	p->next = all;
	store_release(&all, p);
	weft_unlock(&lock);
	weft_count(weft_carrier_self(), PROXIES);
	return p;
}

int weft_proxy_tid(bool inherits)
{
	struct fiber *f = weft_fiber_here();

	if (f->proxy) {
		f->proxy->inherits |= inherits;
		return f->proxy->c->tid;
	}
	/* It has one already, which has its list (bind.c). */
	if (f->bound)
		return f->bound->tid == f->tid ? 0 : f->bound->tid;
	f->proxy = take(f);
	if (!f->proxy)
		return 0;
	f->proxy->inherits = inherits;
	lend_list(f->proxy, f->robust_head, f->robust_len);
	return f->proxy->c->tid;
}

bool weft_proxy_serves(const struct fiber *f)
{
	return f->proxy || f->bound;
}

bool weft_proxy_waits(const struct fiber *f)
{
	return f->proxy && weft_futex_locks_robust(f->robust_head, f->robust_len);
}

long weft_proxy_futex(const long args[6])
{
	struct fiber *f = weft_fiber_here();

	if (!f->proxy)
		return weft_io_in_kernel(
			SYS_futex, args[0], args[1], args[2], args[3], args[4], args[5]);
	return call(f->proxy, SYS_futex, args);
}

long weft_home_futex(const long args[6])
{
	struct fiber *f = weft_fiber_here();
	long r;

	if (f->bound)
		return weft_proxy_futex(args);
	/* The first carrier may be stuck with somebody else, for a while. */
	while (!weft_fiber_go_home()) {
		weft_sleep_until(weft_now_ns() + PAUSE_NS);
		if (weft_signals_attention(f))
			return -EINTR;
	}
	weft_fiber_pin(WEFT_PIN_OWNER, (uintptr_t)args[0]);
	r = weft_io_in_kernel(
		SYS_futex, args[0], args[1], args[2], args[3], args[4], args[5]);
	(void)weft_fiber_unpin();
	return r;
}

/* On a helper: it takes the kernel a moment, and others run meanwhile. */
static long end_thread(void *arg)
{
	struct proxy *p = arg;

	p->nr = SYS_exit;
	post(p);
	weft_carrier_join(p->c);
	store_relaxed(&p->c->tid, 0); /* the kernel may give it to anybody */
	return 0;
}

/*
 * The fiber ends: what it still holds is marked, and the kernel forgets its list. What
 * inherits priorities is told by the kernel to whoever waits for it, when its owner ends
 * (exit_pi_state_list in kernel/futex/core.c), and what is not robust stays locked in the
 * name of nobody: so the proxy ends as well, and marks the rest itself.
 */
int weft_proxy_drop(struct fiber *f)
{
	struct proxy *p = f->proxy;
	int tid = p->c->tid;

	if (p->inherits) {
		weft_offload_ending(end_thread, p);
	} else {
		weft_futex_walk_robust(f->robust_head, f->robust_len, tid);
		lend_list(p, NULL, f->robust_len);
	}
	f->proxy = NULL;
	store_release(&p->owner, NULL);
	return tid;
}

struct fiber *weft_proxy_owner(int tid)
{
	for (struct proxy *p = load_acquire(&all); p; p = p->next)
		if (load_relaxed(&p->c->tid) == tid)
			return load_acquire(&p->owner);
	return NULL;
}

/* In a fork child: they did not come along. */
void weft_proxy_forget(void)
{
	lock.word = 0;
	all = NULL;
	count = 0;
}

void weft_proxy_lock(void)
{
	weft_lock(&lock);
}

void weft_proxy_unlock(void)
{
	weft_unlock(&lock);
}
