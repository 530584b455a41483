/*
 * attributes.c - see attributes.h.
 *
 * What the kernel allows depends on the thread's present attributes, limits,
 * capabilities, namespaces, cpusets, security modules and the kernel's version. So the
 * kernel is asked, on a kernel thread that is made for the question: it takes the
 * fiber's attributes, makes the call, reports what it has become, and ends (about
 * 40 us). A permanent one would do for nothing that needs a privilege to be undone, a
 * carrier or a helper for nothing at all.
 *
 * One thing that thread cannot be told: attributes that the process set while it had a
 * privilege which it has given up since. It then asks from the carriers' attributes.
 */
#include "attributes.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "sched_impl.h"
#include "signals.h"

enum {
	RESET_ON_FORK = 1, /* SCHED_FLAG_RESET_ON_FORK */
	IO_WHO_PROCESS = 1,
	CHUNK = 64 * 1024,
	DEFAULT_SLACK = 50000,
};

/* A record of the pool. */
union record {
	struct weft_attributes a;
	union record *next;
};

/* One question at a time: the answer's room is too large for a fiber's stack. */
static struct weft_lock asking;     /* taken before `lock` */
static struct weft_attributes room; /* (asking) */
static struct weft_lock lock;
static union record *free_records; /* (lock) */
static char *fresh, *fresh_end;    /* (lock) */
static uint64_t start_slack = DEFAULT_SLACK;

void weft_attributes_start(void)
{
	long slack = weft_sys1(SYS_prctl, PR_GET_TIMERSLACK);

	if (slack > 0)
		start_slack = (uint64_t)slack;
}

/* ---- keeping -------------------------------------------------------------- */

/* (lock held) f's record, made when there is none; NULL when no memory is left. */
static struct weft_attributes *record_of(struct fiber *f)
{
	union record *r = free_records;

	if (f->attributes)
		return f->attributes;
	if (r) {
		free_records = r->next;
	} else {
		if ((size_t)(fresh_end - fresh) < sizeof *r) {
			long p = weft_sys_map(
				CHUNK, PROT_READ | PROT_WRITE, MAP_NORESERVE);

			if (weft_sys_failed(p))
				return NULL;
			fresh = (char *)p;
			fresh_end = fresh + CHUNK;
		}
		r = (union record *)fresh;
		fresh += sizeof *r;
	}
	r->a.own = 0;
	store_release(&f->attributes, &r->a);
	return &r->a;
}

void weft_attributes_drop(struct fiber *f)
{
	union record *r;

	if (likely(!load_relaxed(&f->attributes)))
		return;
	weft_lock(&lock);
	r = (union record *)f->attributes;
	store_relaxed(&f->attributes, NULL);
	r->next = free_records;
	free_records = r;
	weft_unlock(&lock);
}

/* (lock held) f's record if `which` of it is f's own. */
static struct weft_attributes *own(struct fiber *f, uint32_t which)
{
	struct weft_attributes *a = f->attributes;

	return a && a->own & which ? a : NULL;
}

uint32_t weft_attributes_own(struct fiber *f)
{
	uint32_t which = 0;

	if (likely(!load_acquire(&f->attributes)))
		return 0;
	weft_lock(&lock);
	if (f->attributes)
		which = f->attributes->own;
	weft_unlock(&lock);
	return which;
}

bool weft_attributes_sched(struct fiber *f, struct weft_sched_attr *ret)
{
	struct weft_attributes *a;

	if (likely(!load_acquire(&f->attributes)))
		return false;
	weft_lock(&lock);
	a = own(f, WEFT_OWN_SCHED);
	if (a)
		*ret = a->sched;
	weft_unlock(&lock);
	return a != NULL;
}

bool weft_attributes_affinity(struct fiber *f, void *ret, size_t room)
{
	struct weft_attributes *a;

	if (likely(!load_acquire(&f->attributes)))
		return false;
	weft_lock(&lock);
	a = own(f, WEFT_OWN_AFFINITY);
	if (a)
		weft_memcpy(ret, a->affinity,
			room < a->affinity_bytes ? room : a->affinity_bytes);
	weft_unlock(&lock);
	return a != NULL;
}

