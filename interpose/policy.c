/* policy.c - see policy.h. */
#include "policy.h"

#include <sys/prctl.h>

#include "../runtime/atomic.h"
#include "../runtime/attributes.h"
#include "../runtime/bind.h"
#include "../runtime/native.h"
#include "../runtime/sys.h"
#include "enter.h"
#include "sites.h"

/* syscall(2) is some 40 bytes long in every glibc, and aligned to 16. */
enum { SYSCALL_BYTES = 64 };

static uintptr_t libc_from, libc_to;
static uintptr_t libc_syscall;

void weft_policy_set_libc_text(uintptr_t from, uintptr_t to)
{
	libc_from = from;
	libc_to = to;
}

void weft_policy_set_libc_syscall(uintptr_t at)
{
	libc_syscall = at;
}

bool weft_policy_by_number(const struct weft_call *c)
{
	uintptr_t from = weft_slot_return_address(weft_slot_of(c->regs->raw));

	return libc_syscall && from - libc_syscall < SYSCALL_BYTES;
}

bool weft_policy_wants_fiber(const struct fiber *creator, uintptr_t tls)
{
	uintptr_t start;

	if (weft_fiber_is_bound(creator))
		return false;
	if (!weft_libc.start_routine)
		return true;
	start = *(const uintptr_t *)(tls + weft_libc.start_routine);
	return (start < libc_from || start >= libc_to) && !weft_native_has(start);
}

/*
 * Around the clone every lock of weft's is held, so that the child finds none
 * taken by a thread it does not have. In the child the caller is the only thread:
 * weft forgets everything and the process is native again, with the real signal
 * mask and dispositions; its next pthread_create starts weft anew.
 */
long weft_fork(struct weft_call *c)
{
	long r;

	weft_runtime_lock_all();
	/* What is sent to the child at once waits until the signals are the kernel's. */
	weft_signals_block();
	r = weft_call_plain(c);
	if (r != 0) {
		weft_runtime_unlock_all();
		weft_signals_unblock();
		return r;
	}
	weft_fiber_in_weft(c->fiber, false);
	weft_runtime_forget();
	/* The child is the thread that called, not the carrier it was on. */
	weft_sys2(SYS_prctl, PR_SET_NAME, weft_fiber_name(c->fiber));
	weft_attributes_apply(c->fiber, true);
	return 0;
}
