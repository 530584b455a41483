/*
 * identity.c - who a thread is: its id, its name, its CPU time, its scheduling
 * attributes; and calls that name a thread by an id which the kernel does not know.
 *
 * The rule for every call here that takes a thread id: 0 and ids of fibers are ours,
 * any other number is the kernel's to judge (virtual ids of nobody are above all of
 * its own, so it says ESRCH).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "../runtime/accounting.h"
#include "../runtime/atomic.h"
#include "../runtime/attributes.h"
#include "../runtime/deadline.h"
#include "../runtime/bind.h"
#include "../runtime/signals.h"
#include "../runtime/sys.h"
#include "dispatch.h"
#include "enter.h"

enum { NAME_SIZE = 16 }; /* Linux, TASK_COMM_LEN */

static struct fiber *target(const struct weft_call *c, int tid)
{
	return tid ? weft_fiber_by_tid(tid) : c->fiber;
}

/* The call with another first or second argument. */
static long with_first(const struct weft_call *c, uint64_t value)
{
	struct weft_regs regs = *c->regs;
	const struct weft_call other = {.regs = &regs, .fiber = c->fiber};

	regs.rdi = value;
	return weft_call_plain(&other);
}

static long with_second(const struct weft_call *c, uint64_t value)
{
	struct weft_regs regs = *c->regs;
	const struct weft_call other = {.regs = &regs, .fiber = c->fiber};

	regs.rsi = value;
	return weft_call_plain(&other);
}

/* Not to be read, and so not to be written either. */
static bool bad(uint64_t p, size_t bytes)
{
	uint32_t probe;

	return weft_load_user((const uint32_t *)p, &probe) ||
	       weft_load_user((const uint32_t *)(p + bytes - 4), &probe);
}

/*
 * A string of the program's, cut at room - 1 bytes; returns its length or -EFAULT. It
 * may end at the end of a page: read in aligned words, which never cross one.
 */
static long load_string(uint64_t from, char *to, size_t room)
{
	size_t n = 0;

	for (; n < room - 1; n++) {
		uint64_t at = from + n;
		uint32_t word;

		if (weft_load_user((const uint32_t *)(at & ~3ul), &word))
			return -EFAULT;
		to[n] = (char)(word >> at % 4 * 8);
		if (!to[n])
			return (long)n;
	}
	to[n] = 0;
	return (long)n;
}

/* ---- ids ------------------------------------------------------------------ */

long sys_gettid(struct weft_call *c)
{
	return weft_fiber_tid(c->fiber);
}

long sys_set_tid_address(struct weft_call *c)
{
	weft_fiber_move_clear_tid(c->fiber, (int *)ARG1(c));
	return weft_fiber_tid(c->fiber);
}

/* Calls to whom a thread's id stands for its process. */
static uint64_t process_of(uint64_t id)
{
	if (!(int)id || !weft_fiber_by_tid((int)id))
		return id;
	return (uint64_t)weft_sys0(SYS_getpid);
}

long sys_of_process(struct weft_call *c)
{
	uint64_t id = process_of(ARG1(c));

	return id == ARG1(c) ? WEFT_RAW : with_first(c, id);
}

/* ---- RLIMIT_NPROC --------------------------------------------------------- */

static int thread_limit_set; /* (a) by this program, since it has fibers */

long sys_prlimit64(struct weft_call *c)
{
	long r = with_first(c, process_of(ARG1(c)));

	if (!r && ARG2(c) == RLIMIT_NPROC && ARG3(c))
		store_relaxed(&thread_limit_set, 1);
	return r;
}

/* copy_process() in the kernel: whom the limit does not bind. */
static bool above_limits(void)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {{0}};

	return !weft_sys0(SYS_getuid) ||
	       (!weft_sys2(SYS_capget, (long)&head, (long)caps) &&
		       caps[0].effective &
			       (1u << CAP_SYS_ADMIN | 1u << CAP_SYS_RESOURCE));
}

