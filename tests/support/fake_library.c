/*
 * fake_library.c - stands in for libweft.so in the tests of the harness itself
 *
 * Leaves the statistics that FAKE_FIBERS asks for, and misbehaves on request. What it
 * pretends says nothing about weft; only selftest.sh preloads it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void begin(void)
{
	const char *noise = getenv("FAKE_STDERR");

	if (noise && write(2, noise, strlen(noise)) < 0)
		_exit(90);
	if (getenv("FAKE_HANG"))
		for (;;)
			pause();
}

__attribute__((destructor)) static void end(void)
{
	const char *path = getenv("WEFT_STATS"), *fibers = getenv("FAKE_FIBERS");
	const char *status = getenv("FAKE_STATUS");
	FILE *f = NULL;

	if (path && fibers)
		f = strcmp(path, "exit") ? fopen(path, "a") : fdopen(dup(2), "a");
	if (f) {
		fprintf(f, "weft stats: fibers created=%s alive=0 peak=1\n", fibers);
		fclose(f);
	}
	if (status)
		_exit(atoi(status));
}
