/*
 * System calls that meet memory which another thread of the process serves (userfaultfd):
 * the kernel waits inside them, and no signal ends that. The thread that serves them
 * waits for the next fault by read, poll or select, and between by sleeps and a socket;
 * it must have its turn whatever is stuck.
 */
#include "prog.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/syscall.h>

#define WRITERS 16
#define PAGES   640 /* for each way to wait */
#define PAGE    4096

enum way { BY_READ, BY_POLL, BY_SELECT, WAYS };
static const char *const names[] = {"read", "poll", "select"};

static int uffd, next_page, stop[2];
static enum way way;
static char *memory;

/* False: there is none, and it is to end. */
static bool waits_for_one(void)
{
	struct pollfd p[2] = {{uffd, POLLIN, 0}, {stop[0], POLLIN, 0}};
	fd_set set;

	switch (way) {
	case BY_POLL:
		OK(poll(p, 2, -1));
		return !p[1].revents;
	case BY_SELECT:
		FD_ZERO(&set);
		FD_SET(uffd, &set);
		FD_SET(stop[0], &set);
		OK(select((uffd > stop[0] ? uffd : stop[0]) + 1, &set, NULL, NULL, NULL));
		return !FD_ISSET(stop[0], &set);
	default:
		return true;
	}
}

static void *serves(void *arg)
{
	char page[PAGE] __attribute__((aligned(PAGE)));
	struct uffd_msg msg;

	/* By read alone it ends with the last page. */
	for (bool last = false; !last && waits_for_one();) {
		ssize_t r = read(uffd, &msg, sizeof msg);

		if (r < 0 && errno == EAGAIN)
			continue;
		CHECK(r == sizeof msg && msg.event == UFFD_EVENT_PAGEFAULT);
		size_t n = (msg.arg.pagefault.address - (uint64_t)memory) / PAGE;

		last = way == BY_READ && n == PAGES;
		memset(page, (int)n + 1, PAGE);
		struct uffdio_copy copy = {.dst = (uint64_t)memory + n * PAGE,
			.src = (uint64_t)page,
			.len = PAGE};

		if (n % 8 == 0)
			usleep(100);
		CHECK(!ioctl(uffd, UFFDIO_COPY, &copy) || errno == EEXIST);
	}
	return arg;
}

static void *writes(void *arg)
{
	intptr_t wrong = 0;
	int ends[2];
	char c;

	OK(pipe(ends));
	for (;;) {
		int n = __atomic_fetch_add(&next_page, 1, __ATOMIC_SEQ_CST);

		if (n >= PAGES)
			break;
		CHECK(write(ends[1], memory + (size_t)n * PAGE, 1) == 1);
		CHECK(read(ends[0], &c, 1) == 1);
		wrong += c != (char)(n + 1);
	}
	close(ends[0]);
	close(ends[1]);
	(void)arg;
	return (void *)wrong;
}

/* Waits all the time, on one carrier after the other. */
static void *relays(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char c;

	while (read(fd, &c, 1) == 1 && send(fd, &c, 1, MSG_NOSIGNAL) == 1) {
	}
	return arg;
}

static void one_way(void)
{
	const size_t size = (size_t)(PAGES + 1) * PAGE;
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register all;
	pthread_t server, writer[WRITERS], relay[2];
	int pair[2];
	intptr_t wrong = 0;

	uffd = (int)syscall(
		SYS_userfaultfd, O_CLOEXEC | (way != BY_READ ? O_NONBLOCK : 0));
	if (uffd < 0) {
		say_to(2, "skipped: userfaultfd is refused: %s", err_name(errno));
		exit(77);
	}
	OK(ioctl(uffd, UFFDIO_API, &api));
	memory = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	all = (struct uffdio_register){
		.range = {(uint64_t)memory, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	OK(ioctl(uffd, UFFDIO_REGISTER, &all));
	OK(pipe(stop));
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	next_page = 0;
	server = start(serves, NULL);
	for (int i = 0; i < 2; i++)
		relay[i] = start(relays, (void *)(intptr_t)pair[i]);
	CHECK(write(pair[0], "x", 1) == 1);
	for (int i = 0; i < WRITERS; i++)
		writer[i] = start(writes, NULL);
	for (int i = 0; i < WRITERS; i++)
		wrong += (intptr_t)finish(writer[i]);
	if (way == BY_READ)
		wrong += memory[(size_t)PAGES * PAGE] != (char)(PAGES + 1);
	else
		CHECK(write(stop[1], "", 1) == 1);
	finish(server);
	shutdown(pair[0], SHUT_RDWR);
	for (int i = 0; i < 2; i++)
		finish(relay[i]);
	for (int i = 0; i < 2; i++) {
		close(pair[i]);
		close(stop[i]);
	}
	close(uffd);
	munmap(memory, size);
	say("%s: %d pages, %d wrong", names[way], PAGES, (int)wrong);
}

int main(void)
{
	for (; way < WAYS; way++)
		one_way();
	return 0;
}