bool weft_attributes_ioprio(struct fiber *f, int *ret)
{
	struct weft_attributes *a;

	if (likely(!load_acquire(&f->attributes)))
		return false;
	weft_lock(&lock);
	a = own(f, WEFT_OWN_IOPRIO);
	if (a)
		*ret = a->ioprio;
	weft_unlock(&lock);
	return a != NULL;
}

uint64_t weft_attributes_slack(struct fiber *f)
{
	uint64_t slack = start_slack;
	struct weft_attributes *a;

	weft_lock(&lock);
	a = own(f, WEFT_OWN_SLACK);
	if (a)
		slack = a->slack;
	weft_unlock(&lock);
	return slack;
}

void weft_attributes_set_slack(struct fiber *f, uint64_t slack)
{
	struct weft_attributes *a;

	weft_lock(&lock);
	a = record_of(f);
	if (a) {
		if (!(a->own & WEFT_OWN_SLACK))
			a->default_slack = start_slack;
		a->own |= WEFT_OWN_SLACK;
		a->slack = slack ? slack : a->default_slack;
	}
	weft_unlock(&lock);
}

/* kernel/sched/core.c, sched_fork(). */
static void begin_life(struct weft_sched_attr *s)
{
	if (!(s->flags & RESET_ON_FORK))
		return;
	s->flags &= ~(uint64_t)RESET_ON_FORK;
	if (s->priority || s->policy == SCHED_DEADLINE) {
		s->policy = SCHED_OTHER;
		s->priority = 0;
		s->nice = 0;
		s->runtime = s->deadline = s->period = 0;
	} else if (s->nice < 0) {
		s->nice = 0;
	}
}

void weft_attributes_inherit(struct fiber *child, struct fiber *parent)
{
	struct weft_attributes *from, *to;

	if (likely(!load_acquire(&parent->attributes)))
		return;
	weft_lock(&lock);
	from = parent->attributes;
	to = from ? record_of(child) : NULL;
	if (!to) {
		weft_unlock(&lock);
		return;
	}
	weft_memcpy(to, from, offsetof(struct weft_attributes, affinity));
	weft_memcpy(to->affinity, from->affinity, from->affinity_bytes);
	to->default_slack = to->slack;
	if (to->own & WEFT_OWN_SCHED)
		begin_life(&to->sched);
	weft_unlock(&lock);
}

void weft_attributes_lock(void)
{
	weft_lock(&asking);
	weft_lock(&lock);
}

void weft_attributes_unlock(void)
{
	weft_unlock(&lock);
	weft_unlock(&asking);
}

/* ---- on kernel threads ---------------------------------------------------- */

/* Of a kernel thread, 0 for the calling one; nice is right whatever the policy is. */
static void read_sched(long tid, struct weft_sched_attr *ret)
{
	long nice = weft_sys2(SYS_getpriority, PRIO_PROCESS, tid); /* 20 - nice */

	weft_sys4(SYS_sched_getattr, tid, (long)ret, sizeof *ret, 0);
	if (!weft_sys_failed(nice))
		ret->nice = 20 - (int)nice;
}

/* For the calling kernel thread. */
static void write_sched(struct weft_sched_attr *s)
{
	s->size = sizeof *s;
	if (s->policy != SCHED_OTHER && s->policy != SCHED_BATCH)
		weft_sys3(SYS_setpriority, PRIO_PROCESS, 0, s->nice);
	weft_sys3(SYS_sched_setattr, 0, (long)s, 0);
}

/* (lock held) */
static void write_others(const struct weft_attributes *a)
{
	if (a->own & WEFT_OWN_AFFINITY)
		weft_sys3(SYS_sched_setaffinity, 0, a->affinity_bytes, (long)a->affinity);
	if (a->own & WEFT_OWN_IOPRIO)
		weft_sys3(SYS_ioprio_set, IO_WHO_PROCESS, 0, a->ioprio);
}

