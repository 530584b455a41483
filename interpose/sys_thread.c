/*
 * sys_thread.c - handlers for the life of threads: clone, exit, futex, memory of
 * stacks, fork and exec. Who a thread is: identity.c.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../runtime/atomic.h"
#include "../runtime/attributes.h"
#include "../runtime/deadline.h"
#include "../runtime/futex.h"
#include "../runtime/io.h"
#include "../runtime/native.h"
#include "../runtime/signals.h"
#include "../runtime/stack.h"
#include "../runtime/sys.h"
#include "../runtime/walk.h"
#include "dispatch.h"
#include "enter.h"
#include "policy.h"
#include "sites.h"

void (*weft_at_exit_group)(void);
long weft_native_clone(
	struct weft_regs *child, const struct weft_regs *call, uintptr_t gs);

/* arch/x86/include/asm/page_64.h, TASK_SIZE_MAX with four levels of tables. */
static const uintptr_t USER_END = (1ul << 47) - 4096;

/* ---- making threads ------------------------------------------------------- */

struct clone_request {
	uint64_t flags;
	uintptr_t stack_top;
	int *parent_tid, *child_tid;
	uintptr_t tls;
};

static const uint64_t THREAD_FLAGS =
	CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_SETTLS;

/*
 * The child of a real clone: its registers go below the red zone of its stack. Until it
 * has a GS base of its own no signal reaches it; then it has the mask its parent believes
 * to have (libc blocks everything until the child has set up its own [timer-helper]).
 */
static long clone_for_real(struct weft_call *c, uintptr_t stack_top, uintptr_t gs)
{
	struct weft_regs *child =
		(struct weft_regs *)((stack_top - WEFT_RED_ZONE - sizeof *child) & ~15ul);
	long r;

	weft_memcpy(child, c->regs, sizeof *child);
	child->rsp = stack_top;
	child->mask = weft_signals_mask(c->fiber);
	weft_signals_block();
	r = weft_native_clone(child, c->regs, gs);
	weft_signals_unblock();
	return r;
}

static long make_fiber(struct weft_call *c, const struct clone_request *q)
{
	struct fiber *f;
	uint64_t start = 0;

	if (weft_thread_limit_reached())
		return -EAGAIN;
	f = weft_fiber_new_clone((void *)q->stack_top, q->tls, c->regs);
	if (!f)
		return -EAGAIN;
	if (weft_libc.start_routine)
		start = *(const uint64_t *)(q->tls + weft_libc.start_routine);
	weft_fiber_set_start(f, start);
	weft_fiber_set_name(f, weft_fiber_name(c->fiber));
	weft_attributes_inherit(f, c->fiber);
	weft_signals_inherit(f, c->fiber);
	if (q->flags & CLONE_CHILD_CLEARTID)
		weft_fiber_set_clear_tid(f, q->child_tid);

	int tid = weft_fiber_tid(f);

	/* Stored before the parent returns and before the child can run (clone(2)). */
	if (q->flags & CLONE_PARENT_SETTID)
		*q->parent_tid = tid;
	if (q->flags & CLONE_CHILD_SETTID)
		*q->child_tid = tid;
	weft_fiber_start(f);
	return tid;
}

static long make_thread(struct weft_call *c, const struct clone_request *q)
{
	if (weft_fiber_creating(c->fiber) == WEFT_CREATING_NATIVE ||
		!weft_policy_wants_fiber(c->fiber, q->tls))
		return clone_for_real(c, q->stack_top, 0);
	return make_fiber(c, q);
}

/* A new process, or something that shares our memory without being a thread. */
static long make_other(struct weft_call *c, uint64_t flags, uintptr_t stack_top)
{
	bool we_wait = (flags & (CLONE_VM | CLONE_VFORK)) == (CLONE_VM | CLONE_VFORK);

	weft_answers_give_here();
	/*
	 * With our memory it goes on beside us, and would be whichever fiber runs on the
	 * carrier that it has from its parent. With its own it starts where nothing of
	 * ours can put it in order. The kernel makes all its calls.
	 */
	if (stack_top && !we_wait) {
		weft_fs_settle();
		return clone_for_real(c, stack_top, weft_stranger());
	}
	if (flags & CLONE_VM) {
		if (we_wait)
			weft_sched_keeps_carrier();
		weft_fiber_expect_vm_child(c->fiber, !we_wait);
		/* posix_spawn's child asks for its mask to know what to reset. */
		weft_signals_before_exec();
		return WEFT_RAW;
	}
	return weft_fork(c);
}

