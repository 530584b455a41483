/* Other programs started from worker threads: fork+exec, vfork, posix_spawn, system,
 * popen. */
#include "prog.h"

#include <spawn.h>
#include <sys/mman.h>

extern char **environ;

static const char *run_fork_exec(void)
{
	pid_t pid = OK(fork());
	int status;

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
		_exit(127);
	}
	OK(waitpid(pid, &status, 0));
	return describe_status(status);
}

static const char *run_vfork_exec(void)
{
	volatile int local = 1;
	pid_t pid = OK(vfork());
	int status;

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 4", (char *)NULL);
		_exit(127);
	}
	CHECK(local == 1);
	OK(waitpid(pid, &status, 0));
	return describe_status(status);
}

static const char *run_vfork_exit(void)
{
	static int seen;
	pid_t pid = OK(vfork());
	int status;

	if (pid == 0) {
		seen = 1; /* the child shares our memory until it is gone */
		_exit(5);
	}
	CHECK(seen == 1);
	seen = 0;
	OK(waitpid(pid, &status, 0));
	return describe_status(status);
}

static const char *run_spawn(void)
{
	char *argv[] = {(char *)"sh", (char *)"-c", (char *)"cat >&2; exit 6", NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t set;
	int in[2], out[2], status;
	char buf[8] = "";
	pid_t pid;

	OK(pipe2(in, O_CLOEXEC));
	OK(pipe2(out, O_CLOEXEC));
	ZERO(posix_spawn_file_actions_init(&actions));
	ZERO(posix_spawn_file_actions_adddup2(&actions, in[0], 0));
	ZERO(posix_spawn_file_actions_adddup2(&actions, out[1], 2));
	ZERO(posix_spawnattr_init(&attr));
	sigemptyset(&set);
	ZERO(posix_spawnattr_setsigmask(&attr, &set));
	sigfillset(&set);
	ZERO(posix_spawnattr_setsigdefault(&attr, &set));
	ZERO(posix_spawnattr_setflags(&attr,
		POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP));
	ZERO(posix_spawnp(&pid, "sh", &actions, &attr, argv, environ));
	OK(close(in[0]));
	OK(close(out[1]));
	OK(write(in[1], "spawned", 7));
	OK(close(in[1]));
	for (size_t n = 0; n < 7;)
		n += (size_t)OK(read(out[0], buf + n, 7 - n));
	CHECK(strcmp(buf, "spawned") == 0);
	OK(close(out[0]));
	OK(waitpid(pid, &status, 0));
	ZERO(posix_spawn_file_actions_destroy(&actions));
	ZERO(posix_spawnattr_destroy(&attr));
	return describe_status(status);
}

static const char *run_spawn_missing(void)
{
	char *argv[] = {(char *)"x", NULL};
	pid_t pid;

	return err_name(posix_spawn(&pid, "/does/not/exist", NULL, NULL, argv, environ));
}

static const char *run_system(void)
{
	return describe_status(system("test \"$WORD\" = word && exit 7"));
}

static const char *run_popen(void)
{
	char line[64] = "";
	FILE *f = popen("read x < /dev/null; echo from the pipe; exit 8", "r");

	CHECK(f && fgets(line, sizeof line, f));
	CHECK(strcmp(line, "from the pipe\n") == 0);
	return describe_status(pclose(f));
}

static const struct {
	const char *name;
	const char *(*run)(void);
} ways[] = {
	{"fork and exec", run_fork_exec},
	{"vfork and exec", run_vfork_exec},
	{"vfork and _exit", run_vfork_exit},
	{"posix_spawn", run_spawn},
	{"posix_spawn of nothing", run_spawn_missing},
	{"system", run_system},
	{"popen", run_popen},
};
enum { WAYS = sizeof ways / sizeof *ways };

static pthread_mutex_t vfork_lock = PTHREAD_MUTEX_INITIALIZER;
static int ticks;
static volatile bool stop;

static void *one(void *arg)
{
	int i = (int)(intptr_t)arg;
	const char *result;

	if (ways[i].run == run_vfork_exit) /* its static is not for two at once */
		pthread_mutex_lock(&vfork_lock);
	result = ways[i].run();
	if (ways[i].run == run_vfork_exit)
		pthread_mutex_unlock(&vfork_lock);
	return strdup(result);
}

static void *goes_on(void *arg)
{
	while (!stop) {
		usleep(500);
		ticks++;
	}
	return arg;
}

int main(void)
{
	pthread_t threads[4 * WAYS], ticker;
	int unequal = 0;

	OK(setenv("WORD", "word", 1));
	ticker = start(goes_on, NULL);
	for (intptr_t i = 0; i < WAYS; i++)
		say("%s: %s", ways[i].name, (char *)on_thread(one, (void *)i));
	for (intptr_t i = 0; i < 4 * WAYS; i++)
		threads[i] = start(one, (void *)(i % WAYS));
	char *first[WAYS];
	for (int i = 0; i < 4 * WAYS; i++) {
		char *result = finish(threads[i]);

		if (i < WAYS)
			first[i] = result;
		else if (strcmp(first[i % WAYS], result) != 0) {
			say("%s: %s, and %s", ways[i % WAYS].name, first[i % WAYS],
				result);
			unequal++;
		}
	}
	stop = true;
	finish(ticker);
	say("all at once: %d different", unequal);
	say("others went on: %d", ticks > 0);
	return 0;
}
