/* The lowest free number is given out as natively, whatever the threads do; /proc shows
 * none else low. */
#include "prog.h"

#include <dirent.h>

static int fds[2];

static void *waits(void *arg)
{
	char c;

	CHECK(read(fds[0], &c, 1) == 1);
	return arg;
}

static void list(const char *when)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;
	int low = 0;

	CHECK(dir);
	while ((e = readdir(dir)))
		low += e->d_name[0] != '.' && atoi(e->d_name) < 100;
	closedir(dir);
	say("%s: %d low descriptors", when, low - 1);
}

int main(void)
{
	pthread_t threads[20];
	int got[6];

	list("at the start");
	OK(pipe(fds));
	for (int i = 0; i < 20; i++)
		threads[i] = start(waits, NULL);
	settle();
	for (int i = 0; i < 6; i++)
		got[i] = OK(dup(0));
	say("numbers %d %d %d %d %d %d", got[0], got[1], got[2], got[3], got[4], got[5]);
	OK(close(got[1]));
	OK(close(got[3]));
	got[0] = OK(dup(0));
	got[1] = OK(socket(AF_INET, SOCK_STREAM, 0));
	got[2] = OK(open("/dev/null", O_RDONLY));
	say("the gaps again: %d %d, then %d", got[0], got[1], got[2]);
	say("fcntl at 50: %d", OK(fcntl(0, F_DUPFD, 50)));
	list("with threads");
	OK(write(fds[1], "xxxxxxxxxxxxxxxxxxxx", 20));
	for (int i = 0; i < 20; i++)
		finish(threads[i]);
	list("after them");
	return 0;
}