/*
 * A limit that the program was given does not count fibers, which take no process id. A
 * program that sets one itself means its threads, and is told when they are too many.
 */
bool weft_thread_limit_reached(void)
{
	struct rlimit limit;

	if (likely(!load_relaxed(&thread_limit_set)) ||
		weft_sys4(SYS_prlimit64, 0, RLIMIT_NPROC, 0, (long)&limit))
		return false;
	return weft_fibers_alive() >= limit.rlim_cur && !above_limits();
}

long sys_kcmp(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	const struct weft_call other = {.regs = &regs, .fiber = c->fiber};

	regs.rdi = process_of(ARG1(c));
	regs.rsi = process_of(ARG2(c));
	return weft_call_plain(&other);
}

/*
 * Signals for a kernel thread of weft's would come to nobody. The main thread is the
 * first to get what is sent to the process; of other fibers the kernel knows nothing.
 */
long weft_set_owner(struct weft_call *c)
{
	struct weft_regs regs = *c->regs;
	const struct weft_call other = {.regs = &regs, .fiber = c->fiber};
	struct f_owner_ex owner;

	if (bad(ARG3(c), sizeof owner))
		return WEFT_RAW;
	owner = *(const struct f_owner_ex *)ARG3(c);
	if (owner.type != F_OWNER_TID || owner.pid != (int)weft_sys0(SYS_getpid))
		return WEFT_RAW;
	owner.type = F_OWNER_PID;
	regs.rdx = (uint64_t)&owner;
	return weft_call_plain(&other);
}

/* ---- names ---------------------------------------------------------------- */

/* The process is called as its first thread is, whoever runs it now. */
static long name_process(struct weft_call *c, const char *name, size_t n)
{
	long fd;

	if (weft_sys0(SYS_gettid) == weft_sys0(SYS_getpid))
		return weft_call_plain(c);
	fd = weft_sys3(SYS_open, (long)"/proc/self/comm", O_WRONLY | O_CLOEXEC, 0);
	if (!weft_sys_failed(fd)) {
		weft_sys3(SYS_write, fd, (long)name, (long)n);
		weft_sys1(SYS_close, fd);
	}
	return 0;
}

static long set_name(struct weft_call *c)
{
	char name[NAME_SIZE];
	long n = load_string(ARG2(c), name, sizeof name);

	if (n < 0)
		return n;
	weft_fiber_set_name(c->fiber, name);
	if (weft_fiber_is_bound(c->fiber))
		return WEFT_RAW;
	return c->fiber == weft_fiber_main() ? name_process(c, name, (size_t)n) : 0;
}

long sys_prctl(struct weft_call *c)
{
	switch (ARG1(c)) {
	case PR_SET_NAME:
		return set_name(c);
	case PR_GET_NAME:
		if (bad(ARG2(c), NAME_SIZE))
			return -EFAULT;
		weft_memcpy((void *)ARG2(c), weft_fiber_name(c->fiber), NAME_SIZE);
		return 0;
	case PR_SET_TIMERSLACK:
		if (weft_fiber_is_bound(c->fiber))
			return WEFT_RAW;
		weft_attributes_set_slack(
			c->fiber, (int64_t)ARG2(c) > 0 ? ARG2(c) : 0 /* the default */);
		return 0;
	case PR_GET_TID_ADDRESS:
		if (bad(ARG2(c), sizeof(int *)))
			return WEFT_RAW;
		*(int **)ARG2(c) = weft_fiber_clear_tid(c->fiber);
		return 0;
	case PR_GET_TIMERSLACK:
		if (weft_fiber_is_bound(c->fiber))
			return WEFT_RAW;
		return (long)weft_attributes_slack(c->fiber);
	default:
		return weft_prctl_of_thread(c);
	}
}

static const char *skip(const char *s, const char *prefix)
{
	while (s && *prefix)
		if (*s++ != *prefix++)
			return NULL;
	return s;
}