long sys_clone(struct weft_call *c)
{
	struct clone_request q = {
		.flags = ARG1(c),
		.stack_top = ARG2(c),
		.parent_tid = (int *)ARG3(c),
		.child_tid = (int *)ARG4(c),
		.tls = ARG5(c),
	};

	if ((q.flags & THREAD_FLAGS) == THREAD_FLAGS && q.stack_top)
		return make_thread(c, &q);
	return make_other(c, q.flags, q.stack_top);
}

long sys_clone3(struct weft_call *c)
{
	const struct clone_args *a = (const void *)ARG1(c);
	uint32_t probe;

	if (ARG2(c) < 64 || weft_load_user((const uint32_t *)a, &probe))
		return WEFT_RAW; /* the kernel says what is wrong */

	struct clone_request q = {
		.flags = a->flags,
		.stack_top = a->stack + a->stack_size,
		.parent_tid = (int *)a->parent_tid,
		.child_tid = (int *)a->child_tid,
		.tls = a->tls,
	};

	if ((q.flags & THREAD_FLAGS) == THREAD_FLAGS && a->stack)
		return make_thread(c, &q);
	return make_other(c, q.flags, a->stack ? q.stack_top : 0);
}

long sys_fork(struct weft_call *c)
{
	weft_answers_give_here();
	return weft_fork(c);
}

/*
 * The child shares memory and stack, and must find the fiber's own signal mask to
 * pass on to what it executes. The carrier's mask comes back when the parent is
 * seen again (weft_enter_fiber).
 */
long sys_vfork(struct weft_call *c)
{
	weft_answers_give_here();
	weft_sched_keeps_carrier();
	weft_fiber_expect_vm_child(c->fiber, false);
	weft_signals_before_exec();
	return WEFT_RAW;
}

long sys_execve(struct weft_call *c)
{
	long r;

	weft_answers_give_here();
	/*
	 * The kernel thread takes the fiber's attributes, which may need a privilege to
	 * be undone: not for what cannot be executed (PATH is searched by trying).
	 */
	bool there =
		c->regs->rax != SYS_execve ||
		!weft_sys4(SYS_faccessat2, AT_FDCWD, (long)ARG1(c), X_OK, AT_EACCESS);

	if (there) {
		weft_attributes_apply(c->fiber, false);
		weft_signals_stop_kicks();
	}
	weft_signals_before_exec();
	r = weft_call_plain(c);
	weft_signals_unblock();
	if (there) {
		weft_signals_resume_kicks();
		weft_attributes_undo_apply(c->fiber);
	}
	return r;
}

/* ---- ending --------------------------------------------------------------- */

long sys_exit(struct weft_call *c)
{
	(void)c;
	weft_fiber_exit();
}

long sys_exit_group(struct weft_call *c)
{
	(void)c;
	weft_answers_give_here();
	/* The kernel knows of no list but the first thread's. */
	weft_futex_walk_all_robust();
	if (weft_at_exit_group)
		weft_at_exit_group();
	return WEFT_RAW;
}

/* ---- what belongs to a thread ---------------------------------------------- */

long sys_set_robust_list(struct weft_call *c)
{
	if (ARG2(c) != sizeof(struct robust_list_head))
		return -EINVAL;
	weft_fiber_set_robust(c->fiber, (void *)ARG1(c), ARG2(c));
	return 0;
}

/* The kernel's answer may be that it has lost it (FS base on loan, context.h). */
long sys_arch_prctl(struct weft_call *c)
{
	uintptr_t fs = ARG2(c);

	switch (ARG1(c)) {
	case ARCH_GET_FS:
		fs = weft_fiber_fs_base(c->fiber);
		return weft_copy_user((void *)ARG2(c), &fs, sizeof fs);
	case ARCH_SET_FS:
		if (fs >= USER_END)
			return -EPERM;
		weft_fiber_set_fs_base(c->fiber, fs);
		return 0;
	default:
		return WEFT_RAW;
	}
}

