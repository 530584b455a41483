/* sys_signal.c - handlers for signals: thin, the rules are in runtime/signals.c. */
#include <errno.h>
#include <signal.h>

#include "../runtime/signals.h"
#include "../runtime/sys.h"
#include "dispatch.h"
#include "real.h"

static bool bad(uintptr_t p, size_t bytes)
{
	uint32_t probe;

	return p && (weft_load_user((const uint32_t *)p, &probe) ||
			    weft_load_user((const uint32_t *)(p + bytes - 4), &probe));
}

long sys_rt_sigaction(struct weft_call *c)
{
	if (bad(ARG2(c), sizeof(struct weft_ksigaction)) ||
		bad(ARG3(c), sizeof(struct weft_ksigaction)))
		return -EFAULT;
	return weft_sig_action(
		(int)ARG1(c), (const void *)ARG2(c), (void *)ARG3(c), ARG4(c));
}

long sys_rt_sigprocmask(struct weft_call *c)
{
	if (bad(ARG2(c), 8) || bad(ARG3(c), 8))
		return -EFAULT;
	return weft_sig_procmask(
		(int)ARG1(c), (const void *)ARG2(c), (void *)ARG3(c), ARG4(c));
}

long sys_rt_sigpending(struct weft_call *c)
{
	if (!ARG1(c) || bad(ARG1(c), 8))
		return -EFAULT;
	return weft_sig_pending((void *)ARG1(c), ARG2(c));
}

long sys_rt_sigsuspend(struct weft_call *c)
{
	if (!ARG1(c) || bad(ARG1(c), 8))
		return -EFAULT;
	return weft_sig_suspend((const void *)ARG1(c), ARG2(c));
}

long sys_pause(struct weft_call *c)
{
	(void)c;
	return weft_sig_pause();
}

long sys_rt_sigtimedwait(struct weft_call *c)
{
	if (!ARG1(c) || bad(ARG1(c), 8) || bad(ARG3(c), 16))
		return -EFAULT;
	return weft_sig_timedwait(
		(const void *)ARG1(c), (void *)ARG2(c), (const void *)ARG3(c), ARG4(c));
}

long sys_sigaltstack(struct weft_call *c)
{
	if (bad(ARG1(c), sizeof(stack_t)) || bad(ARG2(c), sizeof(stack_t)))
		return -EFAULT;
	return weft_sig_altstack((const void *)ARG1(c), (void *)ARG2(c), c->regs->rsp);
}

/* Seen here when it is made before the first thread. */
WEFT_EXPORT int signalfd(int fd, const sigset_t *mask, int flags)
{
	weft_signals_expect_signalfd();
	return WEFT_REAL(signalfd)(fd, mask, flags);
}

long sys_signalfd(struct weft_call *c)
{
	(void)c;
	weft_signals_expect_signalfd();
	return WEFT_RAW;
}

static bool own_pid(int pid)
{
	return pid == (int)weft_sys0(SYS_getpid);
}

static long to_native(long r)
{
	return r == WEFT_SIG_NATIVE ? WEFT_RAW : r;
}

/* Is it this process, by its id or a thread's? */
static bool own_thread(int id)
{
	return own_pid(id) || (id > 0 && weft_fiber_by_tid(id));
}

/* The kernel's half: it knows no fibers. */
static long to_process(const struct weft_call *c, long r)
{
	struct weft_regs regs = *c->regs;
	const struct weft_call other = {.regs = &regs, .fiber = c->fiber};

	if (r != WEFT_SIG_NATIVE)
		return r;
	regs.rdi = (uint64_t)weft_sys0(SYS_getpid);
	return regs.rdi == ARG1(c) ? WEFT_RAW : weft_call_plain(&other);
}

long sys_kill(struct weft_call *c)
{
	if (!own_thread((int)ARG1(c)))
		return WEFT_RAW;
	return to_process(c, weft_sig_send_process((int)ARG1(c), (int)ARG2(c), NULL));
}

long sys_rt_sigqueueinfo(struct weft_call *c)
{
	const siginfo_t *si = (const void *)ARG3(c);

	if (!own_thread((int)ARG1(c)) || !si || bad(ARG3(c), sizeof *si))
		return WEFT_RAW;
	return to_process(c, weft_sig_send_process((int)ARG1(c), (int)ARG2(c), si));
}

long sys_tkill(struct weft_call *c)
{
	return to_native(weft_sig_send_thread((int)ARG1(c), (int)ARG2(c), NULL));
}

long sys_tgkill(struct weft_call *c)
{
	if ((int)ARG1(c) <= 0 || (int)ARG2(c) <= 0)
		return -EINVAL;
	if (!own_pid((int)ARG1(c)))
		return WEFT_RAW;
	return to_native(weft_sig_send_thread((int)ARG2(c), (int)ARG3(c), NULL));
}

long sys_rt_tgsigqueueinfo(struct weft_call *c)
{
	const siginfo_t *si = (const void *)ARG4(c);

	if (!own_pid((int)ARG1(c)) || !si || bad(ARG4(c), sizeof *si))
		return WEFT_RAW;
	return to_native(weft_sig_send_thread((int)ARG2(c), (int)ARG3(c), si));
}
