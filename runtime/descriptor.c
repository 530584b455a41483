/*
 * descriptor.c - what a descriptor says about itself, and closing it while
 * somebody waits.
 *
 * Nothing here is trusted from one call to the next: O_NONBLOCK belongs to the
 * open file, which other processes may share, so it is asked when a call is about
 * to wait; a remembered kind only chooses which attempt comes first.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/vfs.h>

#include "engine.h"
#include "futex.h"
#include "io_impl.h"
#include "keepers.h"

enum { TABLE = 65536 }; /* numbers with a hint; higher ones work without */

/* ---- time-outs ------------------------------------------------------------ */

static int timeouts_possible; /* (a) */

void weft_io_expect_timeouts(void)
{
	store_relaxed(&timeouts_possible, 1);
}

bool weft_fd_timeouts_possible(void)
{
	return load_relaxed(&timeouts_possible);
}

long weft_fd_option(int fd, int level, int option, void *value, unsigned size)
{
	return weft_sys5(SYS_getsockopt, fd, level, option, (long)value, (long)&size);
}

int weft_fd_int_option(int fd, int option, int otherwise)
{
	int value = 0;

	return weft_fd_option(fd, SOL_SOCKET, option, &value, sizeof value) ? otherwise
									    : value;
}

static void forget(unsigned first, unsigned last);

/* What is known of a device; device_is_served(). */
enum { DEVICE_SERVED = 1, DEVICE_ASKED = 2, DEVICE_ASKING = 4, DEVICE_SHIFT = 3 };
enum { DEVICES = 64 };
static uint64_t devices[DEVICES]; /* (a) */
static uint32_t answers;          /* (a) for those who wait for one */

void weft_io_scan_descriptors(void)
{
	int misses = 0;

	/* A fork child closed and opened what it liked until now, unseen. */
	forget(0, TABLE - 1);
	/* Who asked for a device does not come along. */
	for (unsigned i = 0; i < DEVICES; i++)
		store_relaxed(&devices[i], 0);
	/* Low numbers are dense; a long gap ends the scan. */
	for (int fd = 0; misses < 64 && !timeouts_possible; fd++) {
		struct timeval in = {0, 0}, out = {0, 0};
		int low;
		long r = weft_fd_option(fd, SOL_SOCKET, SO_RCVTIMEO, &in, sizeof in);

		if (r == -EBADF) {
			misses++;
			continue;
		}
		misses = 0;
		if (r)
			continue;
		weft_fd_option(fd, SOL_SOCKET, SO_SNDTIMEO, &out, sizeof out);
		low = weft_fd_int_option(fd, SO_RCVLOWAT, 1);
		if (in.tv_sec || in.tv_usec || out.tv_sec || out.tv_usec || low > 1)
			timeouts_possible = 1;
	}
}

uint64_t weft_fd_deadline(int fd, int option)
{
	struct timeval tv = {0, 0};

	if (likely(!load_relaxed(&timeouts_possible)) || !option)
		return WEFT_NO_DEADLINE;
	if (weft_fd_option(fd, SOL_SOCKET, option, &tv, sizeof tv) ||
		(!tv.tv_sec && !tv.tv_usec))
		return WEFT_NO_DEADLINE;
	return weft_now_ns() + (uint64_t)tv.tv_sec * 1000000000u +
	       (uint64_t)tv.tv_usec * 1000u;
}

size_t weft_fd_low_water(int fd)
{
	int low = 1;

	if (unlikely(load_relaxed(&timeouts_possible)))
		low = weft_fd_int_option(fd, SO_RCVLOWAT, 1);
	return low > 1 ? (size_t)low : 1;
}

/* ---- kinds ---------------------------------------------------------------- */

static uint8_t hint[TABLE]; /* (a) enum weft_kind */

enum weft_kind weft_fd_hint(int fd)
{
	return (unsigned)fd < TABLE ? (enum weft_kind)load_relaxed(&hint[fd])
				    : WEFT_KIND_UNKNOWN;
}

void weft_fd_set_hint(int fd, enum weft_kind kind)
{
	if ((unsigned)fd < TABLE && load_relaxed(&hint[fd]) != kind)
		store_relaxed(&hint[fd], (uint8_t)kind);
}

/*
 * What is asked again and again is kept until the number is closed. One that is closed
 * behind weft's back keeps its answers, which are never more than a matter of time. Two
 * at once may each lose the other's answer.
 */
