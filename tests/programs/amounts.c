/*
 * Receives that wait for an amount: MSG_WAITALL, with and without MSG_PEEK, and
 * SO_RCVLOWAT, by recv and recvmsg, on TCP and UNIX streams. Each is ended in every way
 * there is: enough, the end, a reset, a time-out, signals, urgent data, descriptors,
 * another writer. And sends that are cut short: who tells why, and when.
 */
#include "prog.h"

#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static int fds[2];
static bool tcp;
static volatile sig_atomic_t handled;

static void new_pair(void)
{
	if (tcp)
		tcp_pair(fds);
	else
		unix_pair(fds);
}

static void end_pair(void)
{
	OK(close(fds[0]));
	if (fds[1] >= 0)
		OK(close(fds[1]));
}

/* ---- what the peer does, bit by bit ---------------------------------------- */

static void resets(void)
{
	struct linger l = {1, 0};

	OK(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &l, sizeof l));
	OK(close(fds[1]));
	fds[1] = -1;
}

static void sends_descriptor(void)
{
	char text[] = "def", control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = {text, 3};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd = 1;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	OK(sendmsg(fds[1], &m, 0));
}

/* Each letter one step: a digit that many bytes, E the end, R a reset, O urgent data,
 * D three bytes with a descriptor, P bytes by another process, S a signal to the reader.
 */
struct plan {
	const char *steps;
	pthread_t reader;
	volatile int *done;
};

static void *follows(void *arg)
{
	const struct plan *p = (const struct plan *)arg;
	static const char bytes[] = "abcdefghijklmnopqrstuvwxyz";
	size_t at = 0;

	for (const char *s = p->steps; *s; s++) {
		usleep(15000);
		switch (*s) {
		case 'E':
			OK(shutdown(fds[1], SHUT_WR));
			break;
		case 'R':
			resets();
			break;
		case 'O':
			OK(send(fds[1], "!", 1, MSG_OOB));
			break;
		case 'D':
			sends_descriptor();
			break;
		case 'S':
			ZERO(pthread_kill(p->reader, SIGUSR1));
			break;
		case 'P': {
			pid_t pid = OK(fork());
			if (!pid) {
				send_all(fds[1], "xyz", 3);
				_exit(0);
			}
			OK(waitpid(pid, NULL, 0));
			break;
		}
		default:
			send_all(fds[1], bytes + at, (size_t)(*s - '0'));
			at += (size_t)(*s - '0');
		}
	}
	return NULL;
}

/* ---- the ways to receive ---------------------------------------------------- */

enum way { RECV, MSG, MSG_NARROW, MSG_MANY, WAYS };
static const char *const names[] = {"recv", "recvmsg", "recvmsg, no control", "20 parts"};

static char buf[64];

static const char *receive(enum way way, size_t len, int flags)
{
	char control[256];
	struct sockaddr_storage name;
	struct iovec iov[24];
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
	const char *r;

	memset(buf, 0, sizeof buf);
	if (way == RECV)
		return RESULT(recv(fds[0], buf, len, flags));
	iov[0] = (struct iovec){buf, 2};
	iov[1] = (struct iovec){buf + 2, len - 2};
	if (way == MSG) {
		m.msg_control = control;
		m.msg_controllen = sizeof control;
		m.msg_name = &name;
		m.msg_namelen = sizeof name;
	} else if (way == MSG_MANY) {
		for (int i = 0; i < 19; i++)
			iov[i] = (struct iovec){buf + (i < 10 ? i : 10), i < 10};
		iov[19] = (struct iovec){buf + 10, len - 10};
		m.msg_iovlen = 20;
	}
	r = RESULT(recvmsg(fds[0], &m, flags));
	if (r[0] == '-')
		return r;
	r = brief("%s, flags %x, control %zu, name %u", r, m.msg_flags, m.msg_controllen,
		m.msg_namelen);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_type == SCM_RIGHTS)
			OK(close(*(int *)(void *)CMSG_DATA(c)));
	return r;
}

