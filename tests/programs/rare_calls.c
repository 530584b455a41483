/*
 * The system calls of weft's table that programs seldom make: each made on a thread,
 * right and wrong. Those libc has no function for, through syscall(2).
 */
#include "prog.h"

#include <dirent.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>

static int fds[2];

static void *writes_later(void *arg)
{
	usleep(5000);
	OK(write(fds[1], arg, strlen((const char *)arg)));
	return NULL;
}

static void *reads_later(void *arg)
{
	char buf[65536];

	usleep(5000);
	for (int i = 0; i < 4; i++)
		OK(read(fds[0], buf, sizeof buf));
	return arg;
}

static void syncs(void)
{
	int fd = OK(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));
	char *map;

	CHECK(write(fd, "0123456789", 10) == 10);
	say("fsync %d, fdatasync %d, syncfs %d", fsync(fd), fdatasync(fd), syncfs(fd));
	say("sync_file_range %d", sync_file_range(fd, 0, 10, SYNC_FILE_RANGE_WRITE));
	say("not open: %s, %s, %s", RESULT(fsync(-1)), RESULT(fdatasync(999)),
		RESULT(syncfs(999)));
	OK(pipe(fds));
	say("of a pipe: %s, %s", RESULT(fsync(fds[0])),
		RESULT(sync_file_range(fds[0], 0, 1, 0)));
	OK(close(fds[0]));
	OK(close(fds[1]));
	sync();
	map = (char *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	map[0] = 'x';
	say("msync %d, of nothing %s", msync(map, 4096, MS_SYNC),
		RESULT(msync(map + 1, 4096, MS_SYNC)));
	OK(munmap(map, 4096));
	say("fallocate %d, too far %s", fallocate(fd, 0, 0, 8192),
		RESULT(fallocate(fd, 0, -1, 5)));
	say("size %ld", (long)lseek(fd, 0, SEEK_END));
	say("ftruncate %d", ftruncate(fd, 20));
	say("truncate %d", truncate("file", 10));
	say("size %ld", (long)lseek(fd, 0, SEEK_END));
	say("of nothing: %s", RESULT(truncate("no such file", 1)));
	OK(close(fd));
}

static void at_a_place(void)
{
	char buf[16] = "";
	struct iovec v[2] = {{buf, 3}, {buf + 3, 4}};
	int fd = OK(open("file", O_RDWR)), again = OK(open("file", O_RDWR | O_DSYNC)), n;
	pthread_t t;

	say("pwritev %zd", pwritev(fd, v, 2, 1));
	say("pwritev2 %zd", pwritev2(fd, &(struct iovec){"AB", 2}, 1, 0, RWF_DSYNC));
	say("O_DSYNC: pwrite %zd", pwrite(again, "CD", 2, 4));
	say("O_DSYNC: write %zd", write(again, "E", 1));
	n = (int)preadv2(fd, v, 2, 0, 0);
	say("preadv2 %d %.7s", n, buf);
	n = (int)preadv2(fd, v, 2, -1, 0);
	say("at the position: %d, position %ld", n, (long)lseek(fd, 0, SEEK_CUR));
	n = (int)preadv2(fd, v, 2, 0, RWF_NOWAIT);
	say("RWF_NOWAIT: %d",
		n == 7 || (n < 0 && (errno == EAGAIN || errno == EOPNOTSUPP)));
	say("negative: %s, %s", RESULT(pread(fd, buf, 1, -1)),
		RESULT(pwritev(fd, v, 1, -2)));
	say("unknown flag: %s", RESULT(preadv2(fd, v, 1, 0, 1 << 20)));
	say("bad vector: %s", RESULT(preadv(fd, (struct iovec *)bad_pointer, 1, 0)));
	OK(pipe(fds));
	say("of a pipe: %s, %s", RESULT(pread(fds[0], buf, 1, 0)),
		RESULT(pwritev2(fds[1], v, 1, 0, 0)));
	t = start(writes_later, (void *)"abc");
	n = (int)preadv2(fds[0], v, 2, -1, 0);
	say("preadv2 waits at a pipe: %d %.3s", n, buf);
	finish(t);
	say("RWF_NOWAIT: %s", RESULT(preadv2(fds[0], v, 2, -1, RWF_NOWAIT)));
	static char page[65536];
	CHECK(write(fds[1], page, sizeof page) == sizeof page);
	t = start(reads_later, NULL);
	struct iovec much = {page, sizeof page};
	long r = pwritev2(fds[1], &much, 1, -1, 0);
	say("pwritev2 waits at a pipe: %ld", r);
	for (int i = 0; i < 3; i++) /* the reader wants four pieces */
		OK(write(fds[1], page, 1));
	OK(close(fds[1]));
	finish(t);
	OK(close(fds[0]));
	OK(close(fd));
	OK(close(again));
}

