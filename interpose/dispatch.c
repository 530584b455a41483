/*
 * dispatch.c - the back door: a system call that arrived at a patched site.
 *
 * Runs on the caller's own stack with a few hundred bytes, general registers
 * only. The loop below is the whole life of a call: the handler does it or parks;
 * signals that became due run their handlers here, as ordinary code of the fiber;
 * then the call restarts or ends, as signal(7) says.
 */
#include "dispatch.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>

#include "../runtime/atomic.h"
#include "../runtime/attributes.h"
#include "../runtime/bind.h"
#include "../runtime/futex.h"
#include "../runtime/io.h"
#include "../runtime/signals.h"
#include "../runtime/sys.h"
#include "enter.h"
#include "sites.h"

typedef long handler_fn(struct weft_call *c);

static const struct {
	handler_fn *fn;
	bool restarts;
} table[WEFT_SYSCALL_TABLE_SIZE] = {
#define WEFT_SYSCALL(name, class, restarts, handler)                                     \
	[SYS_##name] = {sys_##handler, restarts},
#include "syscalls.def"
#undef WEFT_SYSCALL
};

const uint8_t weft_syscall_class[WEFT_SYSCALL_TABLE_SIZE] = {
#define WEFT_SYSCALL(name, class, restarts, handler) [SYS_##name] = WEFT_##class,
#include "syscalls.def"
#undef WEFT_SYSCALL
};

const char *weft_syscall_name(unsigned nr)
{
	static const char *const names[WEFT_SYSCALL_TABLE_SIZE] = {
#define WEFT_SYSCALL(name, class, restarts, handler) [SYS_##name] = #name,
#include "syscalls.def"
#undef WEFT_SYSCALL
	};

	return nr < WEFT_SYSCALL_TABLE_SIZE ? names[nr] : NULL;
}

long weft_call_plain(const struct weft_call *c)
{
	const struct weft_regs *r = c->regs;

	return weft_sys6((long)r->rax, (long)r->rdi, (long)r->rsi, (long)r->rdx,
		(long)r->r10, (long)r->r8, (long)r->r9);
}

struct offloaded {
	const int *attention;
	long nr;
	long args[6];
};

static long make_offloaded(void *arg)
{
	struct offloaded *o = arg;

	return weft_signals_after_write(
		weft_sys_interruptible(o->attention, o->nr, o->args));
}

static long offload_with(const struct weft_call *c, long (*how)(long (*)(void *), void *))
{
	const struct weft_regs *r = c->regs;
	struct offloaded o = {
		.attention = weft_signals_attention_word(c->fiber),
		.nr = (long)r->rax,
		.args = {(long)r->rdi, (long)r->rsi, (long)r->rdx, (long)r->r10,
			(long)r->r8, (long)r->r9},
	};

	long ret = how(make_offloaded, &o);

	if (ret != WEFT_RESTART_ALWAYS)
		weft_count_native((unsigned)r->rax);
	return ret;
}

long weft_call_offload(const struct weft_call *c)
{
	return offload_with(c, weft_offload_or_again);
}

long weft_call_on_disk(const struct weft_call *c)
{
	return offload_with(c, weft_offload_ending);
}

/*
 * Kernel threads that are no carriers: native threads of the process, and weft's
 * own children of clone. Of their calls only those matter that meet fibers.
 */
static bool meets_fibers(uint64_t nr)
{
	switch (nr) {
	case SYS_futex:
	case SYS_rt_sigaction:
	case SYS_tgkill:
	case SYS_tkill:
	case SYS_kill:
	case SYS_close:
	case SYS_dup2:
	case SYS_dup3:
	case SYS_close_range:
	case SYS_exit_group:
	case SYS_munmap: /* a fiber's stack that libc gives back, and the loader's code */
		return true;
	default:
		return false;
	}
}

static long dispatch_native(struct weft_call *c)
{
	uint64_t nr = c->regs->rax;

	/* A native thread's child, of fork or with our memory, is another process. */
	return meets_fibers(nr) && weft_runtime_is_here() ? table[nr].fn(c) : WEFT_RAW;
}

static void done(struct weft_regs *r, long ret)
{
	r->rax = (uint64_t)ret;
	r->raw += 2; /* past the thunk's own syscall */
}

/* May the program keep values in vector registers across this site? */
static bool vector_live(const struct weft_regs *r)
{
	return !(weft_slot_site(weft_slot_of(r->raw))->flags & WEFT_SITE_NO_VECTOR);
}

/*
 * An interrupted call: does the program see EINTR? Not when no handler ran (the
 * signal was weft's own, or ignored by now).
 */
static bool ends_by_signal(long ret, enum weft_delivered d, bool restarts)
{
	if (d == WEFT_DELIVERED_NONE || ret == WEFT_RESTART_ALWAYS)
		return false;
	return d == WEFT_DELIVERED_EINTR || ret == WEFT_RESTART_NEVER || !restarts;
}

/*
 * What a fiber with a kernel thread of its own may wait for in the kernel, it does: all
 * but what meets other fibers, and what swaps masks that only weft knows.
 */
static bool waits_in_kernel(const struct weft_call *c, unsigned nr)
{
	if (likely(!weft_fiber_is_bound(c->fiber)) ||
		weft_syscall_class[nr] != WEFT_PARKS)
		return false;
	switch (nr) {
	case SYS_futex:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_pause:
	case SYS_rt_sigsuspend:
	case SYS_rt_sigtimedwait:
	case SYS_ppoll:
	case SYS_pselect6:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_io_uring_enter:
		return false;
	default:
		return true;
	}
}

/* *fd: the first argument; afterwards -1 where that is not whom an answer goes to. */
static enum weft_turn turn_at(unsigned nr, int *fd)
{
	switch (nr) {
	case SYS_write:
	case SYS_writev:
		return weft_io_answers(*fd) ? WEFT_TURN_ANSWER : WEFT_TURN_REQUEST;
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_sendfile:
		return WEFT_TURN_ANSWER;
	case SYS_futex:
		return WEFT_TURN_LOCK;
	case SYS_read:
	case SYS_readv:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_accept:
	case SYS_accept4:
		return WEFT_TURN_REQUEST;
	default:
		*fd = -1;
		return WEFT_TURN_ANSWER;
	}
}

static void dispatch_fiber(struct weft_call *c)
{
	struct weft_regs *r = c->regs;
	unsigned nr = (unsigned)r->rax;
	long ret;

	weft_fiber_in_weft(c->fiber, true);
	weft_fiber_set_vector_live(c->fiber, vector_live(r));
	c->tried = (enum weft_tried)weft_fiber_take_tried(c->fiber);
	weft_sched_stress_call();
	for (;;) {
		enum weft_delivered d;
		bool interrupted;

		ret = waits_in_kernel(c, nr) ? weft_call_offload(c) : table[nr].fn(c);
		if (ret == WEFT_RAW) {
			weft_fiber_in_weft(c->fiber, false);
			return;
		}
		interrupted = (ret == -EINTR && !c->once) || ret == WEFT_RESTART_ALWAYS ||
			      ret == WEFT_RESTART_NEVER;
		if (likely(!interrupted && !weft_signals_attention(c->fiber)))
			break;
		d = weft_signals_deliver(r);
		weft_fiber_set_vector_live(c->fiber, vector_live(r));
		if (!interrupted)
			break;
		if (ends_by_signal(ret, d, table[nr].restarts)) {
			ret = -EINTR;
			break;
		}
		c->again = true;
		c->tried = WEFT_TRIED_NOT;
	}
	if (ret == -EINTR || c->again)
		weft_sig_mask_end();
	if (weft_syscall_class[nr] == WEFT_PARKS) {
		int fd = (int)r->rdi;
		enum weft_turn at = turn_at(nr, &fd);

		weft_sched_turn(at, fd);
	}
	weft_fs_keep();
	done(r, ret);
	/* [attention] Cleared first, then looked at: a signal is seen by one of us. */
	weft_fiber_in_weft(c->fiber, false);
	while (unlikely(weft_signals_leave_due(c->fiber))) {
		weft_fiber_in_weft(c->fiber, true);
		weft_signals_deliver(r);
		weft_fiber_in_weft(c->fiber, false);
	}
}

void weft_dispatch(struct weft_regs *r);

/* Called by weft_site_entry. */
__attribute__((used)) void weft_dispatch(struct weft_regs *r)
{
	struct weft_call c = {.regs = r};

	if (unlikely(!weft_runtime_running()))
		return;
	c.fiber = weft_enter_fiber();
	if (likely(c.fiber)) {
		dispatch_fiber(&c);
		return;
	}
	/*
	 * A CLONE_VM child (GS base of a carrier, but not its kernel thread) must
	 * not touch anything: its memory is the parent's. What it executes has the
	 * attributes of the thread that made it.
	 */
	if (weft_rdgsbase()) {
		if (r->rax == SYS_execve || r->rax == SYS_execveat)
			weft_attributes_apply_vm_child();
		return;
	}
	long ret = dispatch_native(&c);

	if (ret != WEFT_RAW)
		done(r, ret);
}
