/*
 * As daemons do: chroot into an empty directory, become nobody, allow few processes, and
 * only then make the first thread. No file can be opened any more.
 */
#include "prog.h"

#include <grp.h>
#include <sys/resource.h>

static int pipes[2];

static void *works(void *arg)
{
	char c;

	CHECK(read(pipes[0], &c, 1) == 1);
	usleep(1000);
	CHECK(write(pipes[1], &c, 1) == 1);
	return arg;
}

int main(void)
{
	struct rlimit rl = {256, 256};
	pthread_t threads[20];
	uid_t r, e, s;
	char c;

	if (geteuid() != 0) {
		say("needs root for chroot and setuid");
		return 77;
	}
	OK(mkdir("empty", 0755));
	OK(chroot("empty"));
	OK(chdir("/"));
	OK(setgroups(0, NULL));
	OK(setgid(65534));
	/* nobody may have other processes on this machine: leave room for them */
	OK(setrlimit(RLIMIT_NPROC, &rl));
	OK(setuid(65534));
	say("open: %s", RESULT(open("/proc/self/maps", O_RDONLY)));
	OK(pipe(pipes));
	for (int i = 0; i < 20; i++)
		threads[i] = start(works, NULL);
	OK(write(pipes[1], "abc", 3));
	for (int i = 0; i < 20; i++)
		finish(threads[i]);
	CHECK(read(pipes[0], &c, 1) == 1);
	OK(getresuid(&r, &e, &s));
	say("20 threads as %d %d %d", (int)r, (int)e, (int)s);
	say("no way back: %s", RESULT(setuid(0)));
	return 0;
}
