/*
 * posix_spawn from a hundred threads at once, with every attribute and file action there
 * is in some combination. The child, this program again, says what it was given. SIGCHLD
 * has a handler, and one ignored signal stays ignored in those who do not ask otherwise.
 */
#include "sig.h"

#include <dirent.h>
#include <spawn.h>

#define THREADS 100

extern char **environ;
static char lines[THREADS][320];
static pthread_barrier_t gate;
static int root_fd;

/* ---- the child ------------------------------------------------------------- */

static unsigned long status_word(const char *name)
{
	char line[256], *value = NULL;
	FILE *f = fopen("/proc/self/status", "r");

	CHECK(f);
	while (!value && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			value = line + strlen(name) + 1;
	CHECK(value);
	unsigned long word = strtoul(value, NULL, 16);

	fclose(f);
	return word;
}

/* The descriptors it has, but that of the look itself. */
static void list_fds(char *buf, size_t size)
{
	DIR *dir = opendir("/proc/self/fd");
	bool open[64] = {false};
	struct dirent *e;
	size_t at = 0;

	CHECK(dir);
	while ((e = readdir(dir))) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] != '.' && fd != dirfd(dir) && fd < 64)
			open[fd] = true;
	}
	closedir(dir);
	for (int fd = 0; fd < 64; fd++)
		if (open[fd])
			at += (size_t)snprintf(buf + at, size - at, " %d", fd);
}

static int child(void)
{
	char cwd[128], fds[128] = "";
	struct sched_param param;

	list_fds(fds, sizeof fds);
	OK(sched_getparam(0, &param));
	CHECK(getcwd(cwd, sizeof cwd));
	say("group %s, session %s, blocked %lx, ignored %lx, policy %d/%d, in %s, fds%s, "
	    "stdin %s",
		getpgrp() == getpid() ? "own" : "inherited",
		getsid(0) == getpid() ? "own" : "inherited", status_word("SigBlk:"),
		status_word("SigIgn:"), sched_getscheduler(0), param.sched_priority, cwd,
		fds,
		isatty(0)                    ? "tty"
		: lseek(0, 0, SEEK_CUR) == 0 ? "file"
					     : "other");
	return 3;
}

/* ---- the parent ------------------------------------------------------------ */

static void on_child(int sig)
{
	(void)sig;
}

static short flags_of(int i)
{
	static const short all[] = {POSIX_SPAWN_SETPGROUP, POSIX_SPAWN_SETSIGMASK,
		POSIX_SPAWN_SETSIGDEF, POSIX_SPAWN_SETSCHEDULER, POSIX_SPAWN_RESETIDS,
		POSIX_SPAWN_USEVFORK};
	short flags = 0;

	for (size_t bit = 0; bit < sizeof all / sizeof *all; bit++)
		if (i >> bit & 1)
			flags = (short)(flags | all[bit]);
	/* A session's leader is a group's leader: the two exclude each other. */
	if (i % 7 == 0)
		flags = (short)((flags & ~POSIX_SPAWN_SETPGROUP) | POSIX_SPAWN_SETSID);
	return flags;
}

static void *spawns(void *arg)
{
	int i = (int)(intptr_t)arg, out[2], status;
	char *argv[] = {(char *)"spawns_many", (char *)"child", NULL};
	struct sched_param param = {0};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char *line = lines[i];
	size_t at = 0;
	sigset_t set;
	ssize_t n;
	pid_t pid;

	OK(pipe2(out, O_CLOEXEC));
	ZERO(posix_spawnattr_init(&attr));
	ZERO(posix_spawnattr_setflags(&attr, flags_of(i)));
	ZERO(posix_spawnattr_setpgroup(&attr, 0));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1 + i % 2 * 2); /* USR1 or USR2 */
	ZERO(posix_spawnattr_setsigmask(&attr, &set));
	sigfillset(&set);
	ZERO(posix_spawnattr_setsigdefault(&attr, &set));
	param.sched_priority = i % 16 < 12 ? 0 : 5; /* only root's is let in */
	ZERO(posix_spawnattr_setschedpolicy(
		&attr, param.sched_priority ? SCHED_FIFO : SCHED_OTHER));
	ZERO(posix_spawnattr_setschedparam(&attr, &param));
	ZERO(posix_spawn_file_actions_init(&actions));
	if (i % 3 == 0)
		ZERO(posix_spawn_file_actions_addopen(
			&actions, 0, "/proc/self/exe", O_RDONLY, 0));
	if (i % 3 == 1)
		ZERO(posix_spawn_file_actions_addclose(&actions, 0));
	ZERO(posix_spawn_file_actions_adddup2(&actions, out[1], 1));
	if (i % 4 == 0)
		ZERO(posix_spawn_file_actions_adddup2(&actions, 2, 9));
	if (i % 5 == 0)
		ZERO(posix_spawn_file_actions_addchdir_np(&actions, "/tmp"));
	if (i % 5 == 1)
		ZERO(posix_spawn_file_actions_addfchdir_np(&actions, root_fd));
	ZERO(posix_spawn_file_actions_addclosefrom_np(&actions, i % 2 ? 3 : 10));
	if (i % 25 == 24) /* fails in the child, and is told to the parent */
		ZERO(posix_spawn_file_actions_addchdir_np(&actions, "/does/not/exist"));
	pthread_barrier_wait(&gate);
	int err = posix_spawn(&pid, "/proc/self/exe", &actions, &attr, argv, environ);

	OK(close(out[1]));
	ZERO(posix_spawn_file_actions_destroy(&actions));
	ZERO(posix_spawnattr_destroy(&attr));
	while ((n = OK(read(out[0], line + at, sizeof lines[0] - 1 - at))) > 0)
		at += (size_t)n;
	OK(close(out[0]));
	if (err)
		snprintf(line, sizeof lines[0], "%s\n", err_name(err));
	else
		OK(waitpid(pid, &status, 0));
	line[strcspn(line, "\n")] = 0;
	return (void *)(intptr_t)(!err &&
				  !(WIFEXITED(status) && WEXITSTATUS(status) == 3));
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	intptr_t bad = 0;

	if (argc > 1 && strcmp(argv[1], "child") == 0)
		return child();
	OK(chdir("/proc"));
	/* Where nobody's descriptors are: those of the 100 pipes stand below. */
	root_fd = OK(fcntl(OK(open("/", O_PATH | O_DIRECTORY)), F_DUPFD_CLOEXEC, 900));
	sig_install(SIGCHLD, SA_RESTART, on_child);
	OK(signal(SIGHUP, SIG_IGN) == SIG_ERR ? -1 : 0);
	ZERO(pthread_barrier_init(&gate, NULL, THREADS));
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start(spawns, (void *)i);
	for (int i = 0; i < THREADS; i++)
		bad += (intptr_t)finish(threads[i]);
	for (int i = 0; i < THREADS; i++)
		say("%02x: %s", (unsigned short)flags_of(i), lines[i]);
	say("ended otherwise: %d", (int)bad);
	return 0;
}
