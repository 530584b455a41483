/*
 * load.c - the load generator of the demo, the benchmark and the tests.
 *
 * It answers for three claims: N connections really were open and served at
 * the same time; every byte that came back is the one that had to come back;
 * and what that cost the server. One thread, epoll, a closed loop: each
 * connection has one exchange under way and starts the next when it is done.
 *
 * A run goes through these phases:
 *
 *	open	connect all N, a bounded number at a time. Each connection is
 *		proven by one verified exchange and then kept open. With
 *		--per-request, where a server closes after each answer, all N
 *		send half a request instead and wait until the server has
 *		accepted them all, so N requests are in its hands.
 *	look	with all N held: the server's threads, memory and so on
 *	halves	(--per-request only) send the other halves, verify the answers
 *	run	warm up, then measure for the time asked for
 *	drain	let what is under way end. An exchange that does not is an
 *		error: this is where a lost wake-up shows.
 *	close	and see whether the server closes them, too
 *
 * Exit status 0 only without any error or mismatch; 1 otherwise; 2 for wrong
 * usage. The result is one line of key=value on stdout, errors are told on
 * stderr (the first ten).
 *
 * Edge-triggered epoll: whoever stops reading before EAGAIN does so because
 * an exchange is complete, and then only new bytes matter, which are a new
 * edge. TLS is no exception, for read-ahead is off.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../demos/body.h"

#define SECOND      1000000000u
#define HEAD_MAX    1024 /* of a response */
#define REQUEST_MAX 192
/*
 * Connects under way at once. Below every listen backlog in use, so that no
 * SYN is dropped and retried a second later.
 */
#define OPENING_MAX 128
/* Linux has some 28,000 ephemeral ports for one pair of addresses. */
#define CONNS_PER_SOURCE 20000
#define ERRORS_TOLD      10
#define TREE_MAX         64

enum mode { MODE_ECHO, MODE_HTTP, MODE_HTTPS, MODE_SOCKS5, MODE_PROXY };

enum stage {
	CLOSED,
	CONNECTING,
	TLS,
	SOCKS_METHOD,  /* greeting sent, the 2-byte choice awaited */
	SOCKS_CONNECT, /* request sent, the 10-byte answer awaited */
	HALF,          /* half a request sent; the rest is held back */
	IDLE,          /* open, proven, nothing under way */
	BUSY,          /* an exchange is under way */
};

enum phase { OPEN, HALVES, RUN, DRAIN };

struct conn {
	int fd;
	enum stage stage;
	SSL *ssl;
	uint64_t begun_ns;
	const unsigned char *out;
	uint32_t out_len, out_done, out_limit; /* limit: may be sent now */
	const unsigned char *body;             /* what must come back */
	uint32_t body_len, body_done;
	uint32_t head_len;
	bool in_body;
	uint32_t idle_slot;
	unsigned char request[REQUEST_MAX];
	char head[HEAD_MAX];
};

static struct {
	enum mode mode;
	const char *mode_name;
	uint16_t port, target;
	uint32_t conns, active;
	double seconds, warmup_s, timeout_s;
	int pid;
	uint32_t min_bytes, max_bytes;
	bool per_request;
	uint64_t seed;
	const char *ca_file;
} opt = {
	.conns = 100,
	.seconds = 3,
	.warmup_s = 0.3,
	.timeout_s = 20,
	.min_bytes = 1,
	.max_bytes = 1024,
	.seed = 1,
};

static struct conn *conns;
static uint32_t *idle; /* indices of the IDLE ones */
static uint32_t idle_count;
static uint32_t next_open, opening; /* OPEN: the next to connect; under way */
static uint32_t proven;             /* OPEN: reached IDLE, or HALF */
static uint32_t under_way;          /* exchanges not ended yet */
static uint32_t dead;
static enum phase phase;
static bool measuring;
static int epoll_fd;
static SSL_CTX *tls;
static uint64_t random_state;

static uint64_t errors, mismatches;
static uint64_t requests, verified, verified_bytes; /* measured; in all */
static uint64_t last_progress_ns;