/* Decimal; NULL when there is none, or one too large for an id. */
static const char *skip_number(const char *s, int *ret)
{
	const char *from = s;
	int64_t n = 0;

	for (; s && *s >= '0' && *s <= '9' && n <= INT32_MAX; s++)
		n = n * 10 + *s - '0';
	*ret = (int)n;
	return s == from || n > INT32_MAX ? NULL : s;
}

/*
 * The fiber of whose file `comm` this is the name: /proc/{self,PID}/task/TID/comm and
 * /proc/thread-self/comm. The main thread's is the kernel's own.
 */
static struct fiber *named_by(const struct weft_call *c, uint64_t path)
{
	char buf[64];
	const char *s, *rest;
	int id;
	struct fiber *f;

	/* Most opens end here, after two words. */
	if (load_string(path, buf, 7) != 6 || !skip(buf, "/proc/"))
		return NULL;
	if (load_string(path, buf, sizeof buf) < 0)
		return NULL;
	s = buf + 6;
	if ((rest = skip(s, "thread-self/comm")) && !*rest)
		return c->fiber == weft_fiber_main() ? NULL : c->fiber;
	rest = skip(s, "self");
	if (!rest) {
		rest = skip_number(s, &id);
		if (!rest || id != (int)weft_sys0(SYS_getpid))
			return NULL;
	}
	rest = skip(skip_number(skip(rest, "/task/"), &id), "/comm");
	f = rest && !*rest ? weft_fiber_by_tid(id) : NULL;
	return f == weft_fiber_main() ? NULL : f;
}

/*
 * A file to read the name from, as it is now. Nothing of weft's sees what is written to
 * a file, so that it is not written: EACCES.
 */