static void left(void)
{
	int n;

	memset(buf, 0, sizeof buf);
	n = (int)recv(fds[0], buf, sizeof buf, MSG_DONTWAIT);
	say("    left: %s %s", n < 0 ? err_name(errno) : brief("%d", n), buf);
}

static void one(const char *what, enum way way, size_t len, int flags, const char *steps)
{
	struct plan p = {steps, pthread_self(), NULL};
	const char *r;
	pthread_t t;

	t = start(follows, &p);
	r = receive(way, len, flags);
	say("%s %s: %s: %s %.*s", tcp ? "tcp" : "unix", names[way], what, r, 40, buf);
	finish(t);
	left();
}

static void with_pair(
	const char *what, enum way way, size_t len, int flags, const char *steps)
{
	new_pair();
	one(what, way, len, flags, steps);
	left();
	end_pair();
}

static void with_option(const char *what, enum way way, size_t len, int flags,
	const char *steps, int option, int value)
{
	struct timeval tv = {value / 1000, value % 1000 * 1000};

	new_pair();
	if (option == SO_RCVTIMEO)
		OK(setsockopt(fds[0], SOL_SOCKET, option, &tv, sizeof tv));
	else
		OK(setsockopt(fds[0], SOL_SOCKET, option, &value, sizeof value));
	one(what, way, len, flags, steps);
	value = 1;
	if (option == SO_RCVLOWAT)
		OK(setsockopt(fds[0], SOL_SOCKET, option, &value, sizeof value));
	left();
	end_pair();
}

static void handler(int sig)
{
	(void)sig;
	handled++;
}

static void on_signal(int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	OK(sigaction(SIGUSR1, &sa, NULL));
}

static void all_of_it(enum way way)
{
	const int all = MSG_WAITALL;

	with_pair("in parts", way, 15, all, "357");
	with_pair("more than that", way, 12, all, "359");
	with_pair("the end", way, 15, all, "34E");
	with_pair("nothing, the end", way, 15, all, "E");
	with_pair("a reset", way, 15, all, "34R");
	with_pair("nothing, a reset", way, 15, all, "R");
	with_option("a time-out", way, 15, all, "34", SO_RCVTIMEO, 150);
	with_option("nothing in time", way, 15, all, "", SO_RCVTIMEO, 30);
	on_signal(SA_RESTART);
	with_pair("a restarting signal", way, 12, all, "3S4");
	with_pair("a restarting signal first", way, 12, all, "S39");
	with_option("the same with a time-out", way, 12, all, "S39", SO_RCVTIMEO, 5000);
	on_signal(0);
	with_pair("a signal", way, 12, all, "3S4");
	with_pair("a signal first", way, 12, all, "S39");
	if (tcp) {
		with_pair("urgent data", way, 20, all, "3O49");
		with_pair("urgent data first", way, 16, all, "O499");
	} else {
		with_pair("a descriptor", way, 15, all, "3D36");
		with_pair("a descriptor first", way, 15, all, "D36");
		with_option("another writer", way, 15, all, "3P3E", SO_PASSCRED, 1);
	}
}

static void looks(enum way way)
{
	const int all = MSG_WAITALL | MSG_PEEK;

	if (tcp) { /* UNIX sockets are content with anything */
		with_pair("looks, in parts", way, 15, all, "357");
		with_pair("looks, the end", way, 15, all, "34E");
		with_pair("looks, a reset", way, 15, all, "34R");
		with_option("looks, a time-out", way, 15, all, "34", SO_RCVTIMEO, 200);
		with_pair("looks, a signal", way, 15, all, "34S");
	} else {
		with_pair("looks", way, 15, all, "3");
	}
	with_pair("looks, nothing, the end", way, 15, all, "E");
	with_option("looks, nothing in time", way, 15, all, "", SO_RCVTIMEO, 30);
	with_pair("looks, a signal first", way, 15, all, "S");
}

static void low_water(enum way way)
{
	with_option("low water", way, 40, 0, "99", SO_RCVLOWAT, 12);
	with_option("low water, the end", way, 40, 0, "34E", SO_RCVLOWAT, 12);
	with_option("low water, a look", way, 40, MSG_PEEK, tcp ? "99" : "9", SO_RCVLOWAT,
		12);
	with_option("low water, nothing", way, 40, 0, "E", SO_RCVLOWAT, 12);
	with_option("low water, a signal", way, 40, 0, "9S", SO_RCVLOWAT, 12);
	with_option("low water, all", way, 18, MSG_WAITALL, "99", SO_RCVLOWAT, 4);
}

