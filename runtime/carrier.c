/*
 * carrier.c - kernel threads that run fibers, their memory and their descriptors.
 *
 * A carrier is made with a bare clone(2), not with pthread_create: glibc does not
 * know it, does not count it, keeps no list entry, no TLS and no rseq area for
 * it, and fork's reclaim_stacks cannot touch its stack. That is sound because a
 * carrier by itself never runs a line of libc; its FS base, whenever no fiber is
 * loaded, points at a small block that only holds the self pointers and the
 * guard words that compiled code might read.
 *
 * Carriers never exit: requests of an exited thread fail instead of completing,
 * and PR_SET_PDEATHSIG of children would fire.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "engine.h"
#include "keepers.h"
#include "signals.h"

enum {
	PAGE = 4096,
	SCHED_STACK = 64 * 1024,
	SIGNAL_STACK = 64 * 1024, /* room for AVX-512 and AMX frames */
	TCB_SIZE = 1024,
	DISPENSABLE_FROM = 4096, /* numbers of which nobody has too few */
};

/*
 * One mapping per carrier: [guard | scheduler stack | guard | signal stack |
 * thread control block, struct carrier].
 */
static size_t carrier_bytes(void)
{
	size_t body = TCB_SIZE + sizeof(struct carrier);

	return 2 * PAGE + SCHED_STACK + SIGNAL_STACK +
	       ((body + PAGE - 1) & ~(size_t)(PAGE - 1));
}

static char *carrier_base(struct carrier *c)
{
	return (char *)c - TCB_SIZE - SIGNAL_STACK - PAGE - SCHED_STACK - PAGE;
}

/* What code compiled for glibc may read through FS: tcb, self, canary, pointer guard. */
static void init_tcb(uintptr_t tcb)
{
	uintptr_t like = weft_rt.config.fs_template;
	uint64_t *t = (uint64_t *)tcb;

	t[0] = tcb;
	t[2] = tcb;
	if (like) {
		t[5] = ((const uint64_t *)like)[5]; /* fs:0x28 */
		t[6] = ((const uint64_t *)like)[6]; /* fs:0x30 */
	}
}

/* The program's limit on descriptors, lifted for a moment. */
struct lifted {
	struct rlimit own;
	long top; /* the limit meanwhile; 0: it could not be asked for */
};

static void lift_limit(struct lifted *l)
{
	struct rlimit raised;

	l->top = 0;
	if (weft_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&l->own))
		return;
	raised = l->own;
	raised.rlim_cur = raised.rlim_max;
	/* Very high limits would make the kernel grow its table a lot. */
	if (raised.rlim_cur > 1 << 20)
		raised.rlim_cur = l->own.rlim_cur > 1 << 20 ? l->own.rlim_cur : 1 << 20;
	if (raised.rlim_cur != l->own.rlim_cur)
		weft_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&raised, 0);
	l->top = (long)raised.rlim_cur;
}

static void lower_limit(const struct lifted *l)
{
	if (l->top && (rlim_t)l->top != l->own.rlim_cur)
		weft_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&l->own, 0);
}

/*
 * Moves a descriptor to where no program looks: between the soft and the hard
 * limit when there is room (numbers there are invalid for the program), else to
 * the highest free ones. The caller is the only thread, or makes a carrier. -EBADF when
 * it is not there any more.
 */
static int move_high(int fd)
{
	static int last; /* (threads_lock) or the start: the next free one is below */
	struct lifted l;
	long r = -EMFILE, at;

	lift_limit(&l);
	at = l.top - 1;
	if (last > fd && last < at && weft_sys3(SYS_fcntl, last, F_GETFD, 0) >= 0)
		at = last - 1;
	for (; at > fd && at > 2; at--) {
		if (weft_sys3(SYS_fcntl, at, F_GETFD, 0) != -EBADF)
			continue;
		r = weft_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, at);
		break;
	}
	lower_limit(&l);
	if (weft_sys_failed(r))
		return r == -EBADF ? -EBADF : fd; /* better a low number than none */
	weft_sys1(SYS_close, fd);
	last = (int)r;
	return last;
}

struct carrier *weft_carrier_new(unsigned id, enum carrier_kind kind)
{
	long p = weft_sys_map(carrier_bytes(), PROT_NONE, MAP_NORESERVE);
	char *base = (char *)p;
	struct carrier *c;

