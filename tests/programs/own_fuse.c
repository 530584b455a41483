/*
 * A process that uses a file system which a thread of its own answers for (FUSE). The
 * kernel waits for the answers inside the calls of the others, and no signal ends that.
 */
#include "pairs.h"

#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/uio.h>

#define USERS 12
#define TURNS 40
#define FILES 64
#define ASKED 500 /* by others, meanwhile */

static int fuse;
static char where[] = "/tmp/own_fuse_XXXXXX";

static void attributes(struct fuse_attr *a, uint64_t node)
{
	*a = (struct fuse_attr){.ino = node,
		.mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644,
		.nlink = 1,
		.size = node == 1 ? 0 : 8};
}

static void answers(
	const struct fuse_in_header *in, int error, const void *body, size_t n)
{
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof out + n), .error = error, .unique = in->unique};
	struct iovec iov[2] = {{&out, sizeof out}, {(void *)(uintptr_t)body, n}};

	/* One that a signal interrupted is asked no more. */
	if (writev(fuse, iov, 2) < 0)
		CHECK(errno == ENOENT || errno == EINTR);
}

static void one(const struct fuse_in_header *in)
{
	const char *name = (const char *)(in + 1);
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = 4096};
	struct fuse_entry_out entry = {.generation = 1};
	struct fuse_attr_out attr = {0};
	struct fuse_open_out open = {.open_flags = FOPEN_DIRECT_IO};
	char text[8];

	switch (in->opcode) {
	case FUSE_INIT:
		answers(in, 0, &init, sizeof init);
		break;
	case FUSE_LOOKUP:
		entry.nodeid = (uint64_t)atoi(name) + 2;
		attributes(&entry.attr, entry.nodeid);
		if (entry.nodeid % 4 == 0)
			usleep(200);
		answers(in, 0, &entry, sizeof entry);
		break;
	case FUSE_GETATTR:
		attributes(&attr.attr, in->nodeid);
		answers(in, 0, &attr, sizeof attr);
		break;
	case FUSE_OPEN:
		answers(in, 0, &open, sizeof open);
		break;
	case FUSE_READ:
		memset(text, (int)in->nodeid, sizeof text);
		answers(in, 0, text, sizeof text);
		break;
	case FUSE_RELEASE:
		answers(in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		answers(in, -ENOSYS, NULL, 0);
	}
}

static void *serves(void *arg)
{
	static union {
		struct fuse_in_header in;
		char room[65536];
	} request;

	for (;;) {
		ssize_t n = read(fuse, &request, sizeof request);

		if (n < 0 && errno == ENODEV) /* unmounted */
			return arg;
		if (n < 0) {
			CHECK(errno == ENOENT || errno == EINTR || errno == EAGAIN);
			continue;
		}
		one(&request.in);
	}
}

static void *uses(void *arg)
{
	intptr_t me = (intptr_t)arg, wrong = 0;
	char path[64], text[8];
	struct stat st;

	for (int i = 0; i < TURNS; i++) {
		int file = (int)(me * TURNS + i) % FILES, fd;

		snprintf(path, sizeof path, "%s/%d", where, file);
		wrong += stat(path, &st) || st.st_size != 8;
		fd = OK(open(path, O_RDONLY));
		wrong += read(fd, text, sizeof text) != 8 || text[7] != file + 2;
		close(fd);
	}
	return (void *)wrong;
}

int main(void)
{
	pthread_t server, user[USERS];
	struct pair pair;
	char options[128];
	intptr_t wrong = 0;

	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0) {
		say_to(2, "skipped: /dev/fuse cannot be opened: %s", err_name(errno));
		return 77;
	}
	CHECK(mkdtemp(where));
	/* Not for others to see, nor to be left there. */
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		say_to(2, "skipped: no mounts of its own: %s", err_name(errno));
		rmdir(where);
		return 77;
	}
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%d,group_id=%d",
		fuse, (int)getuid(), (int)getgid());
	if (mount("own_fuse", where, "fuse", MS_NOSUID | MS_NODEV, options)) {
		say_to(2, "skipped: no file system can be mounted: %s", err_name(errno));
		rmdir(where);
		return 77;
	}
	server = start(serves, NULL);
	pair_start(&pair, ASKED, 20);
	for (int i = 0; i < USERS; i++)
		user[i] = start(uses, (void *)(intptr_t)i);
	for (int i = 0; i < USERS; i++)
		wrong += (intptr_t)finish(user[i]);
	OK(umount2(where, MNT_DETACH));
	finish(server);
	wrong += pair_finish(&pair) != ASKED;
	rmdir(where);
	say("%d threads, %d wrong", USERS, (int)wrong);
	return 0;
}