enum { SEEN = 1, NOT_SEEN = 2, SERVED = 4, NOT_SERVED = 8, ASKS = 16, NOT_ASKS = 32 };
static uint8_t known[TABLE]; /* (a) */

static uint8_t what_is_known(int fd)
{
	return (unsigned)fd < TABLE ? load_relaxed(&known[fd]) : 0;
}

static bool keep(int fd, bool is, uint8_t yes, uint8_t no)
{
	if ((unsigned)fd < TABLE)
		store_relaxed(&known[fd], load_relaxed(&known[fd]) | (is ? yes : no));
	return is;
}

static void forget(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < TABLE; fd++)
		if (load_relaxed(&known[fd]))
			store_relaxed(&known[fd], 0);
}

enum weft_kind weft_fd_kind(int fd)
{
	struct stat st;
	enum weft_kind kind = WEFT_KIND_OTHER;

	/* Its attributes may be another's to tell, too. */
	if (what_is_known(fd) & SERVED)
		return WEFT_KIND_FILE;
	if (weft_sys2(SYS_fstat, fd, &st))
		return WEFT_KIND_FILE; /* let the plain call say what is wrong */
	if (S_ISSOCK(st.st_mode))
		kind = WEFT_KIND_SOCKET;
	else if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode))
		kind = WEFT_KIND_FILE;
	weft_fd_set_hint(fd, kind);
	return kind;
}

/*
 * Can another process tell how long this one holds the file? Not by a TCP connection, but
 * for the time that passes, nor by what has no inode of its own (epoll sets, eventfd,
 * timerfd: their kind in st_mode is 0).
 */
static bool others_see(int fd)
{
	int protocol = 0;
	struct stat st;
	long r = weft_fd_option(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, sizeof protocol);

	if (r == -ENOTSOCK)
		return weft_sys2(SYS_fstat, fd, &st) || st.st_mode & S_IFMT;
	return r || (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP) ||
	       weft_fd_int_option(fd, SO_ACCEPTCONN, 1);
}

bool weft_fd_others_see(int fd)
{
	uint8_t is = what_is_known(fd);

	if (likely(is & (SEEN | NOT_SEEN)))
		return is & SEEN;
	return keep(fd, others_see(fd), SEEN, NOT_SEEN);
}

/* linux/magic.h, and those that are not in it. */
static const uint32_t served_by_others[] = {
	0x65735546, /* fuse, virtiofs */
	0x6969,     /* nfs */
	0xff534d42, /* cifs */
	0xfe534d42, /* smb3 */
	0x517b,     /* smb */
	0x01021997, /* 9p */
	0x00c36400, /* ceph */
	0x5346414f, /* afs */
	0x6b414653, /* afs of the kernel's own */
	0x73757245, /* coda */
	0x20030528, /* orangefs */
	0x0bd00bd0, /* lustre */
	0x786f4256, /* vboxsf */
};

static bool is_served(const struct statfs *fs)
{
	for (size_t i = 0; i < sizeof served_by_others / sizeof *served_by_others; i++)
		if ((uint32_t)fs->f_type == served_by_others[i])
			return true;
	return false;
}

static bool entry_is_for(uint64_t word, dev_t device)
{
	return word & (DEVICE_ASKED | DEVICE_ASKING) && word >> DEVICE_SHIFT == device;
}

/* By a helper: the file system may be the one that has to answer. */
static int ask_device(int fd, uint64_t *entry, uint64_t word, dev_t device)
{
	const uint64_t here = (uint64_t)device << DEVICE_SHIFT;
	struct statfs fs;
	int served = -1;

	/* Another device is asked for there just now: it keeps the place. */
	bool mine = !(word & DEVICE_ASKING) &&
		    cas_seq_cst(entry, &word, here | DEVICE_ASKING);

	if (!weft_io_on_disk(SYS_fstatfs, fd, (long)&fs, 0, 0, 0, 0))
		served = is_served(&fs) ? DEVICE_SERVED : 0;
	if (mine) {
		store_seq_cst(
			entry, served < 0 ? 0 : here | DEVICE_ASKED | (uint64_t)served);
		__atomic_add_fetch(&answers, 1, __ATOMIC_SEQ_CST);
		weft_futex_wake(&answers, INT_MAX, FUTEX_BITSET_MATCH_ANY, false);
	}
	return served;
}

/*
 * 1, 0, or -1 when it cannot be told. Once for each device, until another one with the
 * same place in the table is asked for: who writes meanwhile waits for the answer, or a
 * server's first log lines would take a helper each (tinyproxy with 200 connections: up
 * to 58). No lock, which would have to be held around fork.
 */
