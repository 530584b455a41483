/*
 * A child of posix_spawn or vfork keeps the thread that made it until it executes, and
 * no signal ends that. What it waits for until then another thread of the program does,
 * as soon as it is told to.
 */
#include "prog.h"

#include <spawn.h>

enum { PAIRS = 8 };

extern char **environ;
static char fifo[PAIRS][64];
static int told[PAIRS][2], filled[PAIRS][2];

static void *spawns(void *arg)
{
	const char *path = arg;
	char *argv[] = {"true", NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;

	ZERO(posix_spawn_file_actions_init(&actions));
	ZERO(posix_spawn_file_actions_addopen(&actions, 0, path, O_RDONLY, 0));
	ZERO(posix_spawn(&pid, "/bin/true", &actions, NULL, argv, environ));
	ZERO(posix_spawn_file_actions_destroy(&actions));
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	return NULL;
}

static void *opens(void *arg)
{
	long i = (long)arg;
	char c;

	CHECK(read(told[i][0], &c, 1) == 1);
	OK(close(OK(open(fifo[i], O_WRONLY))));
	return NULL;
}

static void *vforks(void *arg)
{
	long i = (long)arg;
	int status;
	pid_t pid = vfork();

	if (!pid) {
		char c;

		_exit(read(filled[i][0], &c, 1) == 1 ? 7 : 8);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	return NULL;
}

static void *fills(void *arg)
{
	long i = (long)arg;
	char c;

	CHECK(read(told[i][0], &c, 1) == 1);
	CHECK(write(filled[i][1], &c, 1) == 1);
	return NULL;
}

int main(void)
{
	pthread_t t[2 * PAIRS];
	char dir[] = "/tmp/spawn_waits.XXXXXX";

	CHECK(mkdtemp(dir));
	for (long i = 0; i < PAIRS; i++) {
		OK(pipe2(told[i], O_CLOEXEC));
		OK(pipe2(filled[i], O_CLOEXEC));
		snprintf(fifo[i], sizeof fifo[i], "%s/%ld", dir, i);
		OK(mkfifo(fifo[i], 0600));
	}
	for (int round = 0; round < 2; round++) {
		for (long i = 0; i < PAIRS; i++)
			t[i] = start(round ? fills : opens, (void *)i);
		settle();
		for (long i = 0; i < PAIRS; i++)
			t[PAIRS + i] =
				round ? start(vforks, (void *)i) : start(spawns, fifo[i]);
		settle();
		for (long i = 0; i < PAIRS; i++)
			CHECK(write(told[i][1], "", 1) == 1);
		for (int i = 0; i < 2 * PAIRS; i++)
			finish(t[i]);
		say("%d children of %s", PAIRS, round ? "vfork" : "posix_spawn");
	}
	for (int i = 0; i < PAIRS; i++)
		OK(unlink(fifo[i]));
	OK(rmdir(dir));
	return 0;
}