static void opens(void)
{
	struct open_how how = {.flags = O_RDONLY};
	int fd = OK(creat("created", 0600));
	struct dirent *e;
	int seen = 0;

	OK(close(fd));
	fd = (int)OK(syscall(SYS_openat2, AT_FDCWD, "created", &how, sizeof how));
	say("openat2: %d, too small: %s", fd >= 0,
		RESULT(syscall(SYS_openat2, AT_FDCWD, "created", &how, 4)));
	OK(close(fd));
	say("openat2, bad: %s",
		RESULT(syscall(SYS_openat2, AT_FDCWD, bad_pointer, &how, sizeof how)));
	say("creat: %s", RESULT(syscall(SYS_creat, "no/such", 0600)));
	say("rename %d", rename("created", "renamed"));
	say("unlink %d", unlink("renamed"));
	say("again %s", RESULT(unlink("renamed")));
	DIR *d = opendir(".");
	CHECK(d);
	while ((e = readdir(d)))
		seen += !strcmp(e->d_name, "file");
	closedir(d);
	say("getdents64: %d", seen);
	say("mount: %s, umount2: %s",
		RESULT(mount("none", "/no/such/place", "no-such-kind", 0, NULL)),
		RESULT(umount2("/no/such/place", 0)));
}

/* Where libc keeps the thread's id: the first word of the TCB that has it. */
static int *libc_word(void)
{
	int *p = (int *)pthread_self();

	while (*p != gettid())
		p++;
	return p;
}

static void of_the_kernel(void)
{
	aio_context_t aio = 0;
	struct io_event done;
	struct timespec ts = {0, 3 * MS};
	char buf[8] = "";
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_buf = (uintptr_t)buf,
		.aio_nbytes = 4};
	struct iocb *list = &cb;
	struct futex_waitv w = {.val = 1, .flags = FUTEX_32};
	uint32_t word = 0;

	cb.aio_fildes = (uint32_t)OK(open("file", O_RDONLY));
	OK(syscall(SYS_io_setup, 8, &aio));
	say("io_getevents, none: %ld", syscall(SYS_io_getevents, aio, 1, 1, &done, &ts));
	OK(syscall(SYS_io_submit, aio, 1, &list));
	long n = syscall(SYS_io_getevents, aio, 1, 1, &done, NULL);
	say("io_getevents: %ld, %lld", n, (long long)done.res);
	OK(syscall(SYS_io_destroy, aio));
	w.uaddr = (uintptr_t)&word;
	say("futex_waitv: %s", RESULT(syscall(SYS_futex_waitv, &w, 1, 0, NULL, 0)));
	char a[4] = "abc", b[4] = "";
	struct iovec from = {a, 3}, to = {b, 3};
	n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	say("process_vm_readv %ld %s", n, b);
	say("process_vm_writev %zd", process_vm_writev(gettid(), &to, 1, &from, 1, 0));
	say("setreuid %d, setregid %d", setreuid((uid_t)-1, (uid_t)-1),
		setregid((gid_t)-1, (gid_t)-1));
	say("tkill %ld, nobody %s", syscall(SYS_tkill, gettid(), 0),
		RESULT(syscall(SYS_tkill, -5, 0)));
	/* libc's own word again, or nobody could join this thread. */
	say("set_tid_address: ours %d",
		syscall(SYS_set_tid_address, libc_word()) == gettid());
	say("rseq: %d", syscall(SYS_rseq, NULL, 0, 0, 0) == -1);
	char *args[] = {NULL};
	say("execveat: %s",
		RESULT(syscall(SYS_execveat, AT_FDCWD, "no such", args, args, 0)));
	OK(close((int)cb.aio_fildes));
}

static int child(void *arg)
{
	_exit(arg ? 23 : 24);
}

static void others(void)
{
	struct rusage usage;
	char buf[16], *stack = (char *)malloc(65536);
	int status, n, terminal = OK(posix_openpt(O_RDWR | O_NOCTTY));
	pid_t pid = OK(clone(child, stack + 65536, SIGCHLD, stack));

	CHECK(wait4(pid, &status, 0, &usage) == pid);
	say("clone and wait4: %s", describe_status(status));
	say("wait4, no child: %s", RESULT(wait4(pid, &status, 0, NULL)));
	free(stack);
	say("getrandom: %zd", getrandom(buf, sizeof buf, 0));
	OK(pipe(fds));
	OK(write(fds[1], "abc", 3));
	OK(ioctl(fds[0], FIONREAD, &n));
	say("ioctl: %d, unknown %s", n, RESULT(ioctl(fds[0], 0x12345678, &n)));
	say("tcdrain %d, of a pipe %s", tcdrain(terminal), RESULT(tcdrain(fds[0])));
	OK(close(fds[0]));
	OK(close(fds[1]));
	OK(close(terminal));
	char *map = (char *)mmap(
		NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(map != MAP_FAILED);
	map[0] = 'x';
	n = madvise(map, 4096, MADV_DONTNEED);
	say("madvise: %d, %d", n, map[0]);
	OK(munmap(map, 8192));
	say("io_uring_register: %s",
		RESULT(syscall(SYS_io_uring_register, 999, 0, NULL, 0)));
}

static void *run(void *arg)
{
	others();
	syncs();
	at_a_place();
	opens();
	of_the_kernel();
	return arg;
}

int main(void)
{
	on_thread(run, NULL);
	return 0;
}
