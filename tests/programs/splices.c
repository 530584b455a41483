/*
 * sendfile, splice, tee, vmsplice and copy_file_range between files, pipes and sockets:
 * every byte, with readers that are slow, ends that block, ends that do not, time-outs,
 * signals and peers that are gone.
 */
#include "prog.h"

#include <dirent.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define SIZE    (5 << 20)
#define SENDERS 24

static int file;
static uint64_t whole;
static volatile sig_atomic_t handled;

static int kernel_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	int n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	OK(closedir(d));
	return n - 2;
}

/* Reads to the end, slowly at first. */
static void *sums(void *arg)
{
	int fd = (int)(intptr_t)arg, n, rounds = 0;
	uint64_t sum = CHECKSUM_INIT;
	char buf[40000];

	while ((n = (int)OK(read(fd, buf, ++rounds < 20 ? 1000 : sizeof buf))) > 0) {
		sum = checksum(sum, buf, (size_t)n);
		if (rounds < 20)
			usleep(1000);
	}
	OK(close(fd));
	return sum == whole ? "all" : "other bytes";
}

static const char *outcome(pthread_t reader)
{
	return (const char *)finish(reader);
}

static void make_pipe(int fds[2])
{
	OK(pipe(fds));
}

static void sendfiles(const char *name, void (*make)(int fds[2]), bool by_offset)
{
	int fds[2];
	off_t at = 0;
	pthread_t t;
	ssize_t n;

	make(fds);
	t = start(sums, (void *)(intptr_t)fds[0]);
	OK(lseek(file, 0, SEEK_SET));
	n = sendfile(fds[1], file, by_offset ? &at : NULL, SIZE + 100);
	if (make == make_pipe) { /* takes what fits */
		CHECK(n > 0);
		for (ssize_t more = n; more > 0 && n < SIZE; n += more)
			more = OK(sendfile(fds[1], file, by_offset ? &at : NULL, SIZE));
	}
	say("sendfile to %s: %zd, offset %ld, position %ld, at the end %zd", name, n,
		(long)at, (long)lseek(file, 0, SEEK_CUR),
		sendfile(fds[1], file, by_offset ? &at : NULL, 10));
	OK(close(fds[1]));
	say("read: %s", outcome(t));
}

/* tcp_pair and unix_pair, the reading end first. */
static void make_tcp(int fds[2])
{
	int small = 65536;

	tcp_pair(fds);
	OK(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small));
}

/* The whole file through a pipe, piece by piece, to an end of any kind. */
static void spliced(const char *name, void (*make)(int fds[2]), size_t piece)
{
	int fds[2], through[2];
	loff_t at = 0;
	pthread_t t;
	size_t total = 0;

	make(fds);
	OK(pipe(through));
	t = start(sums, (void *)(intptr_t)fds[0]);
	for (;;) {
		ssize_t n = OK(splice(file, &at, through[1], NULL, piece, 0));

		if (!n)
			break;
		while (n) {
			ssize_t m = OK(splice(through[0], NULL, fds[1], NULL, (size_t)n,
				SPLICE_F_MORE));

			CHECK(m > 0);
			n -= m;
			total += (size_t)m;
		}
	}
	OK(close(fds[1]));
	say("splice to %s: %zu, read: %s", name, total, outcome(t));
	OK(close(through[0]));
	OK(close(through[1]));
}

struct relay {
	int from, to;
};

/* From a socket into another one, until the end. */
static void *relays(void *arg)
{
	struct relay *r = (struct relay *)arg;
	int through[2];
	size_t total = 0;

	OK(pipe(through));
	for (;;) {
		ssize_t n = OK(splice(r->from, NULL, through[1], NULL, 1 << 16, 0));

		if (!n)
			break;
		for (total += (size_t)n; n;)
			n -= OK(splice(through[0], NULL, r->to, NULL, (size_t)n, 0));
	}
	OK(close(r->to));
	OK(close(through[0]));
	OK(close(through[1]));
	return (void *)total;
}

static void relayed(void (*make)(int fds[2]), const char *name)
{
	int a[2], b[2];
	struct relay r;
	pthread_t reader, relay;

	make(a);
	make(b);
	r = (struct relay){a[0], b[1]};
	relay = start(relays, &r);
	reader = start(sums, (void *)(intptr_t)b[0]);
	settle(); /* the relay waits for its first byte */
	OK(lseek(file, 0, SEEK_SET));
	for (ssize_t n = 0, m; n < SIZE; n += m)
		m = OK(sendfile(a[1], file, NULL, (size_t)(SIZE - n)));
	OK(close(a[1]));
	size_t total = (size_t)finish(relay);
	say("relay of %s: %zu, read: %s", name, total, outcome(reader));
	OK(close(a[0]));
}

