/* poll, ppoll, select, pselect: which descriptors, which events, which time. */
#include "prog.h"

#include <sys/select.h>

#define MANY 300

static int pipes[MANY][2];

static void *writes_later(void *arg)
{
	usleep(5000);
	OK(write(*(int *)arg, "x", 1));
	return NULL;
}

static const char *events(short e)
{
	return brief("%s%s%s%s%s", e & POLLIN ? "IN " : "", e & POLLOUT ? "OUT " : "",
		e & POLLHUP ? "HUP " : "", e & POLLERR ? "ERR " : "",
		e & POLLNVAL ? "NVAL " : "");
}

static void *polls(void *arg)
{
	struct pollfd p[MANY + 1];
	int fds[2], file = OK(open("file", O_RDWR | O_CREAT, 0600)), n;
	pthread_t t;
	char c;

	(void)arg;
	OK(pipe(fds));
	p[0] = (struct pollfd){-1, POLLIN, 77};
	p[1] = (struct pollfd){9999, POLLIN, 0};
	p[2] = (struct pollfd){file, POLLIN | POLLOUT, 0};
	p[3] = (struct pollfd){fds[0], POLLIN, 0};
	p[4] = (struct pollfd){fds[1], POLLOUT, 0};
	n = poll(p, 5, -1);
	say("mixed: %d: %s/ %s/ %s/ %s/ %s", n, events(p[0].revents),
		events(p[1].revents), events(p[2].revents), events(p[3].revents),
		events(p[4].revents));

	uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
	n = poll(p + 3, 1, 20);
	say("time-out: %d early %d", n, now_ns(CLOCK_MONOTONIC) - start_ns < 20 * MS);
	struct timespec ts = {0, 15 * MS};
	start_ns = now_ns(CLOCK_MONOTONIC);
	n = ppoll(p + 3, 1, &ts, NULL);
	say("ppoll time-out: %d early %d, time kept %ld", n,
		now_ns(CLOCK_MONOTONIC) - start_ns < 15 * MS, ts.tv_nsec);
	say("no descriptors: %d, null: %d", poll(p, 0, 3), poll(NULL, 0, 0));

	t = start(writes_later, &fds[1]);
	n = poll(p + 3, 1, -1);
	say("woken: %d %s", n, events(p[3].revents));
	finish(t);
	CHECK(read(fds[0], &c, 1) == 1);
	t = start(writes_later, &fds[1]);
	n = poll(p + 3, 1, 60000);
	say("woken before the time: %d %s", n, events(p[3].revents));
	finish(t);
	/* the same descriptor twice */
	p[0] = p[1] = (struct pollfd){fds[0], POLLIN, 0};
	p[1].events = 0;
	n = poll(p, 2, -1);
	say("twice the same: %d %s/ %s", n, events(p[0].revents), events(p[1].revents));
	OK(close(fds[1]));
	CHECK(read(fds[0], &c, 1) == 1);
	p[0].events = 0;
	n = poll(p, 1, -1);
	say("hung up, nothing asked: %d %s", n, events(p[0].revents));
	OK(close(fds[0]));

	/* Many; the one that becomes ready is found. */
	for (int i = 0; i < MANY; i++)
		p[i] = (struct pollfd){pipes[i][0], POLLIN, 0};
	for (int i = 0; i < MANY; i += 37) {
		t = start(writes_later, &pipes[i][1]);
		n = poll(p, MANY, -1);
		CHECK(n == 1 && p[i].revents == POLLIN);
		CHECK(read(pipes[i][0], &c, 1) == 1);
		finish(t);
	}
	for (int i = 0; i < MANY; i += 37)
		OK(write(pipes[i][1], "x", 1));
	say("many: all ready are told: %d", poll(p, MANY, -1));
	for (int i = 0; i < MANY; i += 37)
		OK(read(pipes[i][0], &c, 1));
	errno = 0;
	say("bad pointer: %s", RESULT(poll((struct pollfd *)bad_pointer, 1, 0)));
	OK(close(file));
	return NULL;
}

static void *selects(void *arg)
{
	struct timeval tv = {0, 20000};
	struct timespec ts = {0, 15 * MS};
	fd_set in, out;
	int fds[2], n;
	pthread_t t;
	char c;

	(void)arg;
	OK(pipe(fds));
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(fds[0], &in);
	FD_SET(fds[1], &out);
	n = select(fds[1] + 1, &in, &out, NULL, NULL);
	say("select: %d, in %d out %d", n, FD_ISSET(fds[0], &in), FD_ISSET(fds[1], &out));
	FD_SET(fds[0], &in);
	uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
	n = select(fds[0] + 1, &in, NULL, NULL, &tv);
	say("time-out: %d early %d, left %ld, in %d", n,
		now_ns(CLOCK_MONOTONIC) - start_ns < 20 * MS, (long)tv.tv_usec,
		FD_ISSET(fds[0], &in));
	FD_SET(fds[0], &in);
	n = pselect(fds[0] + 1, &in, NULL, NULL, &ts, NULL);
	say("pselect: %d, time kept %ld", n, ts.tv_nsec);
	FD_SET(fds[0], &in);
	tv.tv_sec = 60;
	t = start(writes_later, &fds[1]);
	n = select(fds[0] + 1, &in, NULL, NULL, &tv);
	say("woken: %d, time left %d", n, tv.tv_sec > 50 && tv.tv_sec < 61);
	finish(t);
	CHECK(read(fds[0], &c, 1) == 1);
	FD_ZERO(&in);
	FD_SET(900, &in);
	say("bad descriptor: %s", RESULT(select(901, &in, NULL, NULL, NULL)));
	say("negative count: %s", RESULT(select(-1, &in, NULL, NULL, NULL)));
	tv = (struct timeval){0, 0};
	say("as a yield: %d", select(0, NULL, NULL, NULL, &tv));
	tv = (struct timeval){0, 3000};
	say("as a sleep: %d", select(0, NULL, NULL, NULL, &tv));
	OK(close(fds[0]));
	OK(close(fds[1]));
	return NULL;
}

int main(int argc, char **argv)
{
	for (int i = 0; i < MANY; i++)
		OK(pipe(pipes[i]));
	on_thread(argc > 1 && argv[1][0] == 's' ? selects : polls, NULL);
	return 0;
}
