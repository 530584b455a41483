/*
 * engine.c - which engine, and what both lack: calls that have no form that does not
 * wait.
 *
 * io_uring is refused in three ways: its calls fail (kernel.io_uring_disabled, a
 * seccomp profile, a kernel without it), a ring cannot be had (limits), or a seccomp
 * profile ends whoever calls. The last is found out by a child process, and only
 * where a filter is installed at all.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "io_impl.h"

/* ---- the choice ----------------------------------------------------------- */

/* "Seccomp:\t2" in /proc/self/status: is there a filter, or may there be one? */
static bool filtered(void)
{
	static const char key[] = "\nSeccomp:\t";
	char buf[512];
	long fd = weft_sys4(
		SYS_openat, AT_FDCWD, (long)"/proc/self/status", O_RDONLY | O_CLOEXEC, 0);
	bool result = false; /* a kernel without seccomp */
	size_t k = 0;
	long n;

	if (weft_sys_failed(fd))
		return true;
	/* The line of the groups before it may be long. */
	while ((n = weft_sys3(SYS_read, fd, (long)buf, sizeof buf)) > 0)
		for (long i = 0; i < n; i++) {
			if (!key[k]) {
				result = buf[i] != '0';
				goto out;
			}
			k = buf[i] == key[k] ? k + 1 : buf[i] == key[0];
		}
out:
	weft_sys1(SYS_close, fd);
	return result;
}

/* Every call that a ring needs; 0 or the error of the first that is refused. */
static int try_calls(void)
{
	struct io_uring_params params;
	long fd, r;

	weft_memset(&params, 0, sizeof params);
	fd = weft_sys2(SYS_io_uring_setup, 1, &params);
	if (weft_sys_failed(fd))
		return (int)fd;
	r = weft_sys6(SYS_io_uring_enter, fd, 0, 0, 0, 0, 0);
	if (r == -EPERM || r == -ENOSYS)
		return (int)r;
	r = weft_sys4(SYS_io_uring_register, fd, IORING_REGISTER_PROBE, 0, 0);
	return r == -EPERM || r == -ENOSYS ? (int)r : 0;
}

/*
 * The same in a child, which may die of it. A process of its own, not one that
 * shares our memory: a core dump ended everybody who shares it until Linux 5.16. It
 * announces itself to nobody (no SIGCHLD) and leaves no core.
 */
static int try_in_child(void)
{
	int status = 0;
	long pid = weft_sys5(SYS_clone, 0, 0, 0, 0, 0);

	if (!pid) {
		struct rlimit none = {0, 0};

		weft_sys4(SYS_prlimit64, 0, RLIMIT_CORE, (long)&none, 0);
		weft_sys1(SYS_exit_group, -try_calls() & 0x7f);
	}
	if (weft_sys_failed(pid))
		return (int)pid;
	if (weft_sys4(SYS_wait4, pid, (long)&status, __WALL, 0) != pid)
		return -ECHILD;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EKEYREJECTED;
}

static int refusal;

static void use_epoll(int why)
{
	refusal = why;
	weft_rt.engine = WEFT_ENGINE_EPOLL;
}

int weft_engine_choose(void)
{
	enum weft_engine wanted = weft_rt.config.engine;
	int err;

	refusal = 0;
	weft_rt.engine = WEFT_ENGINE_IO_URING;
	if (wanted == WEFT_ENGINE_EPOLL) {
		use_epoll(0);
		return 0;
	}
	err = filtered() ? try_in_child() : 0;
	if (err && wanted == WEFT_ENGINE_IO_URING)
		return err;
	if (err)
		use_epoll(err);
	return 0;
}

bool weft_engine_fall_back(int error)
{
	if (weft_rt.config.engine != WEFT_ENGINE_AUTO ||
		weft_rt.engine == WEFT_ENGINE_EPOLL)
		return false;
	use_epoll(error);
	return true;
}

const char *weft_engine_name(void)
{
	return weft_on_epoll() ? "epoll" : "io_uring";
}

const char *weft_engine_reason(void)
{
	switch (refusal) {
	case 0:
		return weft_rt.config.engine == WEFT_ENGINE_AUTO ? "default"
								 : "WEFT_ENGINE";
	case -EPERM:
		return "io_uring:EPERM";
	case -ENOSYS:
		return "io_uring:ENOSYS";
	case -EACCES:
		return "io_uring:EACCES";
	case -ENOMEM:
		return "io_uring:ENOMEM";
	case -EMFILE:
		return "io_uring:EMFILE";
	case -ENFILE:
		return "io_uring:ENFILE";
	case -EAGAIN:
		return "io_uring:EAGAIN";
	case -EKEYREJECTED:
		return "io_uring:killed";
	default:
		return "io_uring:refused";
	}
}

/* ---- calls that may wait -------------------------------------------------- */

/*
 * How long a carrier may stand still in a call that was not expected to wait: what
 * one that does not wait takes at most, on a busy machine. The timer goes on firing:
 * the first time may be just before the call begins.
 */
enum { BRIEF_NS = 50000, KICK_EINTR = 32, GUARD_NONE = 1, GUARD_MADE = 2 };

static bool has_guard(struct carrier *c)
{
	struct sigevent ev = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = KICK_EINTR,
	};

	if (likely(c->guard_state))
		return c->guard_state == GUARD_MADE;
	ev._sigev_un._tid = c->tid;
	c->guard_state =
		weft_sys3(SYS_timer_create, CLOCK_MONOTONIC, (long)&ev, (long)&c->guard)
			? GUARD_NONE
			: GUARD_MADE;
	return c->guard_state == GUARD_MADE;
}

static void set_guard(struct carrier *c, long ns)
{
	struct itimerspec t = {{0, ns}, {0, ns}};

	weft_sys4(SYS_timer_settime, c->guard, 0, (long)&t, 0);
}

long weft_call_briefly(long nr, const long args[6])
{
	struct carrier *c = weft_carrier_self();
	long r;

	if (c->kind != CARRIER_FULL || !has_guard(c))
		return weft_io_in_kernel(
			nr, args[0], args[1], args[2], args[3], args[4], args[5]);
	set_guard(c, BRIEF_NS);
	r = weft_sys6(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
	set_guard(c, 0);
	return r;
}