/* ------------------------------------------------------------------ */
/* Small helpers                                                       */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint32_t random_below(uint32_t n)
{
	return (uint32_t)((random_next() >> 32) * n >> 32);
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("load: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(2);
}

/* ------------------------------------------------------------------ */
/* Latencies: 64 steps an octave, so within 1.6 %                      */

#define STEPS 64
static uint64_t histogram[STEPS * 59];
static uint64_t latency_max;

static void latency_add(uint64_t ns)
{
	unsigned int slot;

	if (ns < STEPS) {
		slot = (unsigned int)ns;
	} else {
		unsigned int octave = 63 - (unsigned int)__builtin_clzll(ns);

		slot = (octave - 5) * STEPS +
		       (unsigned int)((ns >> (octave - 6)) & (STEPS - 1));
	}
	histogram[slot]++;
	if (ns > latency_max)
		latency_max = ns;
}

static double latency_us(double quantile)
{
	uint64_t wanted = (uint64_t)((double)requests * quantile), sum = 0;

	for (unsigned int i = 0; i < STEPS * 59; i++) {
		unsigned int octave = i / STEPS + 5;

		sum += histogram[i];
		if (sum <= wanted)
			continue;
		if (i < STEPS)
			return i / 1e3;
		return (double)((1ull << octave) +
				((uint64_t)(i % STEPS) << (octave - 6))) /
		       1e3;
	}
	return (double)latency_max / 1e3;
}

/* ------------------------------------------------------------------ */
/* What the server's processes take                                    */

struct usage {
	long processes, threads, rss_kb, available_kb;
};

static int tree[TREE_MAX];
static int tree_len;

static long field_of(const char *file, const char *key)
{
	char line[256];
	long value = 0;
	FILE *f = fopen(file, "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)) == 0) {
			value = atol(line + strlen(key));
			break;
		}
	}
	fclose(f);
	return value;
}

/* Whoever forked a child, any thread of the parent lists it. */
static void tree_add(int pid)
{
	char path[300];
	struct dirent *task;
	DIR *tasks;

	if (tree_len == TREE_MAX)
		return;
	tree[tree_len++] = pid;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && (task = readdir(tasks))) {
		FILE *f;
		int child;

		if (!isdigit((unsigned char)task->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid,
			task->d_name);
		f = fopen(path, "re");
		while (f && fscanf(f, "%d", &child) == 1)
			tree_add(child);
		if (f)
			fclose(f);
	}
	if (tasks)
		closedir(tasks);
}

static void tree_look(void)
{
	tree_len = 0;
	if (opt.pid)
		tree_add(opt.pid);
}

/*
 * Connections of the server's port that a process has taken: the kernel
 * completes a handshake without the server, and until accept() the socket has
 * no inode. (Counting the server's descriptors would not do: libmicrohttpd
 * closes those of finished connections only when the next one comes.)
 */
static long accepted_now(void)
{
	char line[256];
	long count = 0;
	FILE *f = fopen("/proc/net/tcp", "re");

	if (!f)
		die("/proc/net/tcp: %s", strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		unsigned int port, state;
		unsigned long inode;

		if (sscanf(line,
			    "%*d: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x "
			    "%*u %*u %lu",
			    &port, &state, &inode) == 3 &&
			port == opt.port && state != TCP_LISTEN && inode != 0)
			count++;
	}
	fclose(f);
	return count;
}

static struct usage usage_now(void)
{
	struct usage u = {.processes = tree_len};

	for (int i = 0; i < tree_len; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/status", tree[i]);
		u.threads += field_of(path, "Threads:");
		u.rss_kb += field_of(path, "VmRSS:");
	}
	u.available_kb = field_of("/proc/meminfo", "MemAvailable:");
	return u;
}

/* A process's CPU clock has no ticks, unlike /proc/PID/stat. */
static uint64_t server_cpu_ns(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < tree_len; i++) {
		struct timespec t;
		clockid_t clock;

		if (clock_getcpuclockid(tree[i], &clock) == 0 &&
			clock_gettime(clock, &t) == 0)
			sum += (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
	}
	return sum;
}

static uint64_t own_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------ */
/* The life of a connection                                            */

static void conn_start(struct conn *c);

static uint32_t index_of(const struct conn *c)
{
	return (uint32_t)(c - conns);
}

static void idle_add(struct conn *c)
{
	c->stage = IDLE;
	c->idle_slot = idle_count;
	idle[idle_count++] = index_of(c);
}

static void idle_remove(struct conn *c)
{
	uint32_t last = idle[--idle_count];

	idle[c->idle_slot] = last;
	conns[last].idle_slot = c->idle_slot;
}

