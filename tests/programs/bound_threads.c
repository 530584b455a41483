/*
 * What the kernel keeps per thread belongs to the thread that changed it, and to those
 * that it makes later: filters, privileges, credentials, working directory, descriptor
 * table, affinity, nice value. Every thread asks the kernel, by instructions of its own,
 * after each kind of wait. More such threads than CPUs; others run beside them all the
 * time.
 *
 *   bound_threads threads   changed by threads
 *   bound_threads main      changed by the main thread
 *   bound_threads many      made and ended by the hundred
 *   bound_threads rare      calls that are made once in a program's life
 */
#include "../support/prog.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <semaphore.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* By an instruction of this program: nobody but the kernel answers. */
static long raw(long nr, long a, long b, long c)
{
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return r;
}

enum kind { FILTER, NO_PRIVS, CAPS, FSUID, SETUID, DIRECTORY, TABLE, CPU, NICE, KINDS };
static const char *const names[] = {"filter", "no new privileges", "capabilities",
	"fsuid", "setresuid by number", "directory", "descriptor table", "affinity",
	"nice"};

static int private_fd; /* who has its own table closes it there */
static volatile int stop, handled;
static bool root;
static bool one_cpu; /* is all that there is */

static unsigned effective(void)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	memset(caps, 0, sizeof caps);
	CHECK(!raw(SYS_capget, (long)&head, (long)caps, 0));
	return caps[0].effective;
}

/* 1: this thread has what `kind` changes. */
static int has(enum kind kind)
{
	unsigned long cpus[16] = {0};
	char dir[64] = "";
	int r, e, s;

	switch (kind) {
	case FILTER:
		return raw(SYS_getppid, 0, 0, 0) == -ENOTUNIQ;
	case NO_PRIVS:
		return (int)raw(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0);
	case CAPS:
		return !(effective() & 1u << CAP_NET_RAW);
	case FSUID:
		return raw(SYS_setfsuid, -1, 0, 0) == 12345;
	case SETUID:
		raw(SYS_getresuid, (long)&r, (long)&e, (long)&s);
		return s == 12345;
	case DIRECTORY:
		raw(SYS_getcwd, (long)dir, sizeof dir, 0);
		return !strcmp(dir, "/usr");
	case TABLE:
		return raw(SYS_fcntl, private_fd, F_GETFD, 0) == -EBADF;
	case CPU:
		raw(SYS_sched_getaffinity, 0, sizeof cpus, (long)cpus);
		return cpus[0] == 1;
	case NICE:
		return raw(SYS_getpriority, PRIO_PROCESS, 0, 0) == 20 - 7;
	default:
		return -1;
	}
}

static void install_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTUNIQ),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof code / sizeof *code, code};

	OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/* Makes the change; false: this user may not. */
static bool change(enum kind kind)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
	cpu_set_t set;

	switch (kind) {
	case FILTER:
		install_filter();
		return true;
	case NO_PRIVS:
		OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		return true;
	case CAPS:
		if (!root)
			return false;
		OK(syscall(SYS_capget, &head, caps));
		caps[0].effective &= ~(1u << CAP_NET_RAW);
		OK(syscall(SYS_capset, &head, caps));
		return true;
	case FSUID:
		if (!root)
			return false;
		setfsuid(12345);
		return true;
	case SETUID:
		if (!root)
			return false;
		OK(syscall(SYS_setresuid, -1, -1, 12345));
		return true;
	case DIRECTORY:
		OK(unshare(CLONE_FS));
		OK(chdir("/usr"));
		return true;
	case TABLE:
		OK(unshare(CLONE_FILES));
		OK(close(private_fd));
		return true;
	case CPU:
		CPU_ZERO(&set);
		CPU_SET(0, &set);
		ZERO(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
		return true;
	case NICE:
		OK(setpriority(PRIO_PROCESS, (id_t)gettid(), 7));
		return true;
	default:
		return false;
	}
}

/* ---- waiting in every way ------------------------------------------------- */

