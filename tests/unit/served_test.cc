// runtime/descriptor.c, file.c: files that another process answers for.
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#include "on_fibers.h"

namespace
{

const size_t SIZE = 4096;

/*
 * A file system by the kernel's own protocol (fuse(4)), of files whose names are numbers.
 * Reads and writes are answered when there are so many at once, or with EIO after ten
 * seconds.
 */
class Server
{
	int fd;
	size_t together;
	std::vector<std::vector<char>> held;

	template <typename T> void answer(uint64_t unique, const T &body, size_t size)
	{
		std::vector<char> all(sizeof(fuse_out_header) + size);
		fuse_out_header out = {(uint32_t)all.size(), 0, unique};

		memcpy(all.data(), &out, sizeof out);
		memcpy(all.data() + sizeof out, (const char *)&body, size);
		OK(write(fd, all.data(), all.size()));
	}
	template <typename T> void answer(uint64_t unique, const T &body)
	{
		answer(unique, body, sizeof body);
	}
	void fail(uint64_t unique, int error)
	{
		fuse_out_header out = {sizeof out, error ? -error : 0, unique};

		OK(write(fd, &out, sizeof out));
	}
	static fuse_attr attributes(uint64_t node)
	{
		fuse_attr a = {};

		a.ino = node;
		a.size = node == 1 ? 0 : 1 << 20;
		a.mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644;
		a.nlink = 1;
		a.blksize = 4096;
		return a;
	}
	void answer_held(int error)
	{
		for (auto &request : held) {
			const fuse_in_header &in = *(fuse_in_header *)request.data();

			if (error)
				fail(in.unique, error);
			else if (in.opcode == FUSE_READ)
				answer(in.unique, std::array<char, SIZE>{});
			else
				answer(in.unique, fuse_write_out{SIZE, 0});
		}
		held.clear();
	}
	void serve(const std::vector<char> &request)
	{
		const fuse_in_header &in = *(const fuse_in_header *)request.data();
		fuse_init_out init = {};
		fuse_attr_out attr = {};
		fuse_entry_out entry = {};
		fuse_open_out open = {};

		switch (in.opcode) {
		case FUSE_INIT:
			init.major = FUSE_KERNEL_VERSION;
			init.minor = FUSE_KERNEL_MINOR_VERSION;
			init.max_write = 65536;
			answer(in.unique, init);
			break;
		case FUSE_GETATTR:
			attr.attr_valid = 1000;
			attr.attr = attributes(in.nodeid);
			answer(in.unique, attr);
			break;
		case FUSE_LOOKUP:
			// A write has its file alone: each way has one, 0, 1, 2 …
			entry.nodeid = 2u + (uint64_t)atoi((const char *)(&in + 1));
			entry.entry_valid = entry.attr_valid = 1000;
			entry.attr = attributes(entry.nodeid);
			answer(in.unique, entry);
			break;
		case FUSE_OPEN:
			open.open_flags = FOPEN_DIRECT_IO;
			answer(in.unique, open);
			break;
		case FUSE_STATFS:
			answer(in.unique, fuse_statfs_out{});
			break;
		case FUSE_READ:
		case FUSE_WRITE:
			held.push_back(request);
			if (held.size() == together)
				answer_held(0);
			break;
		case FUSE_RELEASE:
			fail(in.unique, 0);
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			fail(in.unique, ENOSYS);
		}
	}

      public:
	Server(int fd, size_t together) : fd(fd), together(together) {}
	// Until it is unmounted.
	void run()
	{
		std::vector<char> request(FUSE_MIN_READ_BUFFER + 65536);

		for (;;) {
			struct pollfd p = {fd, POLLIN, 0};

			if (OK(poll(&p, 1, held.empty() ? -1 : 10000)) == 0) {
				answer_held(EIO);
				continue;
			}
			ssize_t n = read(fd, request.data(), request.size());
			if (n < 0 && errno == ENODEV)
				return;
			if (n > 0)
				serve({request.begin(), request.begin() + n});
		}
	}
};

// Where it is mounted, for this process and its children; empty, and errno, if it cannot.
std::string mounted(size_t together)
{
	char dir[] = "/tmp/weft-served-XXXXXX";
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0 || unshare(CLONE_NEWNS) ||
		mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr))
		return {};
	OK((long)mkdtemp(dir) ? 0 : -1);
	std::string options = "fd=" + std::to_string(fd) +
			      ",rootmode=40000,user_id=0,group_id=0,allow_other";
	int r = mount("weft", dir, "fuse", MS_NOSUID | MS_NODEV, options.c_str());
	int err = errno;

	if (r == 0 && fork() == 0) {
		/* The mount ends with the last process of the name space: not with it. */
		OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
		Server(fd, together).run();
		_exit(0);
	}
	close(fd);
	errno = err;
	return r ? std::string() : dir;
}

// One carrier, and nobody who would find that it is stuck: the server answers only when
// all of them have asked.
TEST(Served, TransfersDoNotHoldACarrier)
{
	enum { WAYS = 4 };
	std::string dir = mounted(WAYS);

	if (dir.empty())
		GTEST_SKIP() << "no FUSE for this user here: " << strerror(errno);
	int fd[WAYS];

	for (int i = 0; i < WAYS; i++)
		fd[i] = OK(open((dir + "/" + std::to_string(i)).c_str(), O_RDWR));
	on_runtime({1}, [&] {
		static char buf[WAYS][SIZE];
		Fibers fibers;

		// This number was another file's, of which it is known that it is not.
		fibers.start([&] {
			struct iovec v = {buf[0], 1};
			int number = OK(memfd_create("memory", MFD_CLOEXEC));

			EXPECT_EQ(weft_io_pwrite(number, &v, 1, 0, 0), 1);
			weft_io_closing((unsigned)number, (unsigned)number);
			OK(dup2(fd[0], number));
			fd[0] = number;
		});
		fibers.join();
		for (int i = 0; i < WAYS; i++)
			fibers.start([i, &fd] {
				struct iovec v = {buf[i], SIZE};
				long r = i == 0 ? weft_io_read(
							  fd[i], &v, 1, WEFT_TRIED_NOT)
					 : i == 1 ? weft_io_write(
							    fd[i], &v, 1, WEFT_TRIED_NOT)
					 : i == 2 ? weft_io_pread(fd[i], &v, 1, 0, 0)
						  : weft_io_pwrite(fd[i], &v, 1, 0, 0);

				EXPECT_EQ(r, (long)SIZE) << "way " << i;
			});
		fibers.join();
	});
	for (int one : fd)
		close(one);
	umount2(dir.c_str(), MNT_DETACH);
	rmdir(dir.c_str());
}

// Memory cannot say what is in memory either: only the file system is asked, once.
TEST(Served, MemoryIsReadInPlace)
{
	on_runtime({1}, [] {
		int fd = OK(memfd_create("memory", MFD_CLOEXEC));
		char c = 'x';
		struct iovec v = {&c, 1};
		Fibers fibers;

		fibers.start([&] {
			EXPECT_EQ(weft_io_write(fd, &v, 1, WEFT_TRIED_NOT), 1);
			uint64_t before = counted(WEFT_COUNTER_OFFLOADS);
			for (int i = 0; i < 10; i++) {
				EXPECT_EQ(weft_io_pread(fd, &v, 1, 0, 0), 1);
				EXPECT_EQ(weft_io_pwrite(fd, &v, 1, 0, 0), 1);
			}
			EXPECT_EQ(counted(WEFT_COUNTER_OFFLOADS), before);
		});
		fibers.join();
		close(fd);
	});
}

} // namespace