static void conn_close(struct conn *c)
{
	if (c->ssl) {
		/* One close_notify; the answer to it is not waited for. */
		if (c->stage == IDLE)
			SSL_shutdown(c->ssl);
		ERR_clear_error();
		SSL_free(c->ssl);
		c->ssl = NULL;
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->stage = CLOSED;
}

/*
 * What went wrong with @c, which is then closed and, in the closed loop, not
 * replaced: one lost connection must not hide behind the others.
 */
__attribute__((format(printf, 3, 4))) static void conn_fail(
	struct conn *c, uint64_t *counter, const char *format, ...)
{
	static const char *const stages[] = {
		[CLOSED] = "closed",
		[CONNECTING] = "connecting",
		[TLS] = "in the TLS handshake",
		[SOCKS_METHOD] = "in the SOCKS greeting",
		[SOCKS_CONNECT] = "in the SOCKS request",
		[HALF] = "with half a request sent",
		[IDLE] = "idle",
		[BUSY] = "in an exchange",
	};

	++*counter;
	if (errors + mismatches <= ERRORS_TOLD) {
		struct sockaddr_in addr = {0};
		socklen_t len = sizeof(addr);
		va_list args;

		getsockname(c->fd, (struct sockaddr *)&addr, &len);
		fprintf(stderr,
			"load: connection %u (from port %u, %s, sent "
			"%u of %u, received %u of %u): ",
			index_of(c), ntohs(addr.sin_port), stages[c->stage], c->out_done,
			c->out_len, c->body_done, c->body_len);
		va_start(args, format);
		vfprintf(stderr, format, args);
		va_end(args);
		fputc('\n', stderr);
	}
	if (c->stage == IDLE)
		idle_remove(c);
	else if (phase == OPEN && c->stage != HALF)
		opening--;
	else
		under_way--;
	dead++;
	conn_close(c);
}

/* Bytes sent, 0 when it would block, -1 after conn_fail(). */
static ssize_t conn_put(struct conn *c, const void *buf, size_t len)
{
	ssize_t n;

	if (c->ssl) {
		int why;

		n = SSL_write(c->ssl, buf, (int)len);
		if (n > 0)
			return n;
		why = SSL_get_error(c->ssl, (int)n);
		if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
			return 0;
		conn_fail(c, &errors, "SSL_write: %s",
			ERR_reason_error_string(ERR_peek_error()) ?: "closed");
		return -1;
	}
	n = send(c->fd, buf, len, MSG_NOSIGNAL);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	conn_fail(c, &errors, "send: %s", strerror(errno));
	return -1;
}

/* Bytes received, 0 at the end, -EAGAIN, or -1 after conn_fail(). */
static ssize_t conn_get(struct conn *c, void *buf, size_t len)
{
	ssize_t n;

	if (c->ssl) {
		int why;

		n = SSL_read(c->ssl, buf, (int)len);
		if (n > 0)
			return n;
		why = SSL_get_error(c->ssl, (int)n);
		if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
			return -EAGAIN;
		if (why == SSL_ERROR_ZERO_RETURN)
			return 0;
		conn_fail(c, &errors, "SSL_read: %s",
			ERR_reason_error_string(ERR_peek_error()) ?: "closed");
		return -1;
	}
	do {
		n = recv(c->fd, buf, len, 0);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		return -EAGAIN;
	conn_fail(c, &errors, "recv: %s", strerror(errno));
	return -1;
}

/* 1 when all that may be sent is, 0 when it would block, -1 as above. */
static int conn_flush(struct conn *c)
{
	while (c->out_done < c->out_limit) {
		ssize_t n = conn_put(c, c->out + c->out_done, c->out_limit - c->out_done);

		if (n <= 0)
			return (int)n;
		c->out_done += (uint32_t)n;
	}
	return 1;
}

static void conn_out(struct conn *c, const void *out, size_t len)
{
	c->out = out;
	c->out_len = c->out_limit = (uint32_t)len;
	c->out_done = 0;
}

/* Choose what the next exchange asks for, and write its request. */
static void exchange_prepare(struct conn *c)
{
	uint32_t seed = (uint32_t)random_next();
	int len;

	c->body_len = opt.min_bytes + random_below(opt.max_bytes - opt.min_bytes + 1);
	c->body = body_at(seed);
	c->body_done = 0;
	c->head_len = 0;
	c->in_body = opt.mode == MODE_ECHO;
	if (opt.mode == MODE_ECHO) {
		conn_out(c, c->body, c->body_len);
		return;
	}
	len = opt.mode == MODE_PROXY
		      ? snprintf((char *)c->request, REQUEST_MAX,
				"GET http://127.0.0.1:%u/%u/%u HTTP/1.1\r\n", opt.target,
				c->body_len, seed)
		      : snprintf((char *)c->request, REQUEST_MAX,
				"GET /%u/%u HTTP/1.1\r\n", c->body_len, seed);
	len += snprintf((char *)c->request + len, REQUEST_MAX - (size_t)len,
		"Host: 127.0.0.1:%u\r\n%s\r\n", opt.target ? opt.target : opt.port,
		opt.per_request ? "Connection: close\r\n" : "");
	conn_out(c, c->request, (size_t)len);
}

/* Start one on an open connection. Reads nothing: that is the next edge. */
static void exchange_begin(struct conn *c)
{
	exchange_prepare(c);
	c->stage = BUSY;
	c->begun_ns = now_ns();
	conn_flush(c);
}

static void exchange_begin_random(void)
{
	struct conn *c;

	if (idle_count == 0)
		return;
	c = &conns[idle[random_below(idle_count)]];
	idle_remove(c);
	under_way++;
	exchange_begin(c);
}

static void exchange_done(struct conn *c)
{
	uint64_t now = now_ns();

	last_progress_ns = now;
	verified++;
	verified_bytes += c->body_len;
	if (measuring) {
		requests++;
		latency_add(now - c->begun_ns);
	}
	if (opt.per_request) {
		conn_close(c);
		if (phase == RUN)
			conn_start(c);
		else
			under_way--;
	} else if (phase == OPEN) {
		opening--;
		proven++;
		idle_add(c);
	} else if (phase == RUN && opt.active >= opt.conns) {
		exchange_begin(c);
	} else {
		idle_add(c);
		under_way--;
		if (phase == RUN)
			exchange_begin_random();
	}
}

/* Compare what came. False when the connection has failed. */
static bool body_take(struct conn *c, const unsigned char *buf, size_t len)
{
	const unsigned char *want = c->body + c->body_done;

	if (len > c->body_len - c->body_done) {
		conn_fail(c, &mismatches, "%zu bytes too many",
			len - (c->body_len - c->body_done));
		return false;
	}
	if (memcmp(buf, want, len) != 0) {
		size_t i = 0;

		while (buf[i] == want[i])
			i++;
		conn_fail(c, &mismatches,
			"byte %zu of the body is %02x, not "
			"%02x",
			c->body_done + i, buf[i], want[i]);
		return false;
	}
	c->body_done += (uint32_t)len;
	return true;
}

/* The head is complete. False when the connection has failed. */
static bool head_check(struct conn *c)
{
	const char *length;

	if (strncmp(c->head, "HTTP/1.", 7) != 0 || !c->head[7] ||
		strncmp(c->head + 8, " 200 ", 5) != 0) {
		conn_fail(c, &errors, "answer '%.*s'", (int)strcspn(c->head, "\r\n"),
			c->head);
		return false;
	}
	if (strcasestr(c->head, "\r\nTransfer-Encoding:")) {
		conn_fail(c, &errors, "an answer with a transfer encoding");
		return false;
	}
	length = strcasestr(c->head, "\r\nContent-Length:");
	/* Without a length the end of the connection says it. */
	if ((!length && !opt.per_request) ||
		(length && strtoul(length + 17, NULL, 10) != c->body_len)) {
		conn_fail(c, &mismatches, "Content-Length is %.20s, not %u",
			length ? length + 17 : "missing", c->body_len);
		return false;
	}
	return true;
}

/* Bytes of an answer. False when the connection has failed. */
static bool answer_take(struct conn *c, const unsigned char *buf, size_t len)
{
	while (!c->in_body && len > 0) {
		if (c->head_len == HEAD_MAX - 1) {
			conn_fail(c, &errors, "a head above %d bytes", HEAD_MAX - 1);
			return false;
		}
		c->head[c->head_len++] = (char)*buf++;
		len--;
		if (c->head_len >= 4 &&
			memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4) == 0) {
			c->head[c->head_len] = '\0';
			if (!head_check(c))
				return false;
			c->in_body = true;
		}
	}
	return len == 0 || body_take(c, buf, len);
}

static void exchange_advance(struct conn *c)
{
	static unsigned char buf[65536];

	if (conn_flush(c) < 0)
		return;
	for (;;) {
		ssize_t n = conn_get(c, buf, sizeof(buf));
		bool complete;

		if (n == -EAGAIN || n == -1)
			return;
		if (n > 0 && !answer_take(c, buf, (size_t)n))
			return;
		complete = c->in_body && c->body_done == c->body_len &&
			   c->out_done == c->out_len;
		if (n == 0 && !(complete && opt.per_request)) {
			conn_fail(c, &errors, "the server closed it");
			return;
		}
		if (complete && (n == 0 || !opt.per_request)) {
			exchange_done(c);
			return;
		}
	}
}

/* The connection is up, through all layers: its first exchange. */
static void conn_ready(struct conn *c)
{
	last_progress_ns = now_ns();
	if (phase == OPEN && opt.per_request) {
		exchange_prepare(c);
		c->out_limit = c->out_len / 2;
		if (conn_flush(c) < 0)
			return;
		c->stage = HALF; /* so few bytes always fit */
		opening--;
		proven++;
		under_way++;
		return;
	}
	exchange_prepare(c);
	c->stage = BUSY;
	if (!opt.per_request)
		c->begun_ns = now_ns();
	conn_flush(c);
}

static void socks_hello(struct conn *c)
{
	conn_out(c, "\x05\x01\x00", 3); /* version 5, one method: no login */
	c->head_len = 0;
	c->stage = SOCKS_METHOD;
	conn_flush(c);
}

static void socks_request(struct conn *c)
{
	unsigned char *r = c->request;

	/* CONNECT, IPv4 127.0.0.1, port */
	memcpy(r, "\x05\x01\x00\x01\x7f\x00\x00\x01", 8);
	r[8] = (unsigned char)(opt.target >> 8);
	r[9] = (unsigned char)opt.target;
	conn_out(c, r, 10);
	c->head_len = 0;
	c->stage = SOCKS_CONNECT;
	conn_flush(c);
}

static void socks_advance(struct conn *c)
{
	uint32_t want = c->stage == SOCKS_METHOD ? 2 : 10;

	if (conn_flush(c) < 0)
		return;
	while (c->head_len < want) {
		ssize_t n = conn_get(c, c->head + c->head_len, want - c->head_len);

		if (n == -EAGAIN || n == -1)
			return;
		if (n == 0) {
			conn_fail(c, &errors, "the server closed it");
			return;
		}
		c->head_len += (uint32_t)n;
	}
	if (c->head[0] != 5 || c->head[1] != 0)
		conn_fail(c, &errors, "SOCKS answer %02x %02x", (unsigned char)c->head[0],
			(unsigned char)c->head[1]);
	else if (c->stage == SOCKS_METHOD)
		socks_request(c);
	else
		conn_ready(c);
}

static void tls_advance(struct conn *c)
{
	int r = SSL_connect(c->ssl), why;

	if (r == 1) {
		conn_ready(c);
		return;
	}
	why = SSL_get_error(c->ssl, r);
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return;
	conn_fail(c, &errors, "TLS handshake: %s",
		ERR_reason_error_string(ERR_peek_error()) ?: "closed");
}

static void connect_done(struct conn *c)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error) {
		conn_fail(c, &errors, "connect: %s", strerror(error));
		return;
	}
	if (opt.mode == MODE_HTTPS) {
		c->ssl = SSL_new(tls);
		if (!c->ssl || !SSL_set_fd(c->ssl, c->fd))
			die("out of memory for TLS");
		c->stage = TLS;
		tls_advance(c);
	} else if (opt.mode == MODE_SOCKS5) {
		socks_hello(c);
	} else {
		conn_ready(c);
	}
}

