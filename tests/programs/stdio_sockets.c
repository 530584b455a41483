/* stdio on sockets and pipes in threads: fgets, fprintf, getline, a FILE shared by
 * threads. */
#include "prog.h"

#define CLIENTS 30
#define LINES   50

static int listener;
static struct sockaddr_in address;

static void *serves(void *arg)
{
	int fd = (int)(intptr_t)arg;
	FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
	char line[256];

	CHECK(in && out);
	while (fgets(line, sizeof line, in)) {
		fprintf(out, "%zu %s", strlen(line) - 1, line);
		CHECK(fflush(out) == 0);
	}
	fclose(in);
	fclose(out);
	return NULL;
}

static void *accepts(void *arg)
{
	pthread_t threads[CLIENTS];

	for (int i = 0; i < CLIENTS; i++)
		threads[i] =
			start(serves, (void *)(intptr_t)OK(accept(listener, NULL, NULL)));
	for (int i = 0; i < CLIENTS; i++)
		finish(threads[i]);
	return arg;
}

static void *talks(void *arg)
{
	int id = (int)(intptr_t)arg, fd = tcp_connect(&address), n;
	FILE *f = fdopen(fd, "r+");
	char *line = NULL, expected[512], sent[256];
	size_t room = 0;
	long good = 0;

	CHECK(f);
	for (int i = 0; i < LINES; i++) {
		n = snprintf(sent, sizeof sent, "client %d line %d %.*s\n", id, i, i * 3,
			"................................................................"
			"................................................................"
			"........................................");
		fputs(sent, f);
		CHECK(fflush(f) == 0);
		CHECK(getline(&line, &room, f) > 0);
		snprintf(expected, sizeof expected, "%d %s", n - 1, sent);
		good += strcmp(line, expected) == 0;
	}
	free(line);
	OK(shutdown(fd, SHUT_WR));
	CHECK(fgetc(f) == EOF && feof(f));
	fclose(f);
	return (void *)(intptr_t)good;
}

/* One FILE over a pipe that fills: writers wait inside stdio, holding its lock. */
static FILE *shared;

static void *prints(void *arg)
{
	for (int i = 0; i < 400; i++)
		fprintf(shared, "%04ld:%0120d\n", (long)(intptr_t)arg, i);
	return NULL;
}

int main(void)
{
	pthread_t server, threads[CLIENTS];
	int fds[2], next[8] = {0};
	long good = 0, lines = 0, torn = 0;
	char line[256];

	listener = tcp_listen(CLIENTS, &address);
	server = start(accepts, NULL);
	for (intptr_t i = 0; i < CLIENTS; i++)
		threads[i] = start(talks, (void *)i);
	for (int i = 0; i < CLIENTS; i++)
		good += (long)(intptr_t)finish(threads[i]);
	finish(server);
	say("%ld of %d lines right", good, CLIENTS * LINES);

	OK(pipe(fds));
	shared = fdopen(fds[1], "w");
	for (intptr_t i = 0; i < 8; i++)
		threads[i] = start(prints, (void *)i);
	FILE *in = fdopen(fds[0], "r");
	while (lines < 8 * 400 - 60 &&
		fgets(line, sizeof line, in)) { /* the rest is buffered */
		int id = atoi(line), i = atoi(line + 5);

		torn += strlen(line) != 126 || id < 0 || id > 7 || next[id & 7] != i;
		next[id & 7] = i + 1;
		lines++;
	}
	for (int i = 0; i < 8; i++)
		finish(threads[i]);
	fclose(shared);
	while (fgets(line, sizeof line, in)) {
		int id = atoi(line), i = atoi(line + 5);

		torn += strlen(line) != 126 || next[id & 7] != i;
		next[id & 7] = i + 1;
		lines++;
	}
	fclose(in);
	say("%ld shared lines, %ld torn or out of order", lines, torn);
	return 0;
}