static int served[2]; /* a server thread answers what comes here */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static unsigned turns;

/* What the others do: turns, and a byte for everyone who asks for one. */
static void *serve(void *arg)
{
	struct timespec ms = {0, 1000000};
	char byte;

	(void)arg;
	while (!stop) {
		ZERO(pthread_mutex_lock(&lock));
		turns++;
		ZERO(pthread_cond_broadcast(&turn));
		ZERO(pthread_mutex_unlock(&lock));
		while (recv(served[0], &byte, 1, MSG_DONTWAIT) == 1)
			;
		for (int kind = 0; kind < KINDS; kind++)
			/* Nobody waits for turns any more: fail at once. */
			if (has((enum kind)kind) && !(one_cpu && kind == CPU)) {
				say("others have it: %s", names[kind]);
				exit(1);
			}
		nanosleep(&ms, NULL);
	}
	return NULL;
}

static void *answer(void *arg)
{
	int fd = *(int *)arg;
	struct timespec ms = {0, 2000000};
	char byte;

	while (read(fd, &byte, 1) == 1) {
		nanosleep(&ms, NULL);
		CHECK(write(fd, &byte, 1) == 1);
	}
	return NULL;
}

static void ask(int fd)
{
	CHECK(write(fd, "x", 1) == 1);
}

/* One round of waits; `bad` collects after which of them the thread had lost it. */
static void wait_all_ways(enum kind kind, int fd, int set, char *bad)
{
	struct pollfd p = {fd, POLLIN, 0};
	struct timespec ms = {0, 1000000}, second = {1, 0};
	struct epoll_event event;
	sigset_t none;
	char byte;
	unsigned seen;
	fd_set in;

	sigemptyset(&none);
#define AFTER(letter)                                                                    \
	do {                                                                             \
		if (!has(kind))                                                          \
			*bad++ = (letter);                                               \
	} while (0)
	ask(fd);
	CHECK(read(fd, &byte, 1) == 1);
	AFTER('r');
	ask(fd);
	CHECK(recv(fd, &byte, 1, MSG_WAITALL) == 1);
	AFTER('R');
	ask(fd);
	CHECK(poll(&p, 1, 1000) == 1 && read(fd, &byte, 1) == 1);
	AFTER('p');
	ask(fd);
	CHECK(ppoll(&p, 1, &second, &none) == 1 && read(fd, &byte, 1) == 1);
	AFTER('P');
	ask(fd);
	FD_ZERO(&in);
	FD_SET(fd, &in);
	CHECK(pselect(fd + 1, &in, NULL, NULL, &second, &none) == 1 &&
		read(fd, &byte, 1) == 1);
	AFTER('s');
	ask(fd);
	CHECK(epoll_pwait(set, &event, 1, 1000, &none) == 1 && read(fd, &byte, 1) == 1);
	AFTER('e');
	nanosleep(&ms, NULL);
	AFTER('n');
	ZERO(pthread_mutex_lock(&lock));
	for (seen = turns; seen == turns;)
		ZERO(pthread_cond_wait(&turn, &lock));
	ZERO(pthread_mutex_unlock(&lock));
	AFTER('c');
	sched_yield();
	AFTER('y');
	*bad = 0;
}

struct thread {
	enum kind kind;
	int pair[2];
	bool allowed;
	bool child_has, fork_has, before;
	char bad[64];
};

static void *child(void *arg)
{
	struct timespec ms = {0, 1000000};
	struct thread *t = arg;

	nanosleep(&ms, NULL);
	t->child_has = has(t->kind);
	return NULL;
}

