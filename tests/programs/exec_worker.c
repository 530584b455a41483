/* exec from a worker: the others go, the pid stays, only what is not close-on-exec is
 * inherited. */
#include "prog.h"

static int fds[2];

static void *blocks(void *arg)
{
	char c;

	read(fds[0], &c, 1);
	return arg;
}

static void *execs(void *arg)
{
	char pid[32];

	snprintf(pid, sizeof pid, "%d", (int)getpid());
	say("before exec");
	execl("/bin/sh", "sh", "-c",
		"test $$ = \"$0\" && echo same pid; cd /proc/$$/fd && echo descriptors: "
		"*; exit 9",
		pid, (char *)NULL);
	return arg;
}

int main(void)
{
	int status;

	OK(pipe2(fds, O_CLOEXEC));
	for (int i = 0; i < 5;
		i++) /* so that the child forks from a process with threads … */
		start(blocks, NULL);
	settle();
	pid_t child = OK(fork());
	if (child == 0) {
		for (int i = 0; i < 5; i++) /* … and execs as one of several itself */
			start(blocks, NULL);
		settle();
		on_thread(execs, NULL);
		_exit(1);
	}
	OK(waitpid(child, &status, 0));
	say("child: %s", describe_status(status));
	return 0;
}
