/* What a child finds of signal masks and dispositions, however a worker started it. */
#include "prog.h"

#include <spawn.h>

extern char **environ;

static char command[] =
	"grep -E '^Sig(Blk|Ign|Cgt|Pnd):' /proc/self/status | tr '\\t\\n' '  '";

static void print_own(const char *what)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[256], all[512] = "";

	CHECK(f);
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, "SigBlk", 6) || !strncmp(line, "SigIgn", 6)) {
			line[strcspn(line, "\n")] = ' ';
			strcat(all, line);
		}
	fclose(f);
	say("%s: %s", what, all);
}

static void show(const char *what, FILE *f)
{
	char line[512] = "";

	fgets(line, sizeof line, f);
	say("%s: %s", what, line);
}

static void handler(int sig)
{
	(void)sig;
}

static void *run(void *arg)
{
	char *argv[] = {(char *)"sh", (char *)"-c", command, NULL};
	posix_spawn_file_actions_t actions;
	sigset_t set;
	int fds[2], status;
	pid_t pid;
	FILE *f;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	if (arg)
		ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));

	pid = OK(fork());
	if (pid == 0) {
		print_own("fork");
		_exit(0);
	}
	OK(waitpid(pid, NULL, 0));

	f = popen(command, "r");
	show("popen", f);
	pclose(f);

	for (int way = 0; way < 3; way++) {
		OK(pipe(fds));
		if (way == 2) {
			ZERO(posix_spawn_file_actions_init(&actions));
			ZERO(posix_spawn_file_actions_adddup2(&actions, fds[1], 1));
			ZERO(posix_spawnp(&pid, "sh", &actions, NULL, argv, environ));
			ZERO(posix_spawn_file_actions_destroy(&actions));
		} else {
			pid = way ? OK(vfork()) : OK(fork());
			if (pid == 0) {
				dup2(fds[1], 1);
				execvp("sh", argv);
				_exit(127);
			}
		}
		OK(close(fds[1]));
		f = fdopen(fds[0], "r");
		show(way == 0 ? "fork+exec" : way == 1 ? "vfork+exec" : "posix_spawn", f);
		fclose(f);
		OK(waitpid(pid, &status, 0));
	}
	/* The blocked ones really are: a child can be killed, or not. */
	pid = OK(fork());
	if (pid == 0) {
		execlp("sleep", "sleep", "100", (char *)NULL);
		_exit(127);
	}
	if (arg)
		OK(kill(pid, SIGKILL));
	else
		OK(kill(pid, SIGTERM));
	OK(waitpid(pid, &status, 0));
	say("sleep: %s", describe_status(status));
	return NULL;
}

int main(void)
{
	signal(SIGHUP, SIG_IGN);
	signal(SIGUSR2, handler);
	on_thread(run, NULL);
	on_thread(run, (void *)1);
	run(NULL);
	return 0;
}