static void as_bound(struct thread *t)
{
	struct epoll_event event = {.events = EPOLLIN};
	int set = OK(epoll_create1(EPOLL_CLOEXEC)), status;
	pid_t pid;

	OK(epoll_ctl(set, EPOLL_CTL_ADD, t->pair[0], &event));
	t->before = has(t->kind) && !(one_cpu && t->kind == CPU);
	t->allowed = change(t->kind);
	if (!t->allowed)
		return;
	for (int round = 0; round < 5 && !*t->bad; round++)
		wait_all_ways(t->kind, t->pair[0], set, t->bad);
	ZERO(pthread_join(start(child, t), NULL));
	pid = OK(fork());
	if (!pid)
		_exit(has(t->kind) ? 42 : 1);
	CHECK(waitpid(pid, &status, 0) == pid);
	t->fork_has = WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

static void *bound(void *arg)
{
	as_bound(arg);
	return NULL;
}

static void tell(const struct thread *t)
{
	if (!t->allowed)
		say("%s: not allowed", names[t->kind]);
	else
		say("%s: before %d, lost after '%s', a later thread has it %d, a fork %d",
			names[t->kind], t->before, t->bad, t->child_has, t->fork_has);
}

static void begin(struct thread *t, enum kind kind, pthread_t *ret_answers)
{
	memset(t, 0, sizeof *t);
	t->kind = kind;
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, t->pair));
	*ret_answers = start(answer, &t->pair[1]);
}

static void give_back(struct thread *t, pthread_t answers)
{
	OK(shutdown(t->pair[0], SHUT_RDWR));
	ZERO(pthread_join(answers, NULL));
	OK(close(t->pair[0]));
	OK(close(t->pair[1]));
}

static pthread_t server;

static void start_server(void)
{
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, served));
	server = start(serve, NULL);
}

static void stop_server(void)
{
	stop = 1;
	ZERO(pthread_join(server, NULL));
	say("others: nothing");
}

static void by_threads(void)
{
	enum { EACH = 2 };
	struct thread t[KINDS * EACH];
	pthread_t answers[KINDS * EACH], ids[KINDS * EACH];

	start_server();
	for (int i = 0; i < KINDS * EACH; i++)
		begin(&t[i], (enum kind)(i % KINDS), &answers[i]);
	for (int i = 0; i < KINDS * EACH; i++)
		ids[i] = start(bound, &t[i]);
	for (int i = 0; i < KINDS * EACH; i++)
		ZERO(pthread_join(ids[i], NULL));
	for (int i = 0; i < KINDS * EACH; i++) {
		tell(&t[i]);
		give_back(&t[i], answers[i]);
	}
	stop_server();
	for (int kind = 0; kind < KINDS; kind++)
		CHECK(!has((enum kind)kind) || (one_cpu && kind == CPU));
}

static void by_main(void)
{
	static const enum kind kinds[] = {CPU, NICE, DIRECTORY, FSUID, FILTER};

	start_server();
	for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct thread t;
		pthread_t answers;

		begin(&t, kinds[i], &answers);
		as_bound(&t);
		tell(&t);
		give_back(&t, answers);
	}
	/* The process's first thread is the one that has it, also from outside. */
	say("the first thread: %d", raw(SYS_gettid, 0, 0, 0) == getpid());
	stop_server();
}

/* ---- made and ended by the hundred ---------------------------------------- */

static sem_t ready;

static void on_usr1(int sig)
{
	(void)sig;
	handled++;
}

/* Signals, cancellation, attributes that others set: on a kernel thread of its own. */
static void *reads_until_cancelled(void *arg)
{
	int *pair = arg, timeouts = 0;
	struct pollfd p = {pair[0], POLLIN, 0};
	char byte;

	CHECK(change(NICE));
	sem_post(&ready);
	CHECK(read(pair[0], &byte, 1) == -1 && errno == EINTR);
	sem_post(&ready);
	CHECK(poll(&p, 1, -1) == -1 && errno == EINTR);
	sem_post(&ready);
	CHECK(sem_wait((sem_t *)(pair + 2)) == -1 && errno == EINTR);
	CHECK(poll(&p, 1, 5) == 0 && ++timeouts);
	sem_post(&ready);
	CHECK(read(pair[0], &byte, 1) == 1);
	return NULL;
}

