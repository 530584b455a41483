/*
 * Writes of up to PIPE_BUF bytes to a pipe are atomic (pipe(7)), however full it is and
 * whoever else writes: write, writev and stdio's, by threads and by another process.
 */
#include "prog.h"

#include <limits.h>
#include <sys/uio.h>

#define WRITERS 6
#define RECORDS 120

static int fds[2];

/* A record: its length, its writer, and a pattern of both. */
static size_t fill(unsigned char *rec, int who, int i)
{
	size_t len = (size_t)(i % 5 == 0 ? PIPE_BUF : 3 + (who * 977 + i * 613) % 3000);

	rec[0] = (unsigned char)(len >> 8);
	rec[1] = (unsigned char)len;
	rec[2] = (unsigned char)who;
	for (size_t k = 3; k < len; k++)
		rec[k] = (unsigned char)(who + k);
	return len;
}

static void *writes(void *arg)
{
	int who = (int)(intptr_t)arg;
	unsigned char rec[PIPE_BUF];

	for (int i = 0; i < RECORDS; i++) {
		size_t len = fill(rec, who, i), half = len / 3;
		struct iovec v[2] = {{rec, half}, {rec + half, len - half}};

		CHECK((who % 2 ? write(fds[1], rec, len) : writev(fds[1], v, 2)) ==
			(ssize_t)len);
	}
	return NULL;
}

static void read_all(void *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = OK(read(fds[0], (char *)buf + at, len - at));

		CHECK(n > 0);
		at += (size_t)n;
	}
}

int main(void)
{
	pthread_t threads[WRITERS];
	int seen[WRITERS + 1] = {0}, torn = 0;
	unsigned char rec[PIPE_BUF];

	OK(pipe(fds));
	for (int i = 0; i < WRITERS; i++)
		threads[i] = start(writes, (void *)(intptr_t)i);
	pid_t pid = OK(fork());
	if (pid == 0) {
		writes((void *)(intptr_t)WRITERS);
		_exit(0);
	}
	for (int i = 0; i < (WRITERS + 1) * RECORDS; i++) {
		read_all(rec, 3);
		size_t len = (size_t)rec[0] << 8 | rec[1];
		int who = rec[2];

		CHECK(len >= 3 && len <= PIPE_BUF && who <= WRITERS);
		read_all(rec + 3, len - 3);
		for (size_t k = 3; k < len; k++)
			torn += rec[k] != (unsigned char)(who + k);
		seen[who]++;
		if (i % 50 == 0)
			usleep(300); /* let it fill up */
	}
	for (int i = 0; i < WRITERS; i++)
		finish(threads[i]);
	OK(waitpid(pid, NULL, 0));
	for (int i = 0; i <= WRITERS; i++)
		CHECK(seen[i] == RECORDS);
	say("%d records, %d torn", (WRITERS + 1) * RECORDS, torn);
	return 0;
}