long sys_get_robust_list(struct weft_call *c)
{
	int tid = (int)ARG1(c);
	struct fiber *f = tid ? weft_fiber_by_tid(tid) : c->fiber;
	void *head;
	size_t len;

	if (!f)
		return WEFT_RAW;
	weft_fiber_get_robust(f, &head, &len);
	*(void **)ARG2(c) = head;
	*(size_t *)ARG3(c) = len;
	return 0;
}

/*
 * The kernel would write CPU numbers into the TLS of whichever fiber registered,
 * while others run on its carrier. Unavailable is a documented answer.
 */
long sys_rseq(struct weft_call *c)
{
	(void)c;
	return -ENOSYS;
}

/*
 * Credentials are per kernel thread. libc makes this call last, after telling all
 * threads it knows (weft answers ESRCH for fibers); here it is made on every
 * kernel thread of weft's. By its number the program makes it for one thread alone.
 */
long sys_setid(struct weft_call *c)
{
	const long args[3] = {(long)ARG1(c), (long)ARG2(c), (long)ARG3(c)};

	if (weft_policy_by_number(c))
		return weft_setid_alone();
	return weft_signals_on_all_threads((long)c->regs->rax, args);
}

/* ---- memory of stacks ----------------------------------------------------- */

/*
 * libc's allocate_stack calls mmap and mprotect from within pthread_create; the
 * front door says when a fiber is in there. Nobody else's calls are touched.
 */
static bool from_pthread_create(struct weft_call *c)
{
	return weft_fiber_creating(c->fiber) == WEFT_CREATING_FIBER;
}

static bool from_loader(const struct weft_call *c)
{
	const char *name = weft_site_soname(weft_slot_of(c->regs->raw));

	return name[0] == 'l' && name[1] == 'd';
}

long sys_mmap(struct weft_call *c)
{
	long p;

	if ((int)ARG5(c) >= 0 && from_loader(c))
		weft_native_expect();
	if (ARG1(c) || ARG4(c) != (MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK) ||
		ARG3(c) & PROT_EXEC || !from_pthread_create(c))
		return WEFT_RAW;
	p = weft_stack_map((ARG2(c) + 4095) & ~4095ul);
	return p < 0 ? WEFT_RAW : p;
}

long sys_mprotect(struct weft_call *c)
{
	uintptr_t base;
	size_t size, guard;

	if (!weft_stack_bounds(ARG1(c), &base, &size, &guard))
		return WEFT_RAW;
	if (!from_pthread_create(c) || ARG3(c) & PROT_EXEC) {
		weft_stack_taint(ARG1(c));
		return WEFT_RAW;
	}
	/*
	 * Either "everything above the guard becomes accessible" (new stack, or a
	 * cached one whose guard shrinks), or "the guard grows".
	 */
	if (ARG3(c) == PROT_NONE)
		return weft_stack_guard(base, ARG1(c) + ARG2(c) - base);
	return weft_stack_guard(base, ARG1(c) - base);
}

long sys_munmap(struct weft_call *c)
{
	uintptr_t base;
	size_t size, guard;

	if (weft_stack_unmap(ARG1(c), (ARG2(c) + 4095) & ~4095ul))
		return 0;
	if (weft_stack_bounds(ARG1(c), &base, &size, &guard))
		weft_stack_taint(ARG1(c));
	/* No stack has frames there, and none will before the loader returns. */
	if (from_loader(c))
		weft_walk_forget();
	return WEFT_RAW;
}

/* At a thread's end libc drops the untouched part of its stack, every time. */
long sys_madvise(struct weft_call *c)
{
	uintptr_t base;
	size_t size, guard;

	if (ARG3(c) != MADV_DONTNEED ||
		!weft_stack_bounds(ARG1(c), &base, &size, &guard) || ARG1(c) != base)
		return WEFT_RAW;
	return weft_stack_skip_trim(base) ? 0 : WEFT_RAW;
}

/* ---- futex ---------------------------------------------------------------- */

static bool bad_time(const struct timespec *t)
{
	return t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u;
}