static void signals_and_cancel(void)
{
	struct {
		int pair[2];
		sem_t never;
	} s;
	struct sigaction act = {.sa_handler = on_usr1};
	struct timespec ms = {0, 1000000};
	void *result;
	pthread_t t;

	OK(sigaction(SIGUSR1, &act, NULL));
	OK(sem_init(&ready, 0, 0));
	OK(sem_init(&s.never, 0, 0));
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s.pair));
	t = start(reads_until_cancelled, &s);
	OK(sem_wait(&ready));
	for (int i = 0; i < 3; i++) {
		struct timespec until;
		int before = handled;

		/* Again, if it had not begun to wait at the first. */
		do {
			nanosleep(&ms, NULL);
			nanosleep(&ms, NULL);
			ZERO(pthread_kill(t, SIGUSR1));
			OK(clock_gettime(CLOCK_REALTIME, &until));
			until.tv_sec++;
		} while (sem_timedwait(&ready, &until));
		CHECK(handled != before);
	}
	ZERO(pthread_cancel(t));
	ZERO(pthread_join(t, &result));
	say("cancelled: %d", result == PTHREAD_CANCELED);
}

static void *asleep(void *arg)
{
	unsigned long cpus[16] = {0};

	sem_wait(arg);
	raw(SYS_sched_getaffinity, 0, sizeof cpus, (long)cpus);
	return (void *)cpus[0];
}

static volatile bool is_set;

static void *calls_meanwhile(void *arg)
{
	unsigned long cpus[16] = {0};

	(void)arg;
	while (!is_set) {
		getppid();
		sched_yield();
	}
	getppid();
	raw(SYS_sched_getaffinity, 0, sizeof cpus, (long)cpus);
	return (void *)cpus[0];
}

static void *waits_for_a_signal(void *arg)
{
	unsigned long cpus[16] = {0};
	struct timespec time = {0, 50000000};
	sigset_t urgent;

	(void)arg;
	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	CHECK(sigtimedwait(&urgent, NULL, &time) == -1 && errno == EAGAIN);
	raw(SYS_sched_getaffinity, 0, sizeof cpus, (long)cpus);
	return (void *)cpus[0];
}

/* By another thread, and by attributes before it begins. */
static void set_by_others(void)
{
	cpu_set_t set, got;
	pthread_attr_t attr;
	int unset = 0;
	void *mask;
	pthread_t t;
	sem_t go;

	OK(sem_init(&go, 0, 0));
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	t = start(asleep, &go);
	ZERO(pthread_setaffinity_np(t, sizeof set, &set));
	ZERO(pthread_getaffinity_np(t, sizeof got, &got));
	say("read back: %d", CPU_EQUAL(&set, &got));
	sem_post(&go);
	ZERO(pthread_join(t, &mask));
	say("set by another thread: %lu", (unsigned long)mask);
	/* Whatever it was about to do for others when it was told. */
	for (int i = 0; i < 40; i++) {
		is_set = false;
		t = start(calls_meanwhile, NULL);
		ZERO(pthread_setaffinity_np(t, sizeof set, &set));
		is_set = true;
		ZERO(pthread_join(t, &mask));
		unset += (unsigned long)mask != 1;
	}
	say("set while it made calls: all but %d", unset);
	t = start(waits_for_a_signal, NULL);
	usleep(20000);
	ZERO(pthread_setaffinity_np(t, sizeof set, &set));
	ZERO(pthread_join(t, &mask));
	say("set while it waited for a signal: %lu", (unsigned long)mask);

	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setaffinity_np(&attr, sizeof set, &set));
	ZERO(pthread_create(&t, &attr, asleep, &go));
	sem_post(&go);
	ZERO(pthread_join(t, &mask));
	say("by an attribute: %lu", (unsigned long)mask);
	ZERO(pthread_attr_destroy(&attr));
}

static void *nice_and_gone(void *arg)
{
	(void)arg;
	CHECK(change(NICE) && has(NICE));
	return NULL;
}

/* ---- one call each -------------------------------------------------------- */

enum { RARE = 8 };