static long open_name(const struct fiber *f, int flags)
{
	const char *name = weft_fiber_name(f);
	size_t n = 0;
	long fd;

	if ((flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	while (name[n])
		n++;
	fd = weft_sys2(SYS_memfd_create, "comm",
		MFD_ALLOW_SEALING | (flags & O_CLOEXEC ? MFD_CLOEXEC : 0));
	if (weft_sys_failed(fd))
		return fd == -EMFILE || fd == -ENFILE ? fd : -ENOENT;
	weft_sys3(SYS_write, fd, (long)name, (long)n);
	weft_sys3(SYS_write, fd, (long)"\n", 1);
	weft_sys3(SYS_lseek, fd, 0, 0);
	weft_sys3(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);
	return fd;
}

long sys_open(struct weft_call *c)
{
	struct fiber *f = named_by(c, ARG1(c));

	if (f)
		return open_name(f, (int)ARG2(c));
	return weft_open_file(c, AT_FDCWD, (const char *)ARG1(c), ARG2(c));
}

long sys_openat(struct weft_call *c)
{
	struct fiber *f = named_by(c, ARG2(c));

	if (f)
		return open_name(f, (int)ARG3(c));
	return weft_open_file(c, (int)ARG1(c), (const char *)ARG2(c), ARG3(c));
}

/*
 * libc reaches another thread's name by its file. Here it needs none, and the names of
 * fibers can also be set.
 */
static struct fiber *other_fiber(pthread_t thread)
{
	struct fiber *f;

	if (!weft_runtime_running() || !weft_libc.tid)
		return NULL;
	f = weft_fiber_by_tid(load_relaxed((int *)(thread + weft_libc.tid)));
	return f == weft_fiber_self() ? NULL : f;
}

WEFT_EXPORT int pthread_setname_np(pthread_t thread, const char *name)
{
	struct fiber *f = other_fiber(thread);
	size_t n = 0;
	int r;

	if (!f)
		return WEFT_REAL(pthread_setname_np)(thread, name);
	while (name[n])
		if (++n >= NAME_SIZE)
			return ERANGE;
	if (f == weft_fiber_main()) {
		r = WEFT_REAL(pthread_setname_np)(thread, name);
		if (r)
			return r;
	}
	weft_fiber_set_name(f, name);
	return 0;
}

WEFT_EXPORT int pthread_getname_np(pthread_t thread, char *buf, size_t len)
{
	struct fiber *f = other_fiber(thread);

	if (!f)
		return WEFT_REAL(pthread_getname_np)(thread, buf, len);
	if (len < NAME_SIZE)
		return ERANGE;
	weft_memcpy(buf, weft_fiber_name(f), NAME_SIZE);
	buf[NAME_SIZE - 1] = 0;
	return 0;
}

/* ---- CPU time ------------------------------------------------------------- */

/* Linux, posix-timers_types.h: ~id << 3, and what is measured of whom. */
enum { CLOCK_WHAT = 3, CLOCK_OF_THREAD = 4, CLOCK_USER = 1 };

static bool is_thread_clock(int clock)
{
	return clock == CLOCK_THREAD_CPUTIME_ID ||
	       (clock < 0 && clock & CLOCK_OF_THREAD &&
		       (clock & CLOCK_WHAT) != CLOCK_WHAT);
}

struct fiber *weft_clock_fiber(int clock, struct fiber *self)
{
	int tid = clock < 0 ? ~(clock >> 3) : 0;

	if (!is_thread_clock(clock))
		return NULL;
	return tid ? weft_fiber_by_tid(tid) : self;
}

bool weft_clock_is_process(int clock)
{
	int pid = ~(clock >> 3);

	if (clock >= 0)
		return clock == CLOCK_PROCESS_CPUTIME_ID;
	return !(clock & CLOCK_OF_THREAD) && (clock & CLOCK_WHAT) != CLOCK_WHAT &&
	       (!pid || pid == (int)weft_sys0(SYS_getpid));
}

static uint64_t cpu_clock(int clock, struct fiber *f)
{
	uint64_t user, system;

	if (clock >= 0 || (clock & CLOCK_WHAT) != CLOCK_USER)
		return weft_cpu_time(f);
	weft_cpu_usage(f, &user, &system);
	return user;
}

static void store_time(struct timespec *t, uint64_t ns)
{
	t->tv_sec = (time_t)(ns / 1000000000u);
	t->tv_nsec = (long)(ns % 1000000000u);
}

static long get_clock(int clock, struct fiber *f, struct timespec *t)
{
	if (bad((uint64_t)t, sizeof *t))
		return -EFAULT;
	store_time(t, cpu_clock(clock, f));
	return 0;
}

long sys_clock_gettime(struct weft_call *c)
{
	struct fiber *f = weft_clock_fiber((int)ARG1(c), c->fiber);

	return f ? get_clock((int)ARG1(c), f, (struct timespec *)ARG2(c)) : WEFT_RAW;
}

long sys_clock_getres(struct weft_call *c)
{
	if (!weft_clock_fiber((int)ARG1(c), c->fiber))
		return WEFT_RAW;
	return with_first(c, CLOCK_THREAD_CPUTIME_ID);
}

long sys_clock_settime(struct weft_call *c)
{
	if ((int)ARG1(c) >= 0 || !weft_clock_fiber((int)ARG1(c), c->fiber))
		return WEFT_RAW;
	return bad(ARG2(c), sizeof(struct timespec)) ? -EFAULT : -EPERM;
}

/*
 * The vDSO answers most clocks without the kernel; for CPU clocks it has a system call
 * of its own, which is no site of libc's.
 */
WEFT_EXPORT int clock_gettime(clockid_t clock, struct timespec *t)
{
	struct fiber *self, *f;
	long r;

	if (likely(clock >= 0 && clock != CLOCK_THREAD_CPUTIME_ID)) {
		if (likely(weft_vdso_clock_gettime))
			return (int)weft_errno(weft_vdso_clock_gettime(clock, t));
		return WEFT_REAL(clock_gettime)(clock, t);
	}
	if (!weft_runtime_running())
		return WEFT_REAL(clock_gettime)(clock, t);
	self = weft_enter_fiber();
	f = weft_clock_fiber(clock, self);
	if (!f)
		return WEFT_REAL(clock_gettime)(clock, t);
	/* No handler may find the account locked. */
	if (!self) {
		uint64_t all = ~0ull, mask;

		weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, 8);
		r = get_clock(clock, f, t);
		weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
		return (int)weft_errno(r);
	}
	weft_fiber_in_weft(self, true);
	weft_fiber_set_vector_live(self, false);
	r = get_clock(clock, f, t);
	weft_leave(self);
	return (int)weft_errno(r);
}

WEFT_EXPORT int clock_getres(clockid_t clock, struct timespec *t)
{
	if (clock < 0 && weft_runtime_running() && weft_clock_fiber(clock, NULL))
		clock = CLOCK_THREAD_CPUTIME_ID;
	return WEFT_REAL(clock_getres)(clock, t);
}

/*
 * Until a fiber has computed for so long. It cannot before that much time has passed;
 * then one looks again. A thread that ends stops its clock, and natively nobody who
 * waits for it is told.
 */
enum { LOOK_NS = 1000000, NEVER_NS = 1000000000 };

static long sleep_by_fiber(struct weft_call *c, int tid)
{
	const struct timespec *t = (const void *)ARG3(c);
	struct timespec *left = (void *)ARG4(c);
	uint64_t used, wait;
	struct fiber *f;

	if (bad(ARG3(c), sizeof *t))
		return -EFAULT;
	if (t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u)
		return -EINVAL;
	if (!c->again) {
		c->deadline = weft_deadline_at(
			CLOCK_MONOTONIC, (uint64_t)t->tv_sec, (uint64_t)t->tv_nsec);
		f = weft_fiber_by_tid(tid);
		if (!(ARG2(c) & TIMER_ABSTIME) && f)
			c->deadline += weft_cpu_time(f);
	}
	for (;;) {
		f = weft_fiber_by_tid(tid);
		used = f ? weft_cpu_time(f) : 0;
		if (f && used >= c->deadline)
			return 0;
		wait = f ? c->deadline - used : NEVER_NS;
		if (wait < LOOK_NS)
			wait = LOOK_NS;
		if (weft_sleep_until(weft_deadline_in(0, wait)) == WEFT_WAKE_INTERRUPT)
			break;
	}
	if (left && !(ARG2(c) & TIMER_ABSTIME) && !bad((uint64_t)left, sizeof *left))
		store_time(left, f ? c->deadline - used : 0);
	return -EINTR;
}

long weft_sleep_by_cpu(struct weft_call *c)
{
	int clock = (int)ARG1(c);
	struct fiber *f = weft_clock_fiber(clock, c->fiber);

	if (!f)
		return weft_call_offload(c);
	/* A thread that waits for its own CPU time would wait for ever. */
	if (f == c->fiber)
		return -EINVAL;
	return sleep_by_fiber(c, weft_fiber_tid(f));
}

long sys_getrusage(struct weft_call *c)
{
	struct rusage *ru = (struct rusage *)ARG2(c);
	uint64_t user, system;
	long r;

	if ((int)ARG1(c) != RUSAGE_THREAD)
		return WEFT_RAW;
	r = weft_call_plain(c);
	if (r)
		return r;
	weft_cpu_usage(c->fiber, &user, &system);
	ru->ru_utime.tv_sec = (time_t)(user / 1000000000u);
	ru->ru_utime.tv_usec = (suseconds_t)(user % 1000000000u / 1000);
	ru->ru_stime.tv_sec = (time_t)(system / 1000000000u);
	ru->ru_stime.tv_usec = (suseconds_t)(system % 1000000000u / 1000);
	/* The size is the process's. Faults and transfers are counted by carrier. */
	ru->ru_minflt = ru->ru_majflt = ru->ru_inblock = ru->ru_oublock = 0;
	ru->ru_nvcsw = (long)weft_cpu_parks(c->fiber);
	ru->ru_nivcsw = 0;
	return 0;
}

/* ---- scheduling attributes ------------------------------------------------ */

enum { IO_WHO_PROCESS = 1, RESET_ON_FORK = 1 };

long sys_sched_yield(struct weft_call *c)
{
	(void)c;
	weft_yield();
	return 0;
}

/*
 * A change that the kernel has agreed to. One that makes f differ from the carriers takes
 * effect on a kernel thread of its own.
 */
static void take_effect(const struct weft_call *c, struct fiber *f, uint32_t what,
	enum weft_bind_reason why)
{
	if (!weft_attributes_matter(f, what))
		return;
	weft_fiber_bind_soon(f, why);
	if (f == c->fiber)
		weft_fiber_bind_if_due();
}

/*
 * What the kernel says of this carrier (which checks the arguments), with what is the
 * fiber's own written over it. A bound fiber has nothing of its own that its kernel
 * thread does not know: id 0, the carrier, until that thread has it.
 */
long sys_sched_get(struct weft_call *c)
{
	struct fiber *f = target(c, (int)ARG1(c));
	struct weft_sched_attr own, *out = (struct weft_sched_attr *)ARG2(c);
	const long args[3] = {0, (long)ARG2(c), 0};
	size_t size;
	long r;

	if (!f)
		return WEFT_RAW;
	if (!weft_attributes_sched(f, &own))
		return with_first(c, (uint64_t)weft_fiber_kernel_tid(f));
	switch (c->regs->rax) {
	case SYS_sched_getscheduler:
		return (long)own.policy |
		       (own.flags & RESET_ON_FORK ? SCHED_RESET_ON_FORK : 0);
	case SYS_sched_getparam:
		r = with_first(c, 0);
		if (!r)
			((struct sched_param *)out)->sched_priority = (int)own.priority;
		return r;
	case SYS_sched_getattr:
		r = with_first(c, 0);
		if (r)
			return r;
		size = ARG3(c) < sizeof own ? ARG3(c) : sizeof own;
		/* The kernel shows the nice value of those who are scheduled by it. */
		if (own.policy != SCHED_OTHER && own.policy != SCHED_BATCH &&
			own.policy != SCHED_IDLE)
			own.nice = 0;
		weft_memcpy(&out->policy, &own.policy,
			size - offsetof(struct weft_sched_attr, policy));
		return 0;
	default: /* sched_rr_get_interval */
		return weft_attributes_ask(f, 0, (long)c->regs->rax, args);
	}
}

/* sched_setscheduler, sched_setparam, sched_setattr */
long sys_sched_set(struct weft_call *c)
{
	struct fiber *f = target(c, (int)ARG1(c));
	const long args[3] = {0, (long)ARG2(c), (long)ARG3(c)};
	long r;

	if (!f)
		return WEFT_RAW;
	if (weft_fiber_kernel_tid(f))
		return with_first(c, (uint64_t)weft_fiber_kernel_tid(f));
	r = weft_attributes_ask(f, WEFT_OWN_SCHED, (long)c->regs->rax, args);
	if (r >= 0)
		take_effect(c, f, WEFT_OWN_SCHED, WEFT_BIND_SCHEDULING);
	return r;
}

long sys_sched_getaffinity(struct weft_call *c)
{
	struct fiber *f = target(c, (int)ARG1(c));
	long r;

	if (!f)
		return WEFT_RAW;
	r = with_first(c, 0);
	if (r > 0 && !weft_attributes_affinity(f, (void *)ARG3(c), (size_t)r) &&
		weft_fiber_kernel_tid(f))
		return with_first(c, (uint64_t)weft_fiber_kernel_tid(f));
	return r;
}

long sys_sched_setaffinity(struct weft_call *c)
{
	struct fiber *f = target(c, (int)ARG1(c));
	const long args[3] = {0, (long)ARG2(c), (long)ARG3(c)};
	long r;

	if (!f)
		return WEFT_RAW;
	if (weft_fiber_kernel_tid(f))
		return with_first(c, (uint64_t)weft_fiber_kernel_tid(f));
	r = weft_attributes_ask(f, WEFT_OWN_AFFINITY, (long)c->regs->rax, args);
	if (r >= 0)
		take_effect(c, f, WEFT_OWN_AFFINITY, WEFT_BIND_AFFINITY);
	return r;
}

/*
 * A process group's nice value is that of its processes' first threads. The kernel
 * changes the others' and our carrier's, which is given back what it had.
 */
static long set_group_priority(struct weft_call *c)
{
	struct fiber *f = weft_fiber_main();
	long pid = weft_sys0(SYS_getpid), was, r;

	if (!f || (ARG2(c) && (int)ARG2(c) != (int)weft_sys1(SYS_getpgid, 0)))
		return WEFT_RAW;
	was = weft_sys2(SYS_getpriority, PRIO_PROCESS, pid);
	r = weft_call_plain(c);
	if (r)
		return r;
	if (weft_fiber_is_bound(f))
		return 0; /* it is the first thread that the kernel has changed */
	weft_attributes_set_nice(f, (int)ARG3(c));
	take_effect(c, f, WEFT_OWN_SCHED, WEFT_BIND_SCHEDULING);
	if (weft_fiber_is_bound(f))
		return 0;
	if (was > 0)
		weft_sys3(SYS_setpriority, PRIO_PROCESS, pid, 20 - was);
	return 0;
}

long sys_setpriority(struct weft_call *c)
{
	const long args[3] = {PRIO_PROCESS, 0, (long)ARG3(c)};
	struct fiber *f;
	long r;

	if ((int)ARG1(c) == PRIO_PGRP)
		return set_group_priority(c);
	f = (int)ARG1(c) == PRIO_PROCESS ? target(c, (int)ARG2(c)) : NULL;
	if (!f)
		return WEFT_RAW;
	if (weft_fiber_kernel_tid(f))
		return with_second(c, (uint64_t)weft_fiber_kernel_tid(f));
	r = weft_attributes_ask(f, WEFT_OWN_SCHED, SYS_setpriority, args);
	if (!r)
		take_effect(c, f, WEFT_OWN_SCHED, WEFT_BIND_SCHEDULING);
	return r;
}

long sys_getpriority(struct weft_call *c)
{
	struct fiber *f = (int)ARG1(c) == PRIO_PROCESS ? target(c, (int)ARG2(c)) : NULL;
	struct weft_sched_attr own;

	if (!f)
		return WEFT_RAW;
	return weft_attributes_sched(f, &own)
		       ? 20 - own.nice
		       : with_second(c, (uint64_t)weft_fiber_kernel_tid(f));
}

long sys_ioprio_set(struct weft_call *c)
{
	const long args[3] = {IO_WHO_PROCESS, 0, (long)ARG3(c)};
	struct fiber *f = (int)ARG1(c) == IO_WHO_PROCESS ? target(c, (int)ARG2(c)) : NULL;

	long r;

	if (!f)
		return WEFT_RAW;
	if (weft_fiber_kernel_tid(f))
		return with_second(c, (uint64_t)weft_fiber_kernel_tid(f));
	r = weft_attributes_ask(f, WEFT_OWN_IOPRIO, SYS_ioprio_set, args);
	if (!r)
		take_effect(c, f, WEFT_OWN_IOPRIO, WEFT_BIND_IOPRIO);
	return r;
}

long sys_ioprio_get(struct weft_call *c)
{
	struct fiber *f = (int)ARG1(c) == IO_WHO_PROCESS ? target(c, (int)ARG2(c)) : NULL;
	int own;

	if (!f)
		return WEFT_RAW;
	return weft_attributes_ioprio(f, &own)
		       ? own
		       : with_second(c, (uint64_t)weft_fiber_kernel_tid(f));
}
