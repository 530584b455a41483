/*
 * sys_bind.c - handlers for what the kernel keeps per thread, and nobody emulates.
 *
 * The fiber that changes it gets a kernel thread of its own first (bind.h); the call is
 * then the kernel's, at its site. Natively it holds for the calling thread and for those
 * that it makes later: these become native threads, made by the bound one (sys_thread.c).
 */
#include <errno.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>

#include "../runtime/bind.h"
#include "dispatch.h"
#include "policy.h"

/* Newer than Debian 12's headers, or not in all of them. */
enum {
	SET_IO_FLUSHER = 57,
	SET_SYSCALL_USER_DISPATCH = 59,
	SCHED_CORE = 62,
};

static long on_own_thread(enum weft_bind_reason why)
{
	int err = weft_fiber_bind(why);

	return err ? err : WEFT_RAW;
}

long sys_bound_call(struct weft_call *c)
{
	(void)c;
	return on_own_thread(WEFT_BIND_OTHER);
}

/* setfsuid(2): there is no error; an id that is none asks for the present one. */
long sys_setfsid(struct weft_call *c)
{
	if ((int)ARG1(c) != -1)
		(void)weft_fiber_bind(WEFT_BIND_CREDENTIALS);
	return WEFT_RAW;
}

long sys_capset(struct weft_call *c)
{
	(void)c;
	return on_own_thread(WEFT_BIND_CREDENTIALS);
}

/* With TSYNC a filter is for all threads of the process, carriers among them. */
long sys_seccomp(struct weft_call *c)
{
	switch (ARG1(c)) {
	case SECCOMP_SET_MODE_STRICT:
		break;
	case SECCOMP_SET_MODE_FILTER:
		if (!(ARG2(c) & SECCOMP_FILTER_FLAG_TSYNC))
			break;
		/* fallthrough */
	default:
		return WEFT_RAW;
	}
	return on_own_thread(WEFT_BIND_SECCOMP);
}

long sys_landlock_restrict_self(struct weft_call *c)
{
	(void)c;
	return on_own_thread(WEFT_BIND_LANDLOCK);
}

long sys_unshare(struct weft_call *c)
{
	return ARG1(c) ? on_own_thread(WEFT_BIND_NAMESPACES) : WEFT_RAW;
}

long sys_setns(struct weft_call *c)
{
	(void)c;
	return on_own_thread(WEFT_BIND_NAMESPACES);
}

long sys_personality(struct weft_call *c)
{
	/* All ones only asks. */
	return (uint32_t)ARG1(c) == UINT32_MAX ? WEFT_RAW
					       : on_own_thread(WEFT_BIND_OTHER);
}

long sys_set_mempolicy(struct weft_call *c)
{
	(void)c;
	return on_own_thread(WEFT_BIND_MEMORY_POLICY);
}

/* Keyrings hang on a thread's credentials; the others are the process's and the user's.
 */
long sys_keyctl(struct weft_call *c)
{
	bool changes;

	switch (ARG1(c)) {
	case KEYCTL_JOIN_SESSION_KEYRING:
	case KEYCTL_SET_REQKEY_KEYRING:
	case KEYCTL_ASSUME_AUTHORITY:
	case KEYCTL_SESSION_TO_PARENT:
		changes = true;
		break;
	case KEYCTL_GET_KEYRING_ID:
		changes = (int)ARG2(c) == KEY_SPEC_THREAD_KEYRING && ARG3(c);
		break;
	default:
		/* Of a thread's own keyring it is spoken by this id. */
		changes = (int)ARG2(c) == KEY_SPEC_THREAD_KEYRING;
	}
	return changes ? on_own_thread(WEFT_BIND_CREDENTIALS) : WEFT_RAW;
}

/* A call of the set*id family by syscall(2): natively for one thread alone. */
long weft_setid_alone(void)
{
	return on_own_thread(WEFT_BIND_CREDENTIALS);
}

/* What prctl(2) says of the thread, and not of the process or its memory. */
long weft_prctl_of_thread(const struct weft_call *c)
{
	switch (ARG1(c)) {
	case PR_SET_SECCOMP:
		return on_own_thread(WEFT_BIND_SECCOMP);
	case PR_SET_NO_NEW_PRIVS:
	case PR_CAPBSET_DROP:
	case PR_SET_SECUREBITS:
	case PR_SET_KEEPCAPS:
		return on_own_thread(WEFT_BIND_PRIVILEGES);
	case PR_CAP_AMBIENT:
		return ARG2(c) == PR_CAP_AMBIENT_IS_SET
			       ? WEFT_RAW
			       : on_own_thread(WEFT_BIND_PRIVILEGES);
	case PR_SET_TSC:
	case PR_SET_SPECULATION_CTRL:
	case PR_MCE_KILL:
	case SET_IO_FLUSHER:
	case SET_SYSCALL_USER_DISPATCH:
	case SCHED_CORE:
		return on_own_thread(WEFT_BIND_OTHER);
	default:
		return WEFT_RAW;
	}
}