static void *tees(void *arg)
{
	int(*p)[2] = (int(*)[2])arg;
	ssize_t n = OK(tee(p[0][0], p[1][1], 100, 0));

	say("tee: %zd", n);
	n = OK(splice(p[0][0], NULL, p[1][1], NULL, 100, 0));
	say("and moved: %zd", n);
	return NULL;
}

static void *fills(void *arg)
{
	static char page[65536];
	struct iovec iov = {page, sizeof page};
	int fd = *(int *)arg;
	ssize_t n = OK(vmsplice(fd, &iov, 1, 0)); /* waits for room */

	return (void *)n;
}

static void pipes(void)
{
	int p[2][2], through[2];
	char buf[65536];
	pthread_t t;

	OK(pipe(p[0]));
	OK(pipe(p[1]));
	t = start(tees, p);
	usleep(3000);
	OK(write(p[0][1], "0123456789", 10));
	finish(t);
	say("twice: %zd", read(p[1][0], buf, sizeof buf));
	OK(pipe(through));
	fcntl(through[1], F_SETPIPE_SZ, 65536);
	while (poll(&(struct pollfd){through[1], POLLOUT, 0}, 1, 0) > 0)
		OK(write(through[1], buf, 4096));
	say("full, vmsplice: %s", RESULT(vmsplice(through[1], &(struct iovec){buf, 10}, 1,
					  SPLICE_F_NONBLOCK)));
	say("full, splice: %s", RESULT(splice(file, &(loff_t){0}, through[1], NULL, 10,
					SPLICE_F_NONBLOCK)));
	t = start(fills, &through[1]);
	settle();
	for (int i = 0; i < 16; i++)
		CHECK(read(through[0], buf, 4096) == 4096);
	say("vmsplice waited: %d", (long)finish(t) > 0);
	OK(fcntl(through[1], F_SETFL, O_NONBLOCK));
	while (write(through[1], buf, 4096) > 0)
		;
	say("O_NONBLOCK, splice: %s",
		RESULT(splice(file, &(loff_t){0}, through[1], NULL, 10, 0)));
	say("O_NONBLOCK, sendfile: %s",
		RESULT(sendfile(through[1], file, &(off_t){0}, 10)));
	OK(close(through[0]));
	say("no reader, splice: %s",
		RESULT(splice(file, &(loff_t){0}, through[1], NULL, 10, 0)));
	OK(close(through[1]));
	for (int i = 0; i < 4; i++)
		OK(close(p[i / 2][i % 2]));
}

static void handler(int sig)
{
	(void)sig;
	handled = handled + 1;
}

/* Blocked for ever, until a signal. */
static void *sends_until_signal(void *arg)
{
	off_t at = 0;
	ssize_t n = sendfile((int)(intptr_t)arg, file, &at, SIZE);

	say("sendfile and a signal: a part %d, offset tells it %d", n > 0 && n < SIZE,
		at == n);
	at = 0;
	n = sendfile((int)(intptr_t)arg, file, &at, SIZE);
	say("again: %s", n < 0 ? err_name(errno) : n < SIZE ? "EINTR" : "all");
	return NULL;
}

static void *splices_until_signal(void *arg)
{
	int *fd = (int *)arg;

	say("splice from an empty pipe: %s",
		RESULT(splice(fd[0], NULL, fd[1], NULL, 10, 0)));
	return NULL;
}

static void interrupt(pthread_t t, int times)
{
	for (int i = 0; i < times; i++) {
		int seen = handled;

		settle();
		while (handled == seen) {
			ZERO(pthread_kill(t, SIGUSR1));
			usleep(20000);
		}
	}
	finish(t);
}

