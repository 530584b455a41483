/*
 * file.c - regular files and block devices: on the carrier when the page cache can
 * answer, else on a helper thread.
 *
 * RWF_NOWAIT decides (preadv2(2)). A read at the current position is the kernel's own
 * call, which moves the position with its lock held; only when a part of the data was
 * in memory and the rest was not is it made in two, and another reader of the same open
 * file may come between them. Writes go to the page cache; those that wait for the disk
 * by request (O_SYNC, O_DSYNC, O_DIRECT, RWF_SYNC, RWF_DSYNC) are made on a helper, as is
 * everything on a file that another process or machine answers for, if its file system
 * cannot say what is in memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>

#include "io_impl.h"
#include "signals.h"

enum {
	NOWAIT = 8,        /* RWF_NOWAIT */
	REST = 8,          /* iovec entries on a small stack */
	MOST = 0x7ffff000, /* MAX_RW_COUNT: what one call transfers */
};

/* The data may be on a disk, as far as a test is concerned. */
static long attempt(int fd, const struct iovec *iov, int n, int64_t at, int flags)
{
	if (weft_io_forced_to_fail())
		return -EAGAIN;
	return weft_sys6(SYS_preadv2, fd, (long)iov, n, at, at >> 63, flags | NOWAIT);
}

/* Where only a kernel thread can wait. */
static long in_kernel(int fd, const struct iovec *iov, int n, int64_t at, int flags)
{
	return weft_io_on_disk(SYS_preadv2, fd, (long)iov, n, at, at < 0 ? -1 : 0, flags);
}

/* `at` < 0: at the current position. */
static long read_at(int fd, const struct iovec *iov, int n, int64_t at, int flags)
{
	size_t total = weft_iov_total(iov, (size_t)n);
	struct iovec rest[REST];
	size_t got = 0;
	long r = attempt(fd, iov, n, at, flags);

	total = total < MOST ? total : MOST;
	if (r == -EAGAIN)
		return in_kernel(fd, iov, n, at, flags);
	/* The end of the file, or of what is in memory: one more attempt tells. */
	while (r > 0 && (got += (size_t)r) < total) {
		int k = weft_iov_rest(iov, (size_t)n, got, rest, REST);
		int64_t next = at < 0 ? at : at + (int64_t)got;

		r = attempt(fd, rest, k, next, flags);
		if (r == -EAGAIN)
			r = in_kernel(fd, rest, k, next, flags);
	}
	return got ? (long)got : r;
}

static long plain_read(int fd, const struct iovec *iov, int n)
{
	return n == 1 ? weft_sys3(SYS_read, fd, (long)iov->iov_base, (long)iov->iov_len)
		      : weft_sys3(SYS_readv, fd, (long)iov, n);
}

long weft_file_read(int fd, const struct iovec *iov, int n)
{
	long r = read_at(fd, iov, n, -1, 0);

	if (r != -EOPNOTSUPP)
		return r;
	/* A file system without the question. Of /proc, /sys and memory: made here. */
	return weft_fd_is_served(fd) ? in_kernel(fd, iov, n, -1, 0)
				     : plain_read(fd, iov, n);
}

/* Is a write to fd done only when it is on the disk? */
static bool waits_for_disk(int fd, int flags)
{
	long mode = weft_sys3(SYS_fcntl, fd, F_GETFL, 0);

	return flags & (RWF_SYNC | RWF_DSYNC) ||
	       (!weft_sys_failed(mode) && mode & (O_DSYNC | O_DIRECT));
}

long weft_file_write(int fd, const struct iovec *iov, int n)
{
	long nr = n == 1 ? SYS_write : SYS_writev;
	long a = n == 1 ? (long)iov->iov_base : (long)iov;
	long b = n == 1 ? (long)iov->iov_len : n;

	if (weft_io_forced_to_fail() || weft_fd_is_served(fd) || waits_for_disk(fd, 0))
		return weft_io_on_disk(nr, fd, a, b, 0, 0, 0);
	return weft_signals_after_write(weft_sys3(nr, fd, a, b));
}

long weft_io_pread(int fd, const struct iovec *iov, int n, int64_t at, int flags)
{
	long r = read_at(fd, iov, n, at, flags);

	/* What has no such form, or a flag that is not for files in memory. */
	if (r != -EOPNOTSUPP)
		return r;
	if (flags || weft_fd_is_served(fd))
		return in_kernel(fd, iov, n, at, flags);
	return weft_sys6(SYS_preadv, fd, (long)iov, n, at, 0, 0);
}

long weft_io_pwrite(int fd, const struct iovec *iov, int n, int64_t at, int flags)
{
	if (weft_io_forced_to_fail() || flags || weft_fd_is_served(fd) ||
		waits_for_disk(fd, flags))
		return weft_io_on_disk(SYS_pwritev2, fd, (long)iov, n, at, 0, flags);
	return weft_signals_after_write(
		weft_sys6(SYS_pwritev, fd, (long)iov, n, at, 0, 0));
}