static void apply(struct fiber *f, bool forked)
{
	struct weft_attributes *a;

	weft_sys2(SYS_prctl, PR_SET_TIMERSLACK, weft_attributes_slack(f));
	weft_lock(&lock);
	a = f->attributes;
	if (a && forked)
		begin_life(&a->sched); /* in the child's own memory */
	if (a && a->own & WEFT_OWN_SCHED)
		write_sched(&a->sched);
	if (a)
		write_others(a);
	weft_unlock(&lock);
}

/* A bound fiber's are those of the thread it is on. */
void weft_attributes_apply(struct fiber *f, bool forked)
{
	if (likely(!f->bound))
		apply(f, forked);
}

void weft_attributes_bound(struct fiber *f)
{
	weft_lock(&asking); /* nobody adds to them meanwhile */
	apply(f, false);
	store_release(&f->kernel_tid, f->bound->tid); /* [kernel-tid] */
	/* Who finds no record any more finds the thread that has it all. */
	weft_attributes_drop(f);
	weft_unlock(&asking);
}

/* Carriers are alike, and the receiver is as they were made. */
void weft_attributes_undo_apply(struct fiber *f)
{
	struct weft_sched_attr s = {0};
	long like = weft_signals_receiver_tid(), n;

	if (unlikely(f->bound != NULL))
		return;
	weft_sys2(SYS_prctl, PR_SET_TIMERSLACK, 1);
	if (likely(!load_acquire(&f->attributes)))
		return;
	read_sched(like, &s);
	write_sched(&s);
	weft_lock(&asking);
	n = weft_sys3(
		SYS_sched_getaffinity, like, sizeof room.affinity, (long)room.affinity);
	if (n > 0)
		weft_sys3(SYS_sched_setaffinity, 0, n, (long)room.affinity);
	weft_unlock(&asking);
	weft_sys3(SYS_ioprio_set, IO_WHO_PROCESS, 0,
		weft_sys2(SYS_ioprio_get, IO_WHO_PROCESS, like));
}

/*
 * In a vfork-like child, before it executes something. Its parent stands still on the
 * carrier whose GS base and attributes the child has. What it chose itself stays
 * (posix_spawn's POSIX_SPAWN_SETSCHEDULER).
 */
void weft_attributes_apply_vm_child(void)
{
	struct carrier *c = weft_carrier_self();
	struct weft_sched_attr mine = {0}, parents = {0}, s;
	struct fiber *f = c->current;
	struct weft_attributes *a;

	if (!f || f->bound || (f->flags & (FIBER_PASS | FIBER_KEEP_PASS)) != FIBER_PASS)
		return;
	weft_sys2(SYS_prctl, PR_SET_TIMERSLACK, weft_attributes_slack(f));
	if (likely(!load_acquire(&f->attributes)))
		return;
	read_sched(0, &mine);
	read_sched(c->tid, &parents);
	weft_lock(&lock);
	a = f->attributes;
	if (a && a->own & WEFT_OWN_SCHED && mine.policy == parents.policy &&
		mine.priority == parents.priority && mine.nice == parents.nice) {
		s = a->sched;
		begin_life(&s);
		write_sched(&s);
	}
	if (a)
		write_others(a);
	weft_unlock(&lock);
}

bool weft_attributes_matter(struct fiber *f, uint32_t which)
{
	long like = weft_signals_receiver_tid(), n;
	struct weft_sched_attr theirs = {0}, own;
	bool differ = false;
	int prio;

	if (which & WEFT_OWN_SCHED && weft_attributes_sched(f, &own)) {
		read_sched(like, &theirs);
		differ = own.policy != theirs.policy || own.nice != theirs.nice ||
			 own.priority != theirs.priority;
	}
	if (which & WEFT_OWN_IOPRIO && weft_attributes_ioprio(f, &prio))
		differ |= prio != weft_sys2(SYS_ioprio_get, IO_WHO_PROCESS, like);
	if (!(which & WEFT_OWN_AFFINITY))
		return differ;
	weft_lock(&asking);
	n = weft_sys3(
		SYS_sched_getaffinity, like, sizeof room.affinity, (long)room.affinity);
	weft_lock(&lock);
	if (f->attributes && f->attributes->own & WEFT_OWN_AFFINITY)
		for (long i = 0; i < n / 8; i++)
			differ |= room.affinity[i] != f->attributes->affinity[i];
	weft_unlock(&lock);
	weft_unlock(&asking);
	return differ;
}