	if (weft_sys_failed(p))
		return NULL;
	if (weft_sys3(SYS_mprotect, (long)(base + PAGE), SCHED_STACK,
		    PROT_READ | PROT_WRITE) ||
		weft_sys3(SYS_mprotect, (long)(base + 2 * PAGE + SCHED_STACK),
			(long)(carrier_bytes() - 2 * PAGE - SCHED_STACK),
			PROT_READ | PROT_WRITE)) {
		weft_sys_unmap(base, carrier_bytes());
		return NULL;
	}
	c = (struct carrier *)(base + 2 * PAGE + SCHED_STACK + SIGNAL_STACK + TCB_SIZE);
	c->self = c;
	c->id = id;
	c->kind = kind;
	c->event_fd = c->stat_fd = -1;
	c->fs_own = (uintptr_t)c - TCB_SIZE;
	init_tcb(c->fs_own);
	c->sched_top = base + PAGE + SCHED_STACK;
	c->signal_stack = base + 2 * PAGE + SCHED_STACK;
	c->signal_stack_size = SIGNAL_STACK;
	weft_sched_init(c);
	weft_timers_init(&c->timers);
	return c;
}

static int open_event(struct carrier *c)
{
	(void)c;
	return (int)weft_sys2(SYS_eventfd2, 0, EFD_CLOEXEC);
}

/* Where the program's part of the table is full there is room beyond its limit. */
static int open_somewhere(int (*open)(struct carrier *), struct carrier *c)
{
	int r = open(c);
	struct lifted l;

	if (r == -EMFILE) {
		lift_limit(&l);
		r = open(c);
		lower_limit(&l);
	}
	return r;
}

int weft_carrier_open(struct carrier *c)
{
	int fd, err = open_somewhere(weft_engine_open, c);

	if (err)
		return err;
	weft_engine_set_fd(c, move_high(weft_engine_fd(c)));
	if (weft_engine_fd(c) < 0)
		return -EBADF;
	fd = open_somewhere(open_event, c);
	if (fd < 0)
		return fd;
	c->event_fd = move_high(fd);
	if (c->event_fd < 0)
		return -EBADF;
	err = open_somewhere(weft_engine_take_event, c);
	/* Somebody did something to its numbers: they may be others' now. */
	if (err == -EBADF || err == -EOPNOTSUPP || err == -EINVAL)
		weft_carrier_disown(c);
	return err;
}

/*
 * Opened once and read again and again: to open it for each look would take a low number
 * for a moment, at any time, which others see, and onto which the program may dup2 a file
 * of its own. Where only low numbers are to be had they are the program's.
 */
void weft_carrier_watch(struct carrier *c)
{
	int before = load_relaxed(&c->stat_fd); /* of a kernel thread that has ended */
	long fd = weft_keepers_open(load_relaxed(&c->tid), "/stat");

	if (before >= 0) {
		store_relaxed(&c->stat_fd, -1);
		weft_sys1(SYS_close, before);
	}
	if (weft_sys_failed(fd))
		return;
	fd = move_high((int)fd);
	if (fd < 0)
		return;
	if (fd < DISPENSABLE_FROM)
		weft_sys1(SYS_close, fd);
	else
		store_relaxed(&c->stat_fd, (int)fd);
}

bool weft_carrier_event(const struct carrier *c)
{
	uint64_t one = 1;

	return weft_sys3(SYS_write, c->event_fd, (long)&one, sizeof one) == sizeof one;
}

void weft_carrier_close(struct carrier *c)
{
	weft_engine_close(c);
	if (c->event_fd >= 0)
		weft_sys1(SYS_close, c->event_fd);
	if (c->stat_fd >= 0)
		weft_sys1(SYS_close, c->stat_fd);
	c->event_fd = c->stat_fd = -1;
}

void weft_carrier_disown(struct carrier *c)
{
	weft_engine_set_fd(c, -1);
	store_relaxed(&c->event_fd, -1);
}

void weft_carrier_take_engine(struct carrier *c, struct carrier *from)
{
	store_release(&c->ring, from->ring);
	store_release(&c->poller, from->poller);
	store_release(&c->event_fd, from->event_fd);
	from->ring = NULL;
	from->poller = NULL;
	from->event_fd = -1;
}

void weft_carrier_free(struct carrier *c)
{
	if (!c)
		return;
	weft_carrier_close(c);
	weft_bases_drop((uintptr_t)c);
	weft_timers_free(&c->timers);
	weft_sys_unmap(carrier_base(c), carrier_bytes());
}

/*
 * Only a full carrier's FS base is on loan: it goes from fiber to fiber. Whoever has a
 * kernel thread for itself blocks it, and would find FS base lost after each call.
 */
void weft_carrier_set_fs_slow(struct carrier *c, uintptr_t v)
{
	if (c->kind != CARRIER_FULL) {
		weft_wrfsbase(v);
		return;
	}
	c->fs_on_loan = true;
	weft_set_fs_slow(WEFT_FS_LOST);
	weft_fs_write(v);
}