static uint64_t deadline_at(int clock, const struct timespec *t)
{
	return weft_deadline_at(clock, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
}

/*
 * A wait without FUTEX_PRIVATE_FLAG: libc's pthread_join waits like that for a
 * fiber's id to become 0, and weft is who wakes it. Everything else may be shared
 * with another process, and then only the kernel's queue will do.
 */
static bool is_fiber_id(uint32_t *word, uint32_t val)
{
	struct fiber *f = weft_fiber_by_tid((int)val);

	return f && weft_fiber_clear_tid(f) == (int *)word;
}

static long wait_shared(struct weft_call *c, uint32_t *word, uint32_t val,
	uint32_t bitset, uint64_t deadline)
{
	long r;

	if (is_fiber_id(word, val))
		return weft_futex_wait(word, val, bitset, true, deadline);
	if (!c->fiber)
		return WEFT_RAW;
	r = weft_io_futex_shared(word, val, bitset, deadline);
	return r == -ECANCELED ? -ETIMEDOUT : r;
}

/* What the kernel lets only the owner do. */
static bool is_owners_call(int cmd)
{
	return cmd == FUTEX_LOCK_PI || cmd == FUTEX_LOCK_PI2 || cmd == FUTEX_UNLOCK_PI ||
	       cmd == FUTEX_TRYLOCK_PI;
}

/*
 * The first thread's id is that of a kernel thread. What it locked before there were
 * fibers it holds under that id, and takes again under it (pthread_cond_wait).
 */
static bool is_itself(const struct fiber *f)
{
	const int *tid = (const int *)(weft_rdfsbase() + weft_libc.tid);

	return f == weft_fiber_main() && (!weft_libc.tid || *tid == weft_fiber_tid(f));
}

/* False: the kernel takes nobody for the fiber. Then its lock is in weft's own queue. */
static bool made_by_owner(struct weft_call *c, long *ret)
{
	const long args[6] = {(long)ARG1(c), (long)ARG2(c), (long)ARG3(c), (long)ARG4(c),
		(long)ARG5(c), (long)ARG6(c)};
	long r;

	if (!c->fiber)
		r = WEFT_RAW; /* a native thread: it knows that one */
	else if (is_itself(c->fiber))
		r = weft_home_futex(args);
	else if (weft_proxy_serves(c->fiber))
		r = weft_proxy_futex(args);
	else
		return false;
	*ret = r == -EINTR ? WEFT_RESTART_ALWAYS : r;
	return true;
}

long sys_futex(struct weft_call *c)
{
	uint32_t *word = (uint32_t *)ARG1(c);
	int op = (int)ARG2(c), cmd = op & FUTEX_CMD_MASK;
	bool shared = !(op & FUTEX_PRIVATE_FLAG);
	uint32_t val = (uint32_t)ARG3(c), bitset = FUTEX_BITSET_MATCH_ANY, probe;
	const struct timespec *t = (const void *)ARG4(c);
	uint64_t deadline = WEFT_NO_DEADLINE;
	long n;

	if ((uintptr_t)word % 4)
		return -EINVAL;
	if (shared && is_owners_call(cmd) && made_by_owner(c, &n))
		return n;
	switch (cmd) {
	case FUTEX_WAIT_BITSET:
		bitset = (uint32_t)ARG6(c);
		if (!bitset)
			return -EINVAL;
		/* fallthrough */
	case FUTEX_WAIT:
		if (t && weft_load_user((const uint32_t *)t, &probe))
			return -EFAULT;
		if (t && bad_time(t))
			return -EINVAL;
		if (t && cmd == FUTEX_WAIT) {
			if (!c->again)
				c->deadline = weft_deadline_in(
					(uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
			deadline = c->deadline;
		} else if (t) {
			deadline =
				deadline_at(op & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME
								      : CLOCK_MONOTONIC,
					t);
		}
		if (shared)
			n = wait_shared(c, word, val, bitset, deadline);
		else
			n = weft_futex_wait(word, val, bitset, false, deadline);
		/* With a time-out it never restarts, whatever futex(2) says (measured).
		 */
		return n == -EINTR && t ? WEFT_RESTART_NEVER : n;
	case FUTEX_WAKE_BITSET:
		bitset = (uint32_t)ARG6(c);
		if (!bitset)
			return -EINVAL;
		/* fallthrough */
	case FUTEX_WAKE:
		if (val == 1 && !shared && bitset == FUTEX_BITSET_MATCH_ANY &&
			!weft_policy_by_number(c))
			return weft_futex_wake_one(word);
		n = weft_futex_wake(word, (int)val, bitset, shared);
		if (shared && n < (int)val) {
			long more = weft_sys6(
				SYS_futex, (long)word, cmd, (long)val - n, 0, 0, bitset);

			if (more > 0 && c->fiber)
				weft_sched_woke_outside();
			return more < 0 ? (n ? n : more) : n + more;
		}
		return n;
	case FUTEX_REQUEUE:
	case FUTEX_CMP_REQUEUE: {
		uint32_t expect = (uint32_t)ARG6(c);

		if (shared)
			return WEFT_RAW;
		return weft_futex_requeue(word, (int)val, (int)ARG4(c),
			(uint32_t *)ARG5(c), cmd == FUTEX_CMP_REQUEUE ? &expect : NULL,
			false);
	}
	case FUTEX_WAKE_OP:
		if (shared)
			return WEFT_RAW;
		return weft_futex_wake_op(word, (int)val, (uint32_t *)ARG5(c),
			(int)ARG4(c), (uint32_t)ARG6(c), false);
	case FUTEX_LOCK_PI:
	case FUTEX_LOCK_PI2:
		/* LOCK_PI's time is CLOCK_REALTIME whatever the flag says (futex(2)). */
		if (t && weft_load_user((const uint32_t *)t, &probe))
			return -EFAULT;
		if (t && bad_time(t))
			return -EINVAL;
		if (t)
			deadline = deadline_at(
				cmd == FUTEX_LOCK_PI || op & FUTEX_CLOCK_REALTIME
					? CLOCK_REALTIME
					: CLOCK_MONOTONIC,
				t);
		n = weft_futex_lock_pi(word, deadline);
		return n == -EINTR ? WEFT_RESTART_ALWAYS : n;
	case FUTEX_UNLOCK_PI:
		return weft_futex_unlock_pi(word);
	case FUTEX_TRYLOCK_PI:
		return weft_futex_trylock_pi(word);
	case FUTEX_WAIT_REQUEUE_PI:
	case FUTEX_CMP_REQUEUE_PI:
		/* No libc uses these any more; the kernel would not know the owner. */
		return -ENOSYS;
	default:
		return WEFT_RAW;
	}
}

/* ---- calls that only the kernel can wait in ------------------------------- */

long sys_offload(struct weft_call *c)
{
	return c->regs->rax == SYS_io_getevents ? weft_call_offload(c)
						: weft_call_on_disk(c);
}

long sys_native(struct weft_call *c)
{
	weft_count_native((unsigned)c->regs->rax);
	return WEFT_RAW;
}

/* Calls that may run into RLIMIT_FSIZE. */
long sys_native_write(struct weft_call *c)
{
	weft_count_native((unsigned)c->regs->rax);
	return weft_signals_after_write(weft_call_plain(c));
}

/*
 * Children: looked for without waiting, then waited for without taking what becomes
 * of them, and looked for again: a wait that a signal ends loses nothing.
 */
enum { KINDS_OF_CHILDREN = (int)(__WNOTHREAD | __WALL | __WCLONE) };

long sys_wait4(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	int pid = (int)ARG1(c), options = (int)ARG3(c);
	idtype_t type = pid > 0 ? P_PID : pid == -1 ? P_ALL : P_PGID;

	if (options & WNOHANG)
		return WEFT_RAW;
	regs.rdx |= WNOHANG;
	for (;;) {
		long r = weft_call_plain(&now);

		if (r)
			return r;
		if (!weft_ring_can_waitid())
			return weft_call_offload(c);
		r = weft_io_wait_child((int)type, pid < -1 ? -pid : pid,
			WEXITED | WNOWAIT |
				(options & (WUNTRACED | WCONTINUED | KINDS_OF_CHILDREN)));
		if (r < 0)
			return r;
	}
}

long sys_waitid(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	siginfo_t own;
	const siginfo_t *info = ARG3(c) ? (const siginfo_t *)ARG3(c) : &own;

	if (ARG4(c) & WNOHANG || ARG1(c) == P_PIDFD)
		return ARG4(c) & WNOHANG ? WEFT_RAW : weft_call_offload(c);
	regs.r10 |= WNOHANG;
	regs.rdx = (uint64_t)info;
	for (;;) {
		long r = weft_call_plain(&now);

		if (r || info->si_signo)
			return r;
		if (!weft_ring_can_waitid())
			return weft_call_offload(c);
		r = weft_io_wait_child(
			(int)ARG1(c), (int)ARG2(c), (int)ARG4(c) | WNOWAIT);
		if (r < 0)
			return r;
	}
}

/*
 * Semaphores: an operation that needs no waiting is made here. Only what would have to
 * wait goes to a helper, as the program wrote it.
 */
/* It may be put off until there is a thread for it: the time-out goes on. */
static long wait_for_semaphores(struct weft_call *c)
{
	const struct timespec *t = (const void *)ARG4(c);
	struct weft_regs regs = *c->regs;
	struct weft_call rest = {.regs = &regs, .fiber = c->fiber};
	struct timespec left;
	uint64_t now = weft_now_ns();

	if (regs.rax != SYS_semtimedop || !t || weft_copy_user(&left, t, sizeof left) ||
		left.tv_sec < 0 || left.tv_sec > 1000000000 || left.tv_nsec < 0 ||
		left.tv_nsec >= 1000000000)
		return weft_call_offload(c);
	if (!c->deadline)
		c->deadline = now + (uint64_t)left.tv_sec * 1000000000u +
			      (uint64_t)left.tv_nsec;
	now = c->deadline > now ? c->deadline - now : 0;
	left.tv_sec = (time_t)(now / 1000000000u);
	left.tv_nsec = (long)(now % 1000000000u);
	regs.r10 = (uint64_t)&left;
	return now ? weft_call_offload(&rest) : -EAGAIN;
}

long sys_semop(struct weft_call *c)
{
	struct sembuf ops[16], *theirs = (struct sembuf *)ARG2(c);
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	size_t n = ARG3(c);
	uint32_t probe;
	long r;

	if (!n || n > sizeof ops / sizeof *ops ||
		weft_load_user((const uint32_t *)theirs, &probe) ||
		weft_load_user((const uint32_t *)((char *)(theirs + n) - 4), &probe))
		return weft_call_offload(c);
	for (size_t i = 0; i < n; i++) {
		ops[i] = theirs[i];
		ops[i].sem_flg |= IPC_NOWAIT;
	}
	regs.rsi = (uint64_t)ops;
	r = weft_call_plain(&now);
	return r == -EAGAIN ? wait_for_semaphores(c) : r;
}

/*
 * A message queue is a descriptor that can be polled, and a time that is over makes
 * its calls ones that do not wait. What is wrong with an argument, they say first.
 */
long sys_mq_timed(struct weft_call *c)
{
	bool in = c->regs->rax == SYS_mq_timedreceive;
	const struct timespec *t = (const void *)ARG5(c), over = {0, 0};
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	uint64_t deadline = WEFT_NO_DEADLINE;
	uint32_t probe;

	if (t && (weft_load_user((const uint32_t *)t, &probe) ||
			 weft_load_user((const uint32_t *)t + 3, &probe) || bad_time(t)))
		return weft_call_plain(c);
	if (t)
		deadline = deadline_at(CLOCK_REALTIME, t);
	regs.r8 = (uint64_t)&over;
	for (;;) {
		struct pollfd p = {(int)ARG1(c), in ? POLLIN : POLLOUT, 0};
		long r = weft_call_plain(&now);

		if (r != -ETIMEDOUT)
			return r;
		r = weft_io_poll(&p, 1, deadline, WEFT_TRIED_BLOCKS);
		/* Where the kernel waited for it, it did not hear of a clock that was
		 * set. */
		if (!r && !weft_deadline_left(deadline))
			r = -ETIMEDOUT;
		if (r < 0)
			return r;
	}
}

enum { NO_WAIT = 04000 /* IPC_NOWAIT */ };

long sys_msgrcv(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	long r;

	if (ARG5(c) & NO_WAIT)
		return WEFT_RAW;
	regs.r8 |= NO_WAIT;
	r = weft_call_plain(&now);
	return r == -ENOMSG ? weft_call_offload(c) : r;
}

long sys_msgsnd(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	struct weft_call now = {.regs = &regs, .fiber = c->fiber};
	long r;

	if (ARG4(c) & NO_WAIT)
		return WEFT_RAW;
	regs.r10 |= NO_WAIT;
	r = weft_call_plain(&now);
	return r == -EAGAIN ? weft_call_offload(c) : r;
}