/* ---- asking --------------------------------------------------------------- */

struct question {
	long nr, args[3];
	uint32_t keep;
	bool has_sched;
	struct weft_sched_attr sched; /* the fiber's; then what the thread had at last */
	struct weft_attributes *answer; /* the other attributes, at last */
	long result;
};

/* The thread that is made for the question. */
static void answer(void *arg)
{
	struct question *q = arg;
	struct weft_attributes *a = q->answer;

	if (q->has_sched)
		write_sched(&q->sched);
	q->result = weft_sys3(q->nr, q->args[0], q->args[1], q->args[2]);
	if (q->keep & WEFT_OWN_SCHED)
		read_sched(0, &q->sched);
	if (q->keep & WEFT_OWN_AFFINITY) {
		long n = weft_sys3(
			SYS_sched_getaffinity, 0, sizeof a->affinity, (long)a->affinity);

		a->affinity_bytes = n > 0 ? (uint32_t)n : 0;
	}
	if (q->keep & WEFT_OWN_IOPRIO)
		a->ioprio = (int)weft_sys2(SYS_ioprio_get, IO_WHO_PROCESS, 0);
	for (;;)
		weft_sys1(SYS_exit, 0);
}

/*
 * CLONE_VFORK: this thread goes on when the other one has left its stack for good.
 * It shares our GS base: no signal's handler may run there.
 */
static long ask(struct question *q)
{
	const unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
				    CLONE_THREAD | CLONE_SYSVSEM | CLONE_VFORK;
	unsigned char stack[1536] __attribute__((aligned(16)));
	uint64_t all = ~0ull, mask;
	long tid;

	q->result = -EPERM;
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, 8);
	tid = weft_clone_thread(flags, stack + sizeof stack, answer, q, NULL);
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
	/* No thread to be had: nobody can say that it is allowed. */
	return weft_sys_failed(tid) ? -EPERM : q->result;
}

long weft_attributes_ask(struct fiber *f, uint32_t keep, long nr, const long args[3])
{
	struct question q = {.nr = nr,
		.args = {args[0], args[1], args[2]},
		.keep = keep,
		.answer = &room};
	struct weft_attributes *a;
	long r;

	weft_lock(&asking);
	if (unlikely(load_acquire(&f->kernel_tid))) { /* [kernel-tid] just now */
		bool which = nr == SYS_setpriority || nr == SYS_ioprio_set;

		q.args[which] = f->kernel_tid;
		r = weft_sys3(nr, q.args[0], q.args[1], q.args[2]);
		goto out;
	}
	q.has_sched = weft_attributes_sched(f, &q.sched);
	r = ask(&q);
	if (weft_sys_failed(r) || !keep)
		goto out;
	weft_lock(&lock);
	a = record_of(f);
	if (a) {
		a->own |= keep;
		if (keep & WEFT_OWN_SCHED)
			a->sched = q.sched;
		if (keep & WEFT_OWN_IOPRIO)
			a->ioprio = room.ioprio;
		if (keep & WEFT_OWN_AFFINITY) {
			a->affinity_bytes = room.affinity_bytes;
			weft_memcpy(a->affinity, room.affinity, room.affinity_bytes);
		}
	} else {
		r = -EPERM; /* as when no thread can be made */
	}
	weft_unlock(&lock);
out:
	weft_unlock(&asking);
	return r;
}

void weft_attributes_set_nice(struct fiber *f, int nice)
{
	struct weft_sched_attr now = {0};
	struct weft_attributes *a;

	read_sched(0, &now);
	weft_lock(&lock);
	a = record_of(f);
	if (a) {
		if (!(a->own & WEFT_OWN_SCHED))
			a->sched = now;
		a->own |= WEFT_OWN_SCHED;
		a->sched.nice = nice < -20 ? -20 : nice > 19 ? 19 : nice;
	}
	weft_unlock(&lock);
}