/* Linux 5.13, uapi/linux/landlock.h: access to files is what is restricted. */
static const char *restrict_files(void)
{
	uint64_t handled_access = 1; /* LANDLOCK_ACCESS_FS_EXECUTE */
	int ruleset = (int)syscall(
		SYS_landlock_create_ruleset, &handled_access, sizeof handled_access, 0);
	const char *r = brief("none %s", err_name(errno));

	if (ruleset < 0)
		return r;
	OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	r = RESULT(syscall(SYS_landlock_restrict_self, ruleset, 0));
	close(ruleset);
	return r;
}

static const char *make_rare_call(long which)
{
	unsigned long nodes = 1;
	int ns, id;

	switch (which) {
	case 0:
		return restrict_files();
	case 1:
		return RESULT(personality(0x0040000 /* ADDR_NO_RANDOMIZE */));
	case 2:
		return RESULT(syscall(SYS_set_mempolicy, 2 /* BIND */, &nodes, 8));
	case 3:
		ns = OK(open("/proc/self/ns/uts", O_RDONLY));
		id = setns(ns, CLONE_NEWUTS);
		close(ns);
		return RESULT(id);
	case 4:
		id = setfsgid(23456);
		return brief("%d, then %d", id, setfsgid(-1));
	case 5:
		return syscall(SYS_keyctl, 1 /* JOIN_SESSION_KEYRING */, NULL) == -1
			       ? RESULT(-1)
			       : "a keyring";
	case 6:
		return RESULT(syscall(SYS_ioperm, 0x378, 1, 1));
	default:
		return RESULT(syscall(SYS_iopl, 0));
	}
}

static void *rare(void *arg)
{
	static char result[RARE][64];
	struct timespec ms = {0, 1000000};
	long which = (long)arg, tid;
	bool same = true;

	snprintf(result[which], sizeof result[which], "%s", make_rare_call(which));
	tid = raw(SYS_gettid, 0, 0, 0);
	for (int i = 0; i < 20; i++) {
		nanosleep(&ms, NULL);
		same &= raw(SYS_gettid, 0, 0, 0) == tid;
	}
	CHECK(same);
	return result[which];
}

static void rare_calls(void)
{
	pthread_t t[RARE];
	void *result;

	for (long i = 0; i < RARE; i++)
		t[i] = start(rare, (void *)i);
	for (int i = 0; i < RARE; i++) {
		ZERO(pthread_join(t[i], &result));
		say("%d: %s", i, (char *)result);
	}
	say("others: personality %lx, fsgid %d", (unsigned long)personality(0xffffffff),
		setfsgid(-1) == (int)getegid());
}

static unsigned tasks(void)
{
	unsigned n = 0;
	int fd = OK(open("/proc/self/status", O_RDONLY));
	char text[4096], *line;
	ssize_t r = OK(read(fd, text, sizeof text - 1));

	text[r] = 0;
	line = strstr(text, "Threads:");
	CHECK(line && sscanf(line, "Threads: %u", &n) == 1);
	close(fd);
	return n;
}

static void many(void)
{
	enum { TIMES = 50, AT_ONCE = 10 };
	pthread_t t[AT_ONCE];

	signals_and_cancel();
	set_by_others();
	for (int i = 0; i < TIMES; i++) {
		for (int k = 0; k < AT_ONCE; k++)
			t[k] = start(nice_and_gone, NULL);
		for (int k = 0; k < AT_ONCE; k++)
			ZERO(pthread_join(t[k], NULL));
	}
	say("kernel threads left: %s", tasks() < 50 ? "few" : "many");
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "threads";

	root = !geteuid() && effective() & 1u << CAP_NET_RAW;
	one_cpu = has(CPU);
	OK(chdir("/"));
	private_fd = OK(open("/dev/null", O_RDONLY));
	if (!strcmp(how, "main"))
		by_main();
	else if (!strcmp(how, "many"))
		many();
	else if (!strcmp(how, "rare"))
		rare_calls();
	else
		by_threads();
	return 0;
}
