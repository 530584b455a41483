/*
 * confine_main.c - the confine command: confine.h for shells and CMake
 *
 *   confine [--timeout S] [--stdout FILE] [--stderr FILE] [--cpu0] [--] CMD ARG…
 *
 * Exit status: the command's own, 128 + n if signal n ended it, 124 if it ran
 * out of time, 125 if it left processes behind, 126 if confine itself failed.
 */
#define _GNU_SOURCE
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const char usage[] =
	"usage: confine [--timeout S] [--stdout FILE] [--stderr FILE] [--cpu0]\n"
	"               [--] CMD ARG…\n"
	"Runs CMD; when it ends, is out of time (60 s), or confine or its parent\n"
	"is killed, every process descending from CMD is killed.\n";

static int open_output(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0) {
		fprintf(stderr, "confine: %s: %s\n", path, strerror(errno));
		exit(126);
	}
	return fd;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"timeout", required_argument, NULL, 't'},
		{"stdout", required_argument, NULL, 'o'},
		{"stderr", required_argument, NULL, 'e'},
		{"cpu0", no_argument, NULL, '0'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct confine c = {.timeout_s = 60, .stdout_fd = -1, .stderr_fd = -1};
	struct confine_result result;
	int opt, err;

	confine_die_with_parent();
	while ((opt = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (opt) {
		case 't':
			c.timeout_s = atoi(optarg);
			break;
		case 'o':
			c.stdout_fd = open_output(optarg);
			break;
		case 'e':
			c.stderr_fd = open_output(optarg);
			break;
		case '0':
			c.one_cpu = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 126;
		}
	}
	if (optind == argc || c.timeout_s <= 0) {
		fputs(usage, stderr);
		return 126;
	}
	c.argv = argv + optind;
	err = confine_run(&c, &result);
	if (err < 0) {
		fprintf(stderr, "confine: %s: %s\n", c.argv[0], strerror(-err));
		return 126;
	}
	if (result.timed_out)
		return 124;
	if (WIFSIGNALED(result.status))
		return 128 + WTERMSIG(result.status);
	if (WEXITSTATUS(result.status))
		return WEXITSTATUS(result.status);
	return result.leftovers ? 125 : 0;
}
