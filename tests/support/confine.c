/*
 * confine.c - run one command so that nothing of it can outlive the run
 *
 * Three processes:
 *
 *   runner      the caller of confine_run(); waits
 *   watchdog    the command's parent; a child subreaper, so that orphans of the
 *               command become its children and can be found; dies by nothing
 *               the command does; gets SIGTERM when the runner dies
 *   command     in a session of its own; gets SIGKILL when the watchdog dies
 *
 * Any one of them may be killed by SIGKILL: without the runner the watchdog
 * kills the tree; without the watchdog the runner, which is a subreaper too,
 * inherits the tree and kills it. Killing both at once still takes the command
 * itself. A process group or a session would be easier to kill, but a program
 * that daemonises leaves both; a pid namespace would change the pids that the
 * programs look at, and needs privileges.
 */
#define _GNU_SOURCE
#include "confine.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long the dying may take after the command has ended, before they count
 * as left behind: a loaded machine needs a moment to run an exit. */
#define GRACE_MS 2000

/* Threads shown of one hung process, and processes shown. */
#define MAX_THREADS   64
#define MAX_PROCESSES 8
#define GDB_TIMEOUT_S 40

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void watched_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGCHLD);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

/* 0 on a time-out, otherwise one of watched_signals(). */
static int wait_signal(int64_t ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
	sigset_t set;
	int sig;

	if (ms < 0)
		ts.tv_sec = ts.tv_nsec = 0;
	watched_signals(&set);
	do
		sig = sigtimedwait(&set, NULL, &ts);
	while (sig < 0 && errno == EINTR);
	return sig < 0 ? 0 : sig;
}

/* ---- the tree ---------------------------------------------------------- */

struct process {
	pid_t pid, ppid;
	char state;
	bool ours;
};

static bool read_stat(pid_t pid, struct process *ret_process)
{
	char path[64], buf[512], *p;
	ssize_t len;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	len = read(fd, buf, sizeof buf - 1);
	close(fd);
	if (len <= 0)
		return false;
	buf[len] = 0;
	p = strrchr(buf, ')'); /* the name may hold anything, also a ')' */
	if (!p)
		return false;
	ret_process->pid = pid;
	return sscanf(p + 1, " %c %d", &ret_process->state, &ret_process->ppid) == 2;
}

/*
 * Our living descendants, zombies left out. The caller frees *ret_list.
 * Reading /proc is no snapshot: callers repeat until nothing new appears.
 */
