/* Writing to what nobody reads: EPIPE, and SIGPIPE to the thread that wrote. */
#include "prog.h"

#include <sys/uio.h>

static volatile sig_atomic_t handled;
static __thread volatile sig_atomic_t handled_here;

static void handler(int sig)
{
	(void)sig;
	handled++;
	handled_here++;
}

static ssize_t try(int way, int fd)
{
	struct iovec iov = {(void *)"x", 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	switch (way) {
	case 0:
		return write(fd, "x", 1);
	case 1:
		return writev(fd, &iov, 1);
	case 2:
		return send(fd, "x", 1, 0);
	case 3:
		return sendmsg(fd, &msg, 0);
	case 4:
		return send(fd, "x", 1, MSG_NOSIGNAL);
	default:
		return sendmsg(fd, &msg, MSG_NOSIGNAL);
	}
}

static void all_ways(const char *what)
{
	static const char *const names[] = {"write", "writev", "send", "sendmsg",
		"send NOSIGNAL", "sendmsg NOSIGNAL"};
	/* Only streams and pipes send the signal. */
	enum { SOCKET, PIPE, PACKETS, DATAGRAMS, KINDS };
	static const char *const kinds[] = {"socket", "pipe", "packets", "datagrams"};
	static const int types[] = {SOCK_STREAM, 0, SOCK_SEQPACKET, SOCK_DGRAM};
	int fds[2];

	for (int kind = 0; kind < KINDS; kind++) {
		if (kind == PIPE)
			OK(pipe(fds));
		else
			OK(socketpair(AF_UNIX, types[kind], 0, fds));
		if (kind == DATAGRAMS)
			OK(shutdown(fds[1], SHUT_WR));
		OK(close(fds[0]));
		for (int i = 0; i < (kind == PIPE ? 2 : 6); i++) {
			int before = handled_here, before_all = handled;
			ssize_t n = try(i, fds[1]);
			int err = errno;

			say("%s, %s, %s: %zd %s, handler here %d, anywhere %d", what,
				kinds[kind], names[i], n, err_name(err),
				handled_here - before, handled - before_all);
		}
		OK(close(fds[1]));
	}
}

static void *run(void *arg)
{
	sigset_t set, old;
	struct timespec zero = {0, 0};
	int fds[2];

	all_ways(arg);
	/* The idiom of libraries: block it, write, take it back if it came. */
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, &old));
	OK(pipe(fds));
	OK(close(fds[0]));
	ssize_t n = write(fds[1], "x", 1);
	say("blocked: %zd %s", n, err_name(errno));
	sigpending(&set);
	say("pending: %d", sigismember(&set, SIGPIPE));
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	say("taken: %d", sigtimedwait(&set, NULL, &zero));
	say("taken again: %d", sigtimedwait(&set, NULL, &zero));
	ZERO(pthread_sigmask(SIG_SETMASK, &old, NULL));
	OK(close(fds[1]));
	return NULL;
}

/* The default kills the whole process, whichever thread wrote. */
static void *dies(void *arg)
{
	int fds[2];

	OK(pipe(fds));
	OK(close(fds[0]));
	write(fds[1], "x", 1);
	say("not reached");
	return arg;
}

static void *ignores(void *arg)
{
	all_ways(arg);
	return NULL;
}

int main(void)
{
	struct sigaction sa = {.sa_handler = handler};
	int status;

	OK(sigaction(SIGPIPE, &sa, NULL));
	on_thread(run, (void *)"handler");
	signal(SIGPIPE, SIG_IGN);
	on_thread(ignores, (void *)"ignored");
	signal(SIGPIPE, SIG_DFL);
	pid_t pid = OK(fork());
	if (pid == 0) {
		on_thread(dies, NULL);
		_exit(0);
	}
	OK(waitpid(pid, &status, 0));
	say("default: %s", describe_status(status));
	return 0;
}
