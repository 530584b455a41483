/* What ends a process from one of its threads: each way in a child that has others at
 * work. */
#include "sig.h"

#include <sys/prctl.h>
#include <sys/resource.h>

static int fds[2];

static void *blocks(void *arg)
{
	char c;

	read(fds[0], &c, 1);
	return arg;
}

static int way;

static void *dies(void *arg)
{
	usleep(1000);
	switch (way) {
	case 0:
		kill(getpid(), SIGTERM);
		break;
	case 1:
		pthread_kill(pthread_self(), SIGINT);
		break;
	case 2:
		abort();
	case 3:
		*(volatile int *)bad_pointer = 1;
		break;
	case 4:
		__builtin_trap();
	case 5:
		raise(SIGKILL);
		break;
	case 6:
		_exit(33);
	case 7:
		quick_exit(34);
	case 8:
		sig_mask(SIG_BLOCK, SIGSEGV); /* a fault kills even if blocked */
		*(volatile int *)bad_pointer = 1;
		break;
	case 9: {
		struct rlimit rl = {1, 5};

		setrlimit(RLIMIT_CPU, &rl);
		for (;;)
			__asm__ volatile("" ::: "memory");
	}
	case 10: {
		struct rlimit rl = {100, 100};
		int fd = open("limited", O_WRONLY | O_CREAT, 0600);

		setrlimit(RLIMIT_FSIZE, &rl);
		for (int i = 0; i < 200; i++)
			write(fd, "x", 1);
		break;
	}
	default:
		alarm(1);
	}
	pause();
	return arg;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"kill SIGTERM", "pthread_kill SIGINT",
		"abort", "null pointer", "trap", "SIGKILL", "_exit 33", "quick_exit 34",
		"blocked SIGSEGV", "RLIMIT_CPU", "RLIMIT_FSIZE", "alarm"};
	int status;

	OK(pipe(fds));
	int end = argc > 2 ? atoi(argv[2]) : 12;

	for (way = argc > 1 ? atoi(argv[1]) : 0; way < end; way++) {
		pid_t pid = OK(fork());

		if (pid == 0) {
			struct rlimit none = {0, 0};

			setrlimit(RLIMIT_CORE, &none);
			for (int i = 0; i < 5; i++)
				start(blocks, NULL);
			on_thread(dies, NULL);
			_exit(0);
		}
		OK(waitpid(pid, &status, 0));
		say("%s: %s", names[way], describe_status(status));
	}
	OK(write(fds[1], "x", 1));
	on_thread(blocks, NULL);
	return 0;
}