static void conn_start(struct conn *c)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(opt.port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLET,
		.data.ptr = c,
	};
	int one = 1;

	c->stage = CONNECTING;
	c->begun_ns = now_ns();
	c->out_len = c->out_done = c->body_len = c->body_done = 0;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket: %s (descriptor limit?)", strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (opt.conns > CONNS_PER_SOURCE) {
		struct sockaddr_in from = {
			.sin_family = AF_INET,
			.sin_addr.s_addr = htonl(
				INADDR_LOOPBACK + 1 + index_of(c) / CONNS_PER_SOURCE),
		};

		setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		if (bind(c->fd, (struct sockaddr *)&from, sizeof(from)) < 0)
			die("bind: %s", strerror(errno));
	}
	if (connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 &&
		errno != EINPROGRESS) {
		conn_fail(c, &errors, "connect: %s", strerror(errno));
		return;
	}
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void conn_advance(struct conn *c, uint32_t events)
{
	switch (c->stage) {
	case CLOSED: /* closed while this event was on its way */
		break;
	case CONNECTING:
		if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			connect_done(c);
		break;
	case TLS:
		tls_advance(c);
		break;
	case SOCKS_METHOD:
	case SOCKS_CONNECT:
		socks_advance(c);
		break;
	case HALF:
	case IDLE:
		/* Nobody asked for anything; TLS may send a session ticket. */
		if (!c->ssl && (events & EPOLLIN)) {
			char byte;
			ssize_t n = conn_get(c, &byte, 1);

			if (n == 0)
				conn_fail(c, &errors, "the server closed it");
			else if (n > 0)
				conn_fail(c, &mismatches,
					"an answer nobody "
					"asked for");
		}
		break;
	case BUSY:
		exchange_advance(c);
		break;
	}
}

