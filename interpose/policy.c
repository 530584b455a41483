/* policy.c - see policy.h. */
#include "policy.h"

#include <sys/prctl.h>

#include "../runtime/atomic.h"
#include "../runtime/attributes.h"
#include "../runtime/sys.h"
#include "enter.h"

static uintptr_t libc_from, libc_to;

void weft_policy_set_libc_text(uintptr_t from, uintptr_t to)
{
	libc_from = from;
	libc_to = to;
}

bool weft_policy_wants_fiber(uintptr_t tls)
{
	uintptr_t start;

	if (!weft_libc.start_routine)
		return true;
	start = *(const uintptr_t *)(tls + weft_libc.start_routine);
	return start < libc_from || start >= libc_to;
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
	r = weft_call_plain(c);
	if (r != 0) {
		weft_runtime_unlock_all();
		return r;
	}
	weft_fiber_in_weft(c->fiber, false);
	weft_runtime_forget();
	/* The child is the thread that called, not the carrier it was on. */
	weft_sys2(SYS_prctl, PR_SET_NAME, weft_fiber_name(c->fiber));
	weft_attributes_apply(c->fiber, true);
	return 0;
}