static int device_is_served(int fd, dev_t device)
{
	uint64_t *entry = &devices[device % DEVICES], word;
	uint32_t seen;

	/* On a disk of this machine, or what it takes for one: with a major number (as in
	 * sys/sysmacros.h, which calls libc). */
	if (device >> 8 & 0xfff || device >> 44)
		return 0;
	do {
		seen = load_seq_cst(&answers);
		word = load_seq_cst(entry);
		if (!entry_is_for(word, device))
			return ask_device(fd, entry, word, device);
		if (word & DEVICE_ASKED)
			return word & DEVICE_SERVED;
	} while (weft_futex_wait(&answers, seen, FUTEX_BITSET_MATCH_ANY, false,
			 WEFT_NO_DEADLINE) != -EINTR);
	return -1;
}

bool weft_fd_is_served(int fd)
{
	uint8_t is = what_is_known(fd);
	struct stat st;
	int served;

	if (likely(is & (SERVED | NOT_SERVED)))
		return is & SERVED;
	served = weft_sys2(SYS_fstat, fd, &st) ? -1 : device_is_served(fd, st.st_dev);
	return served >= 0 && keep(fd, served, SERVED, NOT_SERVED);
}

/* The names of what has no inode of its own (fs/userfaultfd.c, fanotify_user.c,
 * kernel/seccomp.c). */
static const char *const asking_names[] = {
	"anon_inode:[userfaultfd]",
	"anon_inode:[fanotify]",
	"anon_inode:seccomp notify",
};

static bool kernel_asks(int fd, const struct stat *st)
{
	enum { FUSE_MAJOR = 10, FUSE_MINOR = 229 };
	char path[32] = "/proc/self/fd/", name[32], digits[21];
	size_t at = sizeof "/proc/self/fd/" - 1;
	long n;

	if (S_ISCHR(st->st_mode))
		return st->st_rdev == (FUSE_MAJOR << 8 | FUSE_MINOR);
	if (st->st_mode & S_IFMT)
		return false;
	weft_keepers_put(path, sizeof path, &at, weft_format_u64(digits, (uint64_t)fd));
	n = weft_sys3(SYS_readlink, (long)path, (long)name, sizeof name - 1);
	if (weft_sys_failed(n))
		return false;
	name[n] = 0;
	for (size_t i = 0; i < sizeof asking_names / sizeof *asking_names; i++)
		if (weft_same_text(name, asking_names[i]))
			return true;
	return false;
}

bool weft_fd_kernel_asks(int fd)
{
	uint8_t is;
	struct stat st;

	/* Numbers that are not kept would be asked at each wait. */
	if ((unsigned)fd >= TABLE || weft_fd_hint(fd) == WEFT_KIND_SOCKET)
		return false;
	is = what_is_known(fd);
	if (likely(is & (ASKS | NOT_ASKS)))
		return is & ASKS;
	return !weft_sys2(SYS_fstat, fd, &st) &&
	       keep(fd, kernel_asks(fd, &st), ASKS, NOT_ASKS);
}

bool weft_fd_nonblocking(int fd)
{
	long flags = weft_sys3(SYS_fcntl, fd, F_GETFL, 0);

	return weft_sys_failed(flags) || flags & O_NONBLOCK;
}

bool weft_fd_is_stream(int fd)
{
	return weft_fd_int_option(fd, SO_TYPE, -1) == SOCK_STREAM;
}

/* net/core/stream.c, net/unix/af_unix.c, net/sctp/socket.c, fs/pipe.c. */
bool weft_fd_breaks_with_signal(int fd)
{
	return weft_fd_int_option(fd, SO_TYPE, SOCK_STREAM) == SOCK_STREAM ||
	       weft_fd_int_option(fd, SO_PROTOCOL, 0) == IPPROTO_SCTP;
}

int weft_fd_poll_now(int fd, unsigned events)
{
	struct pollfd p = {fd, (short)events, 0};

	return weft_sys3(SYS_poll, (long)&p, 1, 0) > 0 ? p.revents : 0;
}

void weft_fd_note_again(int fd, unsigned events)
{
	struct fiber *f = weft_fiber_self();

	f->again_fd = fd;
	f->again_events = (uint16_t)events;
}

/*
 * A request and a response each find an empty socket at the next receive, nearly
 * always. LEARNED attempts in a row that would have blocked make it a habit; one in
 * RELEARN receives is then still attempted, in case the habit has changed.
 */
enum { LEARNED = 2, RELEARN = 32 };
static uint8_t habit[TABLE]; /* (a) */

