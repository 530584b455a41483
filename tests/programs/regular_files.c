/* Regular files from threads: positions, appends, vectors, short reads at the end,
 * errors. */
#include "prog.h"

#include <sys/uio.h>

#define WRITERS 8
#define RECORDS 200

static int log_fd, shared_fd;

/* O_APPEND: records of many threads never overlap. */
static void *appends(void *arg)
{
	char record[33];

	snprintf(record, sizeof record, "%-31ld\n", (long)(intptr_t)arg);
	for (int i = 0; i < RECORDS; i++)
		CHECK(write(log_fd, record, 32) == 32);
	return NULL;
}

/* One shared position: every record is read exactly once. */
static int seen[WRITERS];

static void *reads_shared(void *arg)
{
	char record[33] = "";

	while (read(shared_fd, record, 32) == 32)
		__atomic_fetch_add(&seen[atoi(record)], 1, __ATOMIC_SEQ_CST);
	return arg;
}

static void *details(void *arg)
{
	char buf[64] = "";
	struct iovec iov[2] = {{buf, 3}, {buf + 3, 4}};
	int fd = OK(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));

	say("write %zd", write(fd, "0123456789", 10));
	say("pread %zd %.4s", pread(fd, buf, 4, 3), buf);
	say("position %ld", (long)lseek(fd, 0, SEEK_CUR));
	say("pwrite %zd", pwrite(fd, "AB", 2, 1));
	say("lseek %ld", (long)lseek(fd, 0, SEEK_SET));
	say("readv %zd %.7s", readv(fd, iov, 2), buf);
	say("short read %zd", read(fd, buf, 64));
	say("at the end %zd", read(fd, buf, 64));
	say("preadv %zd %.7s", preadv(fd, iov, 2, 2), buf);
	say("writev %zd", writev(fd, iov, 2));
	say("fsync %d, ftruncate %d", fsync(fd), ftruncate(fd, 5));
	say("read past the end %zd", pread(fd, buf, 8, 100));
	say("bad pointer %s", RESULT(pread(fd, bad_pointer, 4, 0)));
	say("recv on a file %s", RESULT(recv(fd, buf, 1, 0)));
	OK(close(fd));
	say("closed: %s", RESULT(read(fd, buf, 1)));
	fd = OK(open("file", O_RDONLY));
	say("write to read-only %s", RESULT(write(fd, "x", 1)));
	OK(close(fd));
	fd = OK(open(".", O_RDONLY | O_DIRECTORY));
	say("read of a directory %s", RESULT(read(fd, buf, 1)));
	OK(close(fd));
	return arg;
}

int main(void)
{
	pthread_t threads[WRITERS];
	struct stat st;
	char record[32];
	int torn = 0, unequal = 0;

	log_fd = OK(open("log", O_RDWR | O_CREAT | O_APPEND, 0600));
	for (intptr_t i = 0; i < WRITERS; i++)
		threads[i] = start(appends, (void *)i);
	for (int i = 0; i < WRITERS; i++)
		finish(threads[i]);
	OK(fstat(log_fd, &st));
	for (int i = 0; i < WRITERS * RECORDS; i++) {
		CHECK(pread(log_fd, record, 32, i * 32) == 32);
		torn += record[31] != '\n' || record[0] < '0' || record[0] > '7';
	}
	say("log of %ld bytes, %d records torn", (long)st.st_size, torn);
	shared_fd = OK(open("log", O_RDONLY));
	for (intptr_t i = 0; i < WRITERS; i++)
		threads[i] = start(reads_shared, NULL);
	for (int i = 0; i < WRITERS; i++)
		finish(threads[i]);
	for (int i = 0; i < WRITERS; i++)
		unequal += seen[i] != RECORDS;
	say("%d records not read exactly once", unequal);
	on_thread(details, NULL);
	return 0;
}
