/*
 * confine.h - run one command so that nothing of it can outlive the run
 *
 * The command gets a hard time limit, a session of its own, default signal
 * dispositions, /dev/null as stdin and no descriptor above 2. When it ends, is
 * out of time, or whoever asked for the run dies, every process that descends
 * from it is killed, also those that made sessions of their own.
 *
 * Call from a single-threaded process.
 */
#ifndef TESTS_SUPPORT_CONFINE_H
#define TESTS_SUPPORT_CONFINE_H

#include <stdbool.h>
#include <sys/types.h>

struct confine {
	char *const *argv;   /* looked up in PATH, as execvp does */
	char *const *envp;   /* NULL: the caller's */
	const char *cwd;     /* NULL: the caller's */
	const char *reports; /* a file the hang report is copied to, or NULL */
	int timeout_s;       /* wall time */
	int stdout_fd;       /* -1: the caller's */
	int stderr_fd;       /* -1: the caller's */
	bool one_cpu;        /* only the first CPU of the caller's affinity mask */
};

struct confine_result {
	int status; /* as wait(2) gives it; meaningless if timed_out */
	bool timed_out;
	int leftovers; /* processes still alive after the command's own end */
	double wall_s;
	double cpu_s; /* of the command and everything it waited for */
	long max_rss_kib;
};

/*
 * Runs it to its end. Returns 0 and fills *ret_result, or -errno if nothing
 * could be started. A command that cannot be executed ends with status 127.
 * On SIGINT, SIGTERM or SIGHUP the run is killed and so is the caller.
 */
int confine_run(const struct confine *c, struct confine_result *ret_result);

/* Called before the caller dies of a signal that came during a run; or NULL. */
extern void (*confine_before_death)(void);

/* For main(): die, and with us every run, when the process that started us does. */
void confine_die_with_parent(void);

#endif