/* ---- sends that are cut short ----------------------------------------------- */

static volatile sig_atomic_t pipes_broken;

static void broken(int sig)
{
	(void)sig;
	pipes_broken++;
}

static int writes_to;
static char much[16 << 20]; /* more than a TCP connection's two ends can ever hold */

static void *takes_some_and_goes(void *arg)
{
	char some[1000];

	usleep(30000);
	OK(read(fds[0], some, sizeof some));
	usleep(30000);
	if (arg)
		(void)recv(fds[0], some, 0, 0);
	OK(close(fds[0]));
	return NULL;
}

static void cut_short(const char *what, long (*call)(void))
{
	pthread_t t = start(takes_some_and_goes, NULL);
	long n;
	const char *then, *later;

	pipes_broken = 0;
	n = call();
	finish(t);
	int at_once = pipes_broken;
	then = RESULT(write(writes_to, "x", 1));
	int after = pipes_broken;
	later = RESULT(write(writes_to, "x", 1));
	say("%s: a part %d, signals %d; then %s, %d; then %s, %d", what,
		n > 0 && n < (long)sizeof much, at_once, then, after, later,
		pipes_broken);
	OK(close(writes_to));
}

static long by_write(void)
{
	return write(writes_to, much, sizeof much);
}

static long by_writev(void)
{
	struct iovec iov[2] = {{much, 100}, {much + 100, sizeof much - 100}};

	return writev(writes_to, iov, 2);
}

static long by_send(void)
{
	return send(writes_to, much, sizeof much, 0);
}

static long by_sendmsg(void)
{
	struct iovec iov[2] = {{much, 100}, {much + 100, sizeof much - 100}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};

	return sendmsg(writes_to, &m, 0);
}

static void *cuts(void *arg)
{
	static const struct {
		const char *name;
		long (*call)(void);
		bool socket;
	} calls[] = {{"write", by_write, false}, {"writev", by_writev, false},
		{"send", by_send, true}, {"sendmsg", by_sendmsg, true}};

	signal(SIGPIPE, broken);
	for (int i = 0; i < 4; i++) {
		if (!calls[i].socket) {
			OK(pipe(fds));
			writes_to = fds[1];
			cut_short(brief("pipe, %s", calls[i].name), calls[i].call);
		}
		for (int k = 0; k < 2; k++) {
			tcp = k;
			new_pair();
			writes_to = fds[1];
			cut_short(brief("%s, %s", tcp ? "tcp" : "unix", calls[i].name),
				calls[i].call);
		}
	}
	return arg;
}

/* ---- everything ------------------------------------------------------------- */

static void *one_way(void *arg)
{
	const enum way way = *(const enum way *)arg;

	for (int k = 0; k < 2; k++) {
		tcp = k;
		all_of_it(way);
		looks(way);
		low_water(way);
	}
	return NULL;
}

/* It waits nearly all of its time: each way has a process, so that they wait together. */
int main(void)
{
	pid_t pids[WAYS];
	int told[WAYS];
	ssize_t n;

	for (int w = 0; w < WAYS; w++) {
		told[w] = OK(memfd_create("told", 0));
		pids[w] = OK(fork());
		if (!pids[w]) {
			enum way way = (enum way)w;

			OK(dup2(told[w], STDOUT_FILENO));
			on_thread(one_way, &way);
			return 0;
		}
	}
	for (int w = 0; w < WAYS; w++) {
		int status;

		OK(waitpid(pids[w], &status, 0));
		OK(lseek(told[w], 0, SEEK_SET));
		while ((n = OK(read(told[w], much, sizeof much))) > 0)
			OK(write(STDOUT_FILENO, much, (size_t)n));
		say("%s: exit status %d", names[w], status);
	}
	on_thread(cuts, NULL);
	return 0;
}