bool weft_fd_likely_blocks(int fd)
{
	uint8_t h;

	if ((unsigned)fd >= TABLE)
		return false;
	h = load_relaxed(&habit[fd]);
	if (h < LEARNED)
		return false;
	store_relaxed(&habit[fd], h == LEARNED + RELEARN ? LEARNED - 1 : h + 1);
	return true;
}

void weft_fd_learn(int fd, bool blocked)
{
	uint8_t h;

	if ((unsigned)fd >= TABLE)
		return;
	h = load_relaxed(&habit[fd]);
	if (blocked && h < LEARNED)
		store_relaxed(&habit[fd], h + 1);
	else if (!blocked && h)
		store_relaxed(&habit[fd], 0);
}

static uint32_t speaker[TABLE]; /* (a) a fiber's id */

bool weft_fd_spoken_by(int fd, const struct fiber *f)
{
	uint32_t me = (uint32_t)f->tid;

	if ((unsigned)fd >= TABLE)
		return false;
	if (load_relaxed(&speaker[fd]) == me)
		return true;
	store_relaxed(&speaker[fd], me);
	return false;
}

/* ---- closing what somebody waits for -------------------------------------- */

static uint16_t busy[TABLE]; /* (a) how many fibers wait for this number */

void weft_fd_busy(int fd, int delta)
{
	if ((unsigned)fd < TABLE)
		__atomic_fetch_add(&busy[fd], (uint16_t)delta, __ATOMIC_SEQ_CST);
}

/* A duplicate where it does not disturb the lowest free numbers. */
int weft_fd_duplicate(int fd)
{
	long to = weft_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 512);

	if (weft_sys_failed(to))
		to = weft_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	return (int)to;
}

/*
 * An operation that is queued names its file by number; only once the kernel has
 * taken it does it hold the file. Our own ring is submitted here; another carrier
 * submits its own within its next few switches, or at its tick.
 */
static void wait_submitted(struct fiber *f)
{
	uint64_t give_up = 0;

	if (weft_on_epoll())
		return; /* nothing is queued there */
	for (;;) {
		struct carrier *c = load_seq_cst(&f->io_carrier);

		if (!c || weft_ring_submitted(c->ring, load_relaxed(&f->io_mark)))
			return;
		if (c == (struct carrier *)weft_rdgsbase()) {
			weft_ring_submit(c->ring);
			return;
		}
		/* It may be blocked in something that waits for this very close. */
		if (!give_up)
			give_up = weft_now_ns() + 20000000;
		else if (weft_now_ns() > give_up)
			return;
		weft_sys0(SYS_sched_yield);
	}
}

/*
 * The numbers first..last are about to be closed or to mean something else. A
 * fiber that waits for one of them keeps its file: an operation of the ring holds it,
 * the epoll set is given another number, and for a call that will be made after the wait
 * it gets another number, which it finds when it wakes up (weft_io_wait_ready) and closes
 * when its call ends.
 */
void weft_io_closing(unsigned first, unsigned last)
{
	forget(first, last);
	if (first == last && first < TABLE && likely(!load_seq_cst(&busy[first])))
		return;
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);
		int fd = load_seq_cst(&f->io_fd), to;

		if (fd < 0 || (unsigned)fd < first || (unsigned)fd > last)
			continue;
		wait_submitted(f);
		if (f->io_direct)
			continue;
		to = weft_fd_duplicate(fd);
		/* It woke up meanwhile: then its call ends now, with this file still. */
		if (to >= 0 && !cas_seq_cst(&f->io_fd, &fd, to))
			weft_sys1(SYS_close, to);
		else if (to >= 0 && weft_on_epoll())
			weft_poller_moved(f, fd, to);
	}
	if (weft_on_epoll())
		weft_poller_closing(first, last);
}

/*
 * The set holds no file. Who looked whether somebody waits for a number found nobody, and
 * closes it after somebody has begun to: the file is gone, and with it what would wake
 * that one up. Its call began while the number was closed: it hears EBADF, or waits for
 * the number's next file.
 *
 *     waits                           closes
 *     busy++                          busy? nobody
 *     into the set                    close
 *                (seq_cst)  [busy-closed]
 *     waits                           busy? into the set again
 */
void weft_io_closed(unsigned first, unsigned last)
{
	if (!weft_on_epoll())
		return;
	if (first == last && first < TABLE && likely(!load_seq_cst(&busy[first])))
		return;
	weft_poller_closed(first, last);
}