static size_t descendants(struct process **ret_list)
{
	struct process *list = NULL;
	size_t count = 0, room = 0, kept = 0;
	struct dirent *e;
	bool grown;
	DIR *dir = opendir("/proc");

	*ret_list = NULL;
	if (!dir)
		return 0;
	while ((e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (count == room) {
			room = room ? room * 2 : 256;
			list = realloc(list, room * sizeof *list);
			if (!list)
				abort();
		}
		list[count].ours = false;
		if (read_stat(atoi(e->d_name), &list[count]))
			count++;
	}
	closedir(dir);
	do {
		grown = false;
		for (size_t i = 0; i < count; i++) {
			if (list[i].ours)
				continue;
			list[i].ours = list[i].ppid == getpid();
			for (size_t k = 0; k < count && !list[i].ours; k++)
				list[i].ours =
					list[k].ours && list[k].pid == list[i].ppid;
			grown |= list[i].ours;
		}
	} while (grown);
	for (size_t i = 0; i < count; i++)
		if (list[i].ours && list[i].state != 'Z' && list[i].state != 'X')
			list[kept++] = list[i];
	*ret_list = list;
	return kept;
}

static size_t signal_tree(int sig)
{
	struct process *list;
	size_t n = descendants(&list);

	for (size_t i = 0; i < n; i++)
		kill(list[i].pid, sig);
	free(list);
	return n;
}

/* Stops all first, so that what forks cannot outrun us; then kills. */
static void kill_tree(void)
{
	size_t before = 0, n;

	while ((n = signal_tree(SIGSTOP)) > before)
		before = n;
	while (signal_tree(SIGKILL) > 0) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		usleep(1000);
	}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/* ---- what a hung process was doing ------------------------------------- */

static void print_file(FILE *out, const char *label, const char *fmt, ...)
{
	char path[128], buf[4096];
	va_list ap;
	size_t len;
	FILE *f;

	va_start(ap, fmt);
	vsnprintf(path, sizeof path, fmt, ap);
	va_end(ap);
	f = fopen(path, "re");
	if (!f)
		return;
	len = fread(buf, 1, sizeof buf - 1, f);
	fclose(f);
	for (size_t i = 0; i < len; i++) /* cmdline separates by NUL */
		if (!buf[i])
			buf[i] = ' ';
	while (len && isspace((unsigned char)buf[len - 1]))
		len--;
	buf[len] = 0;
	if (len)
		fprintf(out, "%s%s\n", label, buf);
}

static int print_threads(FILE *out, pid_t pid)
{
	char path[64];
	struct dirent *e;
	struct process t;
	int count = 0;
	DIR *dir;

	snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return 0;
	while ((e = readdir(dir))) {
		int tid = atoi(e->d_name);

		if (!tid || ++count > MAX_THREADS)
			continue;
		t.state = '?';
		read_stat(tid, &t);
		fprintf(out, "  thread %d state %c\n", tid, t.state);
		print_file(out, "    comm    ", "/proc/%d/task/%d/comm", pid, tid);
		print_file(out, "    wchan   ", "/proc/%d/task/%d/wchan", pid, tid);
		print_file(out, "    syscall ", "/proc/%d/task/%d/syscall", pid, tid);
		print_file(out, "", "/proc/%d/task/%d/stack", pid, tid);
	}
	closedir(dir);
	if (count > MAX_THREADS)
		fprintf(out, "  … and %d more threads\n", count - MAX_THREADS);
	return count;
}

static void print_backtraces(FILE *out, pid_t pid, int threads)
{
	char pid_text[16], apply[64];
	int64_t deadline = now_ms() + GDB_TIMEOUT_S * 1000;
	sigset_t none;
	pid_t gdb;

	fflush(out);
	snprintf(pid_text, sizeof pid_text, "%d", (int)pid);
	snprintf(apply, sizeof apply, "thread apply 1-%d bt 24",
		threads < MAX_THREADS ? threads : MAX_THREADS);
	gdb = fork();
	if (gdb == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		dup2(fileno(out), 1);
		dup2(fileno(out), 2);
		execlp("gdb", "gdb", "-nx", "-batch", "-iex",
			"set debuginfod enabled off", "-iex",
			"set print frame-arguments none", "-p", pid_text, "-ex", apply,
			(char *)NULL);
		_exit(127); /* no gdb: /proc has to do */
	}
	while (gdb > 0 && waitpid(gdb, NULL, WNOHANG) == 0) {
		if (now_ms() > deadline)
			kill(gdb, SIGKILL);
		usleep(20000);
	}
}

static void print_tree(FILE *out)
{
	struct process *list;
	size_t n = descendants(&list);

	for (size_t i = 0; i < n && i < MAX_PROCESSES; i++) {
		int threads;

		fprintf(out, "process %d (parent %d)", list[i].pid, list[i].ppid);
		print_file(out, ": ", "/proc/%d/cmdline", list[i].pid);
		threads = print_threads(out, list[i].pid);
		print_backtraces(out, list[i].pid, threads);
	}
	if (n > MAX_PROCESSES)
		fprintf(out, "… and %zu more processes\n", n - MAX_PROCESSES);
	free(list);
	fflush(out);
}

static void report_hang(const struct confine *c)
{
	FILE *f = c->reports ? fopen(c->reports, "we") : NULL;

	fprintf(stderr, "confine: %s is still running after %d s:\n", c->argv[0],
		c->timeout_s);
	print_tree(stderr);
	if (f) {
		print_tree(f);
		fclose(f);
	}
}

static int report_leftovers(void)
{
	struct process *list;
	size_t n = descendants(&list);

	for (size_t i = 0; i < n; i++) {
		fprintf(stderr, "confine: left behind: process %d, state %c", list[i].pid,
			list[i].state);
		print_file(stderr, ": ", "/proc/%d/cmdline", list[i].pid);
	}
	free(list);
	return (int)n;
}

/* ---- the command ------------------------------------------------------- */

static void only_first_cpu(void)
{
	cpu_set_t mask;
	int cpu = 0;

	if (sched_getaffinity(0, sizeof mask, &mask) < 0)
		return;
	while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &mask))
		cpu++;
	CPU_ZERO(&mask);
	CPU_SET(cpu, &mask);
	sched_setaffinity(0, sizeof mask, &mask);
}

