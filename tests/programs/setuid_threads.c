/* setgid and setuid with threads alive: every kernel thread of the process changes. */
#include "prog.h"

#include <dirent.h>
#include <grp.h>

static int pipes[2];

static void *blocks(void *arg)
{
	char c;

	CHECK(read(pipes[0], &c, 1) == 1);
	return (void *)(intptr_t)(getuid() == 65534 && getegid() == 65534 &&
				  open("/etc/shadow", O_RDONLY) < 0 && arg == NULL);
}

static int tasks_not_changed(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;
	int bad = 0;

	CHECK(dir);
	while ((e = readdir(dir))) {
		char path[300], line[256];
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof line, f)) {
			if (!strncmp(line, "Uid:", 4))
				bad += strcmp(line,
					       "Uid:\t65534\t65534\t65534\t65534\n") != 0;
			if (!strncmp(line, "Gid:", 4))
				bad += strcmp(line,
					       "Gid:\t65534\t65534\t65534\t65534\n") != 0;
		}
		if (f)
			fclose(f);
	}
	closedir(dir);
	return bad;
}

static void *drops(void *arg)
{
	OK(setgroups(0, NULL));
	OK(setresgid(65534, 65534, 65534));
	OK(setuid(65534));
	say("back: %s", RESULT(seteuid(0)));
	return arg;
}

int main(void)
{
	pthread_t threads[30];
	int good = 0;

	if (geteuid() != 0) {
		say("needs root for setuid");
		return 77;
	}
	OK(pipe(pipes));
	for (int i = 0; i < 20; i++)
		threads[i] = start(blocks, NULL);
	on_thread(drops, NULL);
	for (int i = 20; i < 30; i++) /* made afterwards */
		threads[i] = start(blocks, NULL);
	say("%d tasks not changed", tasks_not_changed());
	OK(write(pipes[1], "012345678901234567890123456789", 30));
	for (int i = 0; i < 30; i++)
		good += finish(threads[i]) == (void *)1;
	say("%d of 30 threads are nobody", good);
	return 0;
}