/* ------------------------------------------------------------------ */
/* The phases                                                          */

/* One round of events. False when nothing has moved for the time limit. */
static bool turn(int timeout_ms)
{
	struct epoll_event events[512];
	int n = epoll_wait(epoll_fd, events, 512, timeout_ms);

	for (int i = 0; i < n; i++)
		conn_advance(events[i].data.ptr, events[i].events);
	return (double)(now_ns() - last_progress_ns) / SECOND < opt.timeout_s;
}

/* Whatever is still under way will not end any more. */
static void give_up(const char *doing)
{
	fprintf(stderr, "load: nothing has moved for %.0f s while %s\n", opt.timeout_s,
		doing);
	for (uint32_t i = 0; i < opt.conns; i++)
		if (conns[i].stage != CLOSED && conns[i].stage != IDLE)
			conn_fail(&conns[i], &errors, "gave up on it");
}

static void open_all(void)
{
	while (proven + dead < opt.conns) {
		while (next_open < opt.conns && opening < OPENING_MAX) {
			opening++;
			conn_start(&conns[next_open++]);
		}
		if (!turn(100)) {
			give_up("opening connections");
			break;
		}
	}
}

/* Until each half request is in the server's hands. */
static void wait_until_accepted(void)
{
	while (dead == 0 && accepted_now() < (long)proven) {
		if (turn(20))
			continue;
		fprintf(stderr, "load: the server has accepted %ld of %u\n",
			accepted_now(), proven);
		give_up("waiting for the server to accept");
	}
}

