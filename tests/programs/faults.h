/* faults.h - memory whose missing pages a thread of the program's serves. */
#ifndef TESTS_PROGRAMS_FAULTS_H
#define TESTS_PROGRAMS_FAULTS_H

#include "prog.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define PAGE 4096

/* `size` bytes at *ret_memory, and the descriptor that tells of faults there; the program
 * ends as skipped where the kernel refuses one. */
static int faults_open(int flags, size_t size, char **ret_memory)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register all;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);

	if (fd < 0) {
		say_to(2, "skipped: userfaultfd is refused: %s", err_name(errno));
		exit(77);
	}
	OK(ioctl(fd, UFFDIO_API, &api));
	*ret_memory = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(*ret_memory != MAP_FAILED);
	all = (struct uffdio_register){.range = {(uint64_t)*ret_memory, size},
		.mode = UFFDIO_REGISTER_MODE_MISSING};
	OK(ioctl(fd, UFFDIO_REGISTER, &all));
	return fd;
}

/* The n-th page of memory becomes one full of n + 1; the result is ioctl(2)'s. */
static int faults_serve(int fd, char *memory, size_t n)
{
	char page[PAGE] __attribute__((aligned(PAGE)));
	struct uffdio_copy copy = {
		.dst = (uint64_t)memory + n * PAGE, .src = (uint64_t)page, .len = PAGE};

	memset(page, (int)n + 1, PAGE);
	return ioctl(fd, UFFDIO_COPY, &copy);
}

#endif