void weft_fs_settle(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (!c || !c->fs_on_loan)
		return;
	weft_set_fs_slow(c->fs_loaded);
	c->fs_on_loan = false;
}

/*
 * A fiber that loses it for the second time runs for long: the kernel is told, until
 * another one runs here. Under strace(1) it would never go on, as the kernel switches
 * threads at the end of each signal handler.
 */
bool weft_fs_found(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	uint64_t run;

	if (!weft_fs_is_lost() || !c)
		return false;
	run = c->counters[WEFT_COUNTER_SWITCHES];
	if (c->fs_lost_in == run && c->fs_on_loan) {
		weft_fs_settle();
		return true;
	}
	c->fs_lost_in = run;
	weft_fs_write(c->fs_loaded);
	return true;
}

enum { TICK_NS = 10000000, KICK = 33 };

static void set_tick(struct carrier *c, long ns)
{
	struct itimerspec every = {{0, ns}, {0, ns}};

	if (c->has_tick)
		weft_sys4(SYS_timer_settime, c->tick, 0, (long)&every, 0);
}

void weft_carrier_stop_tick(struct carrier *c)
{
	set_tick(c, 0);
}

void weft_carrier_resume_tick(struct carrier *c)
{
	set_tick(c, TICK_NS);
}

/*
 * The tick: a timer on this thread's own CPU clock, so that it only ever fires in a
 * carrier that computes. Without it (RLIMIT_SIGPENDING) computing fibers are not
 * noticed; nothing else is lost.
 */
static void start_tick(struct carrier *c)
{
	struct sigevent ev = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = KICK,
		.sigev_value.sival_ptr = c,
	};

	ev._sigev_un._tid = c->tid;
	c->has_tick = weft_sys3(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, (long)&ev,
			      (long)&c->tick) == 0;
	weft_carrier_resume_tick(c);
}

/* What every kernel thread of weft's does first, on itself. */
void weft_carrier_enter(struct carrier *c)
{
	c->tid = (int)weft_sys0(SYS_gettid);
	weft_wrgsbase((uintptr_t)c);
	weft_signals_enter_thread(c);
	if (c->kind == CARRIER_FULL)
		start_tick(c);
}

static void drop_timers(struct carrier *c)
{
	if (c->has_tick)
		weft_sys1(SYS_timer_delete, c->tick);
	c->has_tick = false;
	if (c->guard_state)
		weft_sys1(SYS_timer_delete, c->guard);
	c->guard_state = 0;
}

/* The first carrier's thread goes back to being the program's. */
void weft_carrier_leave(struct carrier *c)
{
	drop_timers(c);
	weft_wrgsbase(0);
}

static void start(void *arg)
{
	struct carrier *c = arg;
	char name[16] = "weft/";

	weft_wrfsbase(c->fs_own);
	c->fs_loaded = c->fs_own;
	weft_carrier_enter(c);
	weft_format_u64(name + 5, c->id);
	weft_sys2(SYS_prctl, PR_SET_NAME, name);
	weft_sys2(SYS_prctl, PR_SET_TIMERSLACK, 1);
	c->entry(c);
	weft_bug("a carrier returned");
}

int weft_carrier_spawn(struct carrier *c, void (*fn)(void *))
{
	const unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
				    CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
	bool was_over = c->over;
	uint64_t all = ~0ull, mask;
	long tid;

	c->entry = fn;
	weft_signals_new_thread(c);
	if (weft_fault_hits(WEFT_FAULT_CLONE))
		return -EAGAIN;
	/* Until it has a GS base of its own the child must not run a handler. */
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, 8);
	c->lives = 1;
	store_relaxed(&c->over, false);
	tid = weft_clone_thread(flags, c->sched_top, start, c, &c->lives);
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
	if (weft_sys_failed(tid)) {
		c->lives = 0;
		store_relaxed(&c->over, was_over);
		return (int)tid;
	}
	/* Others may have to reach it before it runs. */
	store_relaxed(&c->tid, (int)tid);
	return 0;
}

/*
 * Ends the calling kernel thread, which weft_carrier_spawn may make again. From here on
 * no call for all threads waits for it (signal_broadcast.c).
 */
void weft_carrier_end(struct carrier *c)
{
	drop_timers(c);
	weft_lock(&weft_rt.threads_lock);
	store_release(&c->over, true);
	weft_unlock(&weft_rt.threads_lock);
	for (;;)
		weft_sys1(SYS_exit, 0);
}

/* Waits until the kernel thread has left its stack for good. */
void weft_carrier_join(struct carrier *c)
{
	while (load_acquire(&c->lives))
		weft_sys4(SYS_futex, (long)&c->lives, FUTEX_WAIT, 1, 0);
}