static void exec_command(const struct confine *c, pid_t watchdog)
{
	struct rlimit no_core = {0, 0};
	sigset_t none;
	int in;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != watchdog)
		_exit(127);
	setsid();
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &no_core);
	umask(022);
	if (c->one_cpu)
		only_first_cpu();
	if (c->cwd && chdir(c->cwd) < 0)
		_exit(127);
	if (c->stdout_fd >= 0)
		dup2(c->stdout_fd, 1);
	if (c->stderr_fd >= 0)
		dup2(c->stderr_fd, 2);
	in = open("/dev/null", O_RDONLY);
	dup2(in, 0);
	close_range(3, ~0U, 0);
	if (c->envp)
		execvpe(c->argv[0], c->argv, c->envp);
	else
		execvp(c->argv[0], c->argv);
	dprintf(2, "confine: %s: %s\n", c->argv[0], strerror(errno));
	_exit(127);
}

/* ---- the watchdog ------------------------------------------------------ */

/* Waits until the command ends, and only for that; orphans are reaped aside. */
static bool reap_command(pid_t command, struct confine_result *result)
{
	struct rusage usage;
	int status;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
		if (pid != command)
			continue;
		result->status = status;
		result->max_rss_kib = usage.ru_maxrss;
		result->cpu_s =
			(double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
			(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
		return true;
	}
	return false;
}

static bool nobody_left(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD;
}

static void watch(const struct confine *c, pid_t runner, int result_fd)
{
	struct confine_result result = {0};
	int64_t start = now_ms(), deadline = start + c->timeout_s * 1000LL;
	pid_t command, self = getpid();
	int sig;

	setsid(); /* a ^C is the runner's, who tells us */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != runner)
		_exit(1);
	command = fork();
	if (command < 0)
		_exit(1);
	if (command == 0)
		exec_command(c, self);

	while (!reap_command(command, &result)) {
		int64_t left = deadline - now_ms();

		if (left <= 0) {
			result.timed_out = true;
			report_hang(c);
			break;
		}
		sig = wait_signal(left);
		if (sig && sig != SIGCHLD) {
			kill_tree();
			_exit(1);
		}
	}
	result.wall_s = (double)(now_ms() - start) / 1000;
	if (!result.timed_out) {
		deadline = now_ms() + GRACE_MS;
		while (!nobody_left() && now_ms() < deadline) {
			sig = wait_signal(50);
			if (sig && sig != SIGCHLD)
				break;
		}
		result.leftovers = report_leftovers();
	}
	kill_tree();
	if (write(result_fd, &result, sizeof result) != sizeof result)
		_exit(1);
	_exit(0);
}

/* ---- the runner -------------------------------------------------------- */

void (*confine_before_death)(void);

static void die_by(int sig)
{
	sigset_t set;

	if (confine_before_death)
		confine_before_death();
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	_exit(128 + sig);
}

int confine_run(const struct confine *c, struct confine_result *ret_result)
{
	int fds[2], sig, told = 0, status;
	pid_t watchdog, runner = getpid(), pid;
	sigset_t set, old;
	ssize_t len;

	fflush(NULL);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	watched_signals(&set);
	sigprocmask(SIG_BLOCK, &set, &old);
	watchdog = fork();
	if (watchdog < 0) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		close(fds[0]);
		close(fds[1]);
		return -EAGAIN;
	}
	if (watchdog == 0) {
		close(fds[0]);
		watch(c, runner, fds[1]);
	}
	close(fds[1]);
	while ((pid = waitpid(watchdog, &status, WNOHANG)) == 0) {
		sig = wait_signal(1000);
		if (sig && sig != SIGCHLD) {
			told = sig;
			kill(watchdog, SIGTERM);
		}
	}
	len = read(fds[0], ret_result, sizeof *ret_result);
	close(fds[0]);
	kill_tree(); /* has something to do only if the watchdog was killed */
	if (told)
		die_by(told);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return len == sizeof *ret_result ? 0 : -ECHILD;
}

void confine_die_with_parent(void)
{
	pid_t parent = getppid();

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
}