static void complete_halves(void)
{
	phase = HALVES;
	last_progress_ns = now_ns();
	for (uint32_t i = 0; i < opt.conns; i++) {
		if (conns[i].stage != HALF)
			continue;
		conns[i].stage = BUSY;
		conns[i].out_limit = conns[i].out_len;
		conn_flush(&conns[i]);
	}
	while (under_way > 0) {
		if (!turn(100)) {
			give_up("completing the held requests");
			return;
		}
	}
}

struct result {
	double seconds;
	uint64_t server_ns, own_ns;
};

static void run(struct result *ret)
{
	uint64_t begin = now_ns(), server = 0, own = 0;
	uint64_t from = begin + (uint64_t)(opt.warmup_s * SECOND);
	uint64_t until = 0;

	phase = RUN;
	last_progress_ns = begin;
	if (opt.per_request) {
		for (uint32_t i = 0; i < opt.conns; i++) {
			under_way++;
			conn_start(&conns[i]);
			/* Connects in portions, as in the open phase. */
			if (i % OPENING_MAX == OPENING_MAX - 1)
				turn(0);
		}
	} else {
		for (uint32_t i = 0; i < opt.active; i++)
			exchange_begin_random();
	}
	for (;;) {
		uint64_t now = now_ns();

		if (!measuring && now >= from) {
			measuring = true;
			begin = now;
			until = now + (uint64_t)(opt.seconds * SECOND);
			server = server_cpu_ns();
			own = own_cpu_ns();
		}
		if (measuring && now >= until) {
			ret->seconds = (double)(now - begin) / SECOND;
			break;
		}
		if (under_way == 0 || !turn(10)) {
			give_up("under load");
			break;
		}
	}
	if (measuring) {
		ret->server_ns = server_cpu_ns() - server;
		ret->own_ns = own_cpu_ns() - own;
	}
	measuring = false;
}

static void drain(void)
{
	phase = DRAIN;
	last_progress_ns = now_ns();
	while (under_way > 0) {
		if (!turn(100)) {
			give_up("letting the last exchanges end");
			return;
		}
	}
	/* An idle connection that the server has closed sent an event. */
	turn(0);
}

/* Close everything. How many of them the server keeps for too long. */
static long close_all(void)
{
	uint64_t until;
	long left;

	for (uint32_t i = 0; i < opt.conns; i++)
		conn_close(&conns[i]);
	until = now_ns() + 5ull * SECOND;
	while ((left = accepted_now()) > 0 && now_ns() < until)
		usleep(20000);
	return left;
}

/* ------------------------------------------------------------------ */
/* Start                                                               */

