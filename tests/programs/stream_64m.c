/*
 * 64 MiB through all kinds of transfer together, or through each ("each"), with a reader
 * that takes odd amounts and pauses: every blocking write must be whole, every byte in
 * its place.
 */
#include "prog.h"

#include <sys/sendfile.h>
#include <sys/uio.h>

#define CHUNK (1 << 20)

struct job {
	const char *name;
	int (*send)(int fd, unsigned char *data, size_t len);
	int kind; /* 0 TCP, 1 UNIX, 2 pipe */
	bool stdio;
	int fds[2];
	size_t total;
	uint64_t sum, got;
	int short_writes;
};

static int by_send(int fd, unsigned char *data, size_t len)
{
	return send(fd, data, len, 0) == (ssize_t)len;
}

static int by_write(int fd, unsigned char *data, size_t len)
{
	return write(fd, data, len) == (ssize_t)len;
}

/* Odd pieces: empty ones, single bytes, large ones. */
static int split(struct iovec *iov, unsigned char *data, size_t len)
{
	static const size_t pieces[] = {1, 0, 4095, 3, 65537, 7, 0, 100003, 1, 13};
	int n = 0;

	for (size_t at = 0; at < len; n++) {
		size_t piece = n < 40 ? pieces[n % 10] : len - at;

		if (piece > len - at)
			piece = len - at;
		iov[n].iov_base = data + at;
		iov[n].iov_len = piece;
		at += piece;
	}
	return n;
}

static int by_writev(int fd, unsigned char *data, size_t len)
{
	struct iovec iov[64];
	int n = split(iov, data, len);

	return writev(fd, iov, n) == (ssize_t)len;
}

static int by_sendmsg(int fd, unsigned char *data, size_t len)
{
	struct iovec iov[64];
	struct msghdr msg = {.msg_iov = iov};

	msg.msg_iovlen = (size_t)split(iov, data, len);
	return sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)len;
}

static int by_sendfile(int fd, unsigned char *data, size_t len)
{
	char name[] = "data-XXXXXX";
	int file = OK(mkstemp(name));
	off_t at = 0;

	OK(unlink(name));
	CHECK(write(file, data, len) == (ssize_t)len);
	ssize_t n = sendfile(fd, file, &at, len);
	OK(close(file));
	return n == (ssize_t)len && at == (off_t)len;
}

static int by_stdio(int fd, unsigned char *data, size_t len)
{
	FILE *f = fdopen(OK(dup(fd)), "w");
	size_t at = 0;

	CHECK(f);
	for (size_t piece = 1; at < len && !ferror(f); piece = piece * 3 % 8191 + 1) {
		size_t most = len - at < piece ? len - at : piece;

		if (piece % 7 == 0)
			most = putc(data[at], f) == EOF ? 0 : 1;
		else
			most = fwrite(data + at, 1, most, f);
		at += most;
	}
	return fclose(f) == 0 && at == len;
}

static void *sends(void *arg)
{
	struct job *job = arg;
	unsigned char *data = malloc(CHUNK);
	uint64_t at = 0;

	CHECK(data);
	while (at < job->total) {
		size_t len = job->total - at < CHUNK ? job->total - at : CHUNK;

		for (size_t i = 0; i < len; i++)
			data[i] = pattern(at + i);
		if (!job->send(job->fds[1], data, len)) {
			job->short_writes++;
			break;
		}
		at += len;
	}
	free(data);
	OK(close(job->fds[1]));
	return NULL;
}

static void *receives(void *arg)
{
	static const size_t sizes[] = {1, 4096, 77777, 3, 262144, 19, 65536};
	struct job *job = arg;
	unsigned char *buf = malloc(262144);
	ssize_t n = 1;

	FILE *f = job->stdio ? fdopen(OK(dup(job->fds[0])), "r") : NULL;

	CHECK(buf && (f || !job->stdio));
	job->sum = CHECKSUM_INIT;
	for (int i = 0; n > 0; i++) {
		if (i % 16 == 0)
			usleep(200); /* the sender fills the buffers and blocks */
		n = f ? (ssize_t)fread(buf, 1, sizes[i % 7], f)
		      : OK(read(job->fds[0], buf, sizes[i % 7]));
		for (ssize_t k = 0; k < n; k++)
			CHECK(buf[k] == pattern(job->got + (uint64_t)k));
		job->sum = checksum(job->sum, buf, (size_t)n);
		job->got += (uint64_t)n;
	}
	free(buf);
	CHECK(!f || fclose(f) == 0);
	OK(close(job->fds[0]));
	return NULL;
}

int main(int argc, char **argv)
{
	struct job jobs[] = {
		{.name = "send on TCP", .send = by_send, .kind = 0},
		{.name = "write on TCP", .send = by_write, .kind = 0},
		{.name = "writev on TCP", .send = by_writev, .kind = 0},
		{.name = "sendmsg on TCP", .send = by_sendmsg, .kind = 0},
		{.name = "send on UNIX", .send = by_send, .kind = 1},
		{.name = "writev on UNIX", .send = by_writev, .kind = 1},
		{.name = "write on a pipe", .send = by_write, .kind = 2},
		{.name = "writev on a pipe", .send = by_writev, .kind = 2},
		{.name = "sendfile on TCP", .send = by_sendfile, .kind = 0},
		{.name = "sendfile on UNIX", .send = by_sendfile, .kind = 1},
		{.name = "stdio on TCP", .send = by_stdio, .kind = 0, .stdio = true},
		{.name = "stdio on a pipe", .send = by_stdio, .kind = 2, .stdio = true},
	};
	enum { JOBS = sizeof jobs / sizeof *jobs };
	pthread_t threads[JOBS][2];
	bool each = argc > 1 && !strcmp(argv[1], "each");

	for (int i = 0; i < JOBS; i++) {
		jobs[i].total = (64 << 20) / (each ? 1 : JOBS) + (size_t)i * 1013;
		if (jobs[i].kind == 0)
			tcp_pair(jobs[i].fds);
		else if (jobs[i].kind == 1)
			unix_pair(jobs[i].fds);
		else
			OK(pipe(jobs[i].fds));
		threads[i][0] = start(sends, &jobs[i]);
		threads[i][1] = start(receives, &jobs[i]);
	}
	for (int i = 0; i < JOBS; i++) {
		finish(threads[i][0]);
		finish(threads[i][1]);
		say("%s: %lu bytes, checksum %016lx, short writes %d", jobs[i].name,
			(unsigned long)jobs[i].got, (unsigned long)jobs[i].sum,
			jobs[i].short_writes);
	}
	return 0;
}