static void ends(void)
{
	struct sigaction sa = {.sa_handler = handler};
	struct timeval tv = {0, 30000};
	int fds[2], p[4];
	off_t at = 0;

	OK(sigaction(SIGUSR1, &sa, NULL));
	make_tcp(fds);
	interrupt(start(sends_until_signal, (void *)(intptr_t)fds[1]), 2);
	OK(setsockopt(fds[1], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
	while (sendfile(fds[1], file, &at, SIZE) > 0)
		at = 0;
	say("SO_SNDTIMEO: %s", err_name(errno));
	OK(fcntl(fds[1], F_SETFL, O_NONBLOCK));
	say("O_NONBLOCK: %s", RESULT(sendfile(fds[1], file, &at, SIZE)));
	OK(close(fds[0]));
	usleep(2000);
	errno = 0;
	ssize_t n = sendfile(fds[1], file, &at, SIZE);
	say("the peer is gone: %s", n < 0 && (errno == EPIPE || errno == ECONNRESET)
					    ? "an error"
					    : RESULT(n));
	OK(close(fds[1]));
	OK(pipe(p));
	OK(pipe(p + 2));
	interrupt(start(splices_until_signal, (int[]){p[0], p[3]}), 1);
	say("bad offset: %s", RESULT(sendfile(p[1], file, (off_t *)bad_pointer, 10)));
	say("negative offset: %s", RESULT(sendfile(p[1], file, &(off_t){-5}, 10)));
	say("from a socket: %s", RESULT(sendfile(p[1], p[0], NULL, 0)));
	say("not open: %s", RESULT(sendfile(p[1], 9999, NULL, 10)));
	say("to a reading end: %s", RESULT(sendfile(p[0], file, &(off_t){0}, 10)));
	say("splice of two files: %s",
		RESULT(splice(file, &(loff_t){0}, file, &(loff_t){0}, 10, 0)));
	say("tee of a file: %s", RESULT(tee(file, p[1], 10, 0)));
	for (int i = 0; i < 4; i++)
		OK(close(p[i]));
}

static void *one_of_many(void *arg)
{
	off_t at = 0;
	ssize_t n = sendfile((int)(intptr_t)arg, file, &at, SIZE);

	CHECK(n == SIZE && at == SIZE);
	OK(close((int)(intptr_t)arg));
	return NULL;
}

/* Many blocked at once, and no kernel thread for any of them. */
static void many(void)
{
	pthread_t t[SENDERS], readers[SENDERS];
	int fds[SENDERS][2], right = 0;

	for (int i = 0; i < SENDERS; i++) {
		if (i % 2)
			make_tcp(fds[i]);
		else
			unix_pair(fds[i]);
		t[i] = start(one_of_many, (void *)(intptr_t)fds[i][1]);
	}
	settle();
	CHECK(kernel_threads() <= SENDERS + 2);
	for (int i = 0; i < SENDERS; i++)
		readers[i] = start(sums, (void *)(intptr_t)fds[i][0]);
	for (int i = 0; i < SENDERS; i++) {
		finish(t[i]);
		right += !strcmp(outcome(readers[i]), "all");
	}
	say("%d at once: %d right", SENDERS, right);
}

static void *copies(void *arg)
{
	int to = OK(open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600));
	char buf[4096];
	uint64_t sum = CHECKSUM_INIT;
	ssize_t n;
	size_t total = 0;
	loff_t at = 0;

	while ((n = OK(copy_file_range(file, &at, to, NULL, 1 << 20, 0))) > 0)
		total += (size_t)n;
	OK(lseek(to, 0, SEEK_SET));
	while ((n = OK(read(to, buf, sizeof buf))) > 0)
		sum = checksum(sum, buf, (size_t)n);
	say("copy_file_range: %zu, equal %d", total, sum == whole);
	OK(ftruncate(to, 0));
	OK(lseek(to, 0, SEEK_SET));
	OK(lseek(file, 0, SEEK_SET));
	for (total = 0; (n = OK(sendfile(to, file, NULL, SIZE))) > 0; total += (size_t)n)
		;
	say("sendfile to a file: %zu", total);
	OK(close(to));
	return arg;
}

static void *run(void *arg)
{
	sendfiles("TCP", make_tcp, true);
	sendfiles("UNIX", unix_pair, false);
	sendfiles("a pipe", make_pipe, true);
	spliced("TCP", make_tcp, 65536);
	spliced("UNIX", unix_pair, 10000);
	spliced("a pipe", make_pipe, 4096 * 5);
	relayed(make_tcp, "TCP");
	relayed(unix_pair, "UNIX");
	pipes();
	ends();
	many();
	copies(NULL);
	return arg;
}

int main(void)
{
	unsigned char *data = (unsigned char *)malloc(SIZE);

	signal(SIGPIPE, SIG_IGN);
	file = OK(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));
	for (uint64_t i = 0; i < SIZE; i++)
		data[i] = pattern(i);
	whole = checksum(CHECKSUM_INIT, data, SIZE);
	CHECK(write(file, data, SIZE) == SIZE);
	free(data);
	on_thread(run, NULL);
	return 0;
}