static const char usage[] =
	"usage: load MODE --port PORT [OPTION]...\n"
	"MODE\n"
	"  echo                 random payloads, to come back unchanged\n"
	"  hold                 the same as echo --active 1\n"
	"  http, https          GET /BYTES/SEED, bodies made again and compared\n"
	"  socks5               http to --target through a SOCKS5 proxy\n"
	"  proxy                http to --target through an HTTP proxy\n"
	"OPTION\n"
	"  --port PORT          of the server, on 127.0.0.1\n"
	"  --target PORT        of the server behind the proxy\n"
	"  --conns N            connections open at once (100)\n"
	"  --seconds S          time to measure (3), after --warmup S (0.3)\n"
	"  --pid PID            of the server: report what it and its children take\n"
	"  --bytes N or MIN-MAX size of payloads and bodies (1-1024)\n"
	"  --per-request        a new connection for each request, closed by the\n"
	"                       server; N requests are under way at any time\n"
	"  --active M           only M exchanges at once, each on a connection chosen\n"
	"                       at random; the others stay open and idle\n"
	"  --ca FILE            https: verify the server's certificate with this\n"
	"  --timeout S          give up when nothing moves for so long (20)\n"
	"  --seed N             of the pseudo-random choices (1)\n"
	"  --help               this text\n"
	"Prints one line of key=value. Status 0: no error and no wrong byte.\n";

static double number(const char *name, const char *text, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= min && value <= max))
		die("--%s %s: expected a number from %.15g to %.15g", name, text, min,
			max);
	return value;
}

static void parse_bytes(const char *text)
{
	char *dash = strchr(text, '-');

	opt.max_bytes = (uint32_t)number("bytes", dash ? dash + 1 : text, 0, BODY_MAX);
	opt.min_bytes = opt.max_bytes;
	if (dash) {
		*dash = '\0';
		opt.min_bytes = (uint32_t)number("bytes", text, 0, opt.max_bytes);
	}
}

static void parse_mode(const char *name)
{
	static const struct {
		const char *name;
		enum mode mode;
	} modes[] = {
		{"echo", MODE_ECHO},
		{"hold", MODE_ECHO},
		{"http", MODE_HTTP},
		{"https", MODE_HTTPS},
		{"socks5", MODE_SOCKS5},
		{"proxy", MODE_PROXY},
	};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(name, modes[i].name) == 0) {
			opt.mode = modes[i].mode;
			opt.mode_name = modes[i].name;
			if (strcmp(name, "hold") == 0)
				opt.active = 1;
			return;
		}
	}
	die("unknown mode '%s'; --help lists them", name);
}

