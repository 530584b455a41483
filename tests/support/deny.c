/*
 * deny.c - run a command where something that weft would like is refused
 *
 *   deny WHAT CMD ARG…
 *
 * uring-eperm    the io_uring calls fail with EPERM, as in containers
 * uring-enosys   … with ENOSYS, as on old kernels
 * uring-kill     … kill the process, as some hardened units do
 * pwait2         epoll_pwait2 fails with EPERM, as under profiles older than it
 * mdwe           no page may become executable that was writable (PR_SET_MDWE)
 * guard-enosys   MADV_GUARD_INSTALL fails with EINVAL, as before Linux 6.13
 * stack          RLIMIT_STACK unlimited
 *
 * Exit status 77 with a reason if the kernel cannot refuse it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define LOAD(field)                                                                      \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(value, then, otherwise)                                                       \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)

static int skip(const char *why)
{
	printf("%s: %s\n", why, strerror(errno));
	return 77;
}

static int install(struct sock_filter *code, size_t n)
{
	struct sock_fprog prog = {(unsigned short)n, code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int deny_uring(unsigned what)
{
	struct sock_filter code[] = {
		LOAD(arch),
		IF(AUDIT_ARCH_X86_64, 0, 4),
		LOAD(nr),
		IF(SYS_io_uring_setup, 3, 0),
		IF(SYS_io_uring_enter, 2, 0),
		IF(SYS_io_uring_register, 1, 0),
		RETURN(SECCOMP_RET_ALLOW),
		RETURN(what),
	};

	return install(code, sizeof code / sizeof *code);
}

static int deny_call(unsigned nr, unsigned what)
{
	struct sock_filter code[] = {
		LOAD(arch),
		IF(AUDIT_ARCH_X86_64, 0, 2),
		LOAD(nr),
		IF(nr, 1, 0),
		RETURN(SECCOMP_RET_ALLOW),
		RETURN(what),
	};

	return install(code, sizeof code / sizeof *code);
}

static int deny_guard(void)
{
	struct sock_filter code[] = {
		LOAD(arch),
		IF(AUDIT_ARCH_X86_64, 0, 4),
		LOAD(nr),
		IF(SYS_madvise, 0, 2),
		LOAD(args[2]),
		IF(MADV_GUARD_INSTALL, 1, 0),
		RETURN(SECCOMP_RET_ALLOW),
		RETURN(SECCOMP_RET_ERRNO | EINVAL),
	};

	return install(code, sizeof code / sizeof *code);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
	int r;

	if (strcmp(what, "uring-eperm") == 0) {
		r = deny_uring(SECCOMP_RET_ERRNO | EPERM);
	} else if (strcmp(what, "uring-enosys") == 0) {
		r = deny_uring(SECCOMP_RET_ERRNO | ENOSYS);
	} else if (strcmp(what, "uring-kill") == 0) {
		r = deny_uring(SECCOMP_RET_KILL_PROCESS);
	} else if (strcmp(what, "pwait2") == 0) {
		r = deny_call(SYS_epoll_pwait2, SECCOMP_RET_ERRNO | EPERM);
	} else if (strcmp(what, "guard-enosys") == 0) {
		r = deny_guard();
	} else if (strcmp(what, "mdwe") == 0) {
		r = prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
	} else if (strcmp(what, "stack") == 0) {
		r = setrlimit(RLIMIT_STACK, &unlimited);
	} else {
		fputs("usage: deny "
		      "uring-eperm|uring-enosys|uring-kill|pwait2|guard-enosys|mdwe|stack"
		      " CMD ARG…\n",
			stderr);
		return 2;
	}
	if (r < 0)
		return skip(what);
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