static void parse(int argc, char **argv)
{
	enum {
		PORT = 256,
		TARGET,
		CONNS,
		SECONDS,
		WARMUP,
		PID,
		BYTES,
		PER_REQUEST,
		ACTIVE,
		CA,
		TIMEOUT,
		SEED
	};
	static const struct option options[] = {
		{"port", required_argument, NULL, PORT},
		{"target", required_argument, NULL, TARGET},
		{"conns", required_argument, NULL, CONNS},
		{"seconds", required_argument, NULL, SECONDS},
		{"warmup", required_argument, NULL, WARMUP},
		{"pid", required_argument, NULL, PID},
		{"bytes", required_argument, NULL, BYTES},
		{"per-request", no_argument, NULL, PER_REQUEST},
		{"active", required_argument, NULL, ACTIVE},
		{"ca", required_argument, NULL, CA},
		{"timeout", required_argument, NULL, TIMEOUT},
		{"seed", required_argument, NULL, SEED},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, i;

	while ((c = getopt_long(argc, argv, "h", options, &i)) != -1) {
		const char *name = c >= 256 ? options[i].name : "";

		switch (c) {
		case PORT:
			opt.port = (uint16_t)number(name, optarg, 1, 65535);
			break;
		case TARGET:
			opt.target = (uint16_t)number(name, optarg, 1, 65535);
			break;
		case CONNS:
			opt.conns = (uint32_t)number(name, optarg, 1, 1e6);
			break;
		case SECONDS:
			opt.seconds = number(name, optarg, 0.01, 1e5);
			break;
		case WARMUP:
			opt.warmup_s = number(name, optarg, 0, 1e5);
			break;
		case PID:
			opt.pid = (int)number(name, optarg, 1, 1 << 30);
			break;
		case BYTES:
			parse_bytes(optarg);
			break;
		case PER_REQUEST:
			opt.per_request = true;
			break;
		case ACTIVE:
			opt.active = (uint32_t)number(name, optarg, 1, 1e6);
			break;
		case CA:
			opt.ca_file = optarg;
			break;
		case TIMEOUT:
			opt.timeout_s = number(name, optarg, 0.1, 1e5);
			break;
		case SEED:
			opt.seed = (uint64_t)number(name, optarg, 0, 9e15);
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
	if (optind != argc - 1) {
		fputs(usage, stderr);
		exit(2);
	}
	parse_mode(argv[optind]);
	if (!opt.port)
		die("--port is missing");
	if ((opt.mode == MODE_SOCKS5 || opt.mode == MODE_PROXY) != !!opt.target)
		die("--target belongs to socks5 and proxy");
	if (opt.mode == MODE_ECHO && opt.min_bytes == 0)
		die("an echo needs at least 1 byte");
	if (opt.mode == MODE_ECHO && opt.per_request)
		die("--per-request is for http");
	if (opt.active == 0 || opt.active > opt.conns)
		opt.active = opt.conns;
}

static void raise_descriptor_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		die("getrlimit: %s", strerror(errno));
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (opt.conns + 32 > files.rlim_max)
		die("%u connections need more than the %lu descriptors allowed "
		    "here (ulimit -Hn)",
			opt.conns, (unsigned long)files.rlim_max);
}

static void tls_init(void)
{
	tls = SSL_CTX_new(TLS_client_method());
	if (!tls || !SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) ||
		!SSL_CTX_set1_groups_list(tls, "P-256"))
		die("cannot set up TLS");
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				      SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
	if (opt.ca_file) {
		if (!SSL_CTX_load_verify_locations(tls, opt.ca_file, NULL))
			die("cannot read the certificate %s", opt.ca_file);
		SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
	}
}

int main(int argc, char **argv)
{
	struct usage before, held, after;
	struct result result = {0};
	uint64_t begin;
	double open_s, done;
	long left;

	parse(argc, argv);
	raise_descriptor_limit();
	signal(SIGPIPE, SIG_IGN); /* OpenSSL writes with write() */
	/* The last resort, should time limits of the phases not end it. */
	alarm((unsigned int)(opt.seconds + opt.warmup_s + 10 * opt.timeout_s));
	random_state = opt.seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
	conns = calloc(opt.conns, sizeof(*conns));
	idle = calloc(opt.conns, sizeof(*idle));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (!conns || !idle || epoll_fd < 0 || body_init() < 0)
		die("out of memory");
	for (uint32_t i = 0; i < opt.conns; i++)
		conns[i].fd = -1;
	if (opt.mode == MODE_HTTPS)
		tls_init();
	if (opt.pid && kill(opt.pid, 0) < 0 && errno == ESRCH)
		die("there is no process %d", opt.pid);

	tree_look();
	before = usage_now();
	begin = last_progress_ns = now_ns();
	open_all();
	if (opt.per_request)
		wait_until_accepted();
	open_s = (double)(now_ns() - begin) / SECOND;
	tree_look();
	held = usage_now();
	if (opt.per_request)
		complete_halves();
	if (dead == 0)
		run(&result);
	after = usage_now();
	drain();
	left = close_all();

	done = requests ? (double)requests : 1;
	printf("mode=%s conns=%u held=%u open_s=%.2f seconds=%.2f "
	       "requests=%lu rps=%.0f p50_us=%.1f p99_us=%.1f p999_us=%.1f "
	       "max_us=%.1f errors=%lu mismatches=%lu verified=%lu "
	       "verified_bytes=%lu left_open=%ld gen_cpu_us_per_req=%.2f",
		opt.mode_name, opt.conns, proven, open_s, result.seconds, requests,
		result.seconds > 0 ? done / result.seconds : 0, latency_us(.5),
		latency_us(.99), latency_us(.999), (double)latency_max / 1e3, errors,
		mismatches, verified, verified_bytes, left,
		(double)result.own_ns / 1e3 / done);
	if (opt.pid)
		printf(" srv_cpu_us_per_req=%.2f srv_processes=%ld "
		       "srv_threads=%ld srv_rss_kb=%ld "
		       "srv_rss_per_conn_kb=%.1f "
		       "srv_memavail_per_conn_kb=%.1f",
			(double)result.server_ns / 1e3 / done, held.processes,
			held.threads > after.threads ? held.threads : after.threads,
			held.rss_kb, (double)(held.rss_kb - before.rss_kb) / opt.conns,
			(double)(before.available_kb - held.available_kb) / opt.conns);
	putchar('\n');
	return errors || mismatches || requests == 0;
}
