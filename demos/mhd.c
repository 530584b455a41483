/*
 * mhd.c - an HTTP server made of Debian's libmicrohttpd in its
 * thread-per-connection mode.
 *
 * It shows a library that makes the threads itself and waits in poll() or in
 * select(), on one descriptor, before each recv(). Both ways to run it:
 *
 *	mhd 7000 poll               natively: a kernel thread per connection
 *	weft mhd 7000 poll          on fibers
 *
 *	mhd PORT [poll|select]      PORT 0 lets the kernel choose one
 *
 * GET /N/SEED answers with the N bytes that body.h describes. Expect the line
 * "listening on 127.0.0.1:PORT"; SIGTERM or SIGINT ends it with status 0 and
 * a line with totals, after libmicrohttpd has joined every thread. With
 * select, libmicrohttpd itself refuses descriptors above 1023.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "body.h"

static sem_t stop;
static atomic_ulong connections, answers;

static void on_stop(int sig)
{
	int saved = errno;

	(void)sig;
	sem_post(&stop);
	errno = saved;
}

static void count_connection(void *unused, struct MHD_Connection *connection,
	void **socket_context, enum MHD_ConnectionNotificationCode what)
{
	(void)unused;
	(void)connection;
	(void)socket_context;
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		atomic_fetch_add(&connections, 1);
}

static enum MHD_Result answer(void *unused, struct MHD_Connection *connection,
	const char *url, const char *method, const char *version, const char *upload,
	size_t *upload_size, void **request)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	uint32_t len, seed;
	unsigned int status = MHD_HTTP_OK;

	(void)unused;
	(void)version;
	(void)upload;
	/* Called once with the head alone, then again: answer only then. */
	if (!*request) {
		*request = &stop;
		return MHD_YES;
	}
	if (*upload_size) {
		*upload_size = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 ||
		body_parse(url, &len, &seed) < 0) {
		status = MHD_HTTP_NOT_FOUND;
		len = seed = 0;
	}
	response = MHD_create_response_from_buffer(
		len, (void *)body_at(seed), MHD_RESPMEM_PERSISTENT);
	if (!response)
		return MHD_NO;
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	atomic_fetch_add(&answers, 1);
	return result;
}

int main(int argc, char **argv)
{
	unsigned int flags = MHD_USE_THREAD_PER_CONNECTION |
			     MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ERROR_LOG;
	const char *wait = argc > 2 ? argv[2] : "poll";
	struct sigaction action = {.sa_handler = on_stop};
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	const union MHD_DaemonInfo *info;
	struct MHD_Daemon *daemon;
	struct rlimit files;
	char *end;
	long port;

	port = argc > 1 ? strtol(argv[1], &end, 10) : -1;
	if (argc < 2 || argc > 3 || end == argv[1] || *end || port < 0 || port > 65535 ||
		(strcmp(wait, "poll") != 0 && strcmp(wait, "select") != 0)) {
		fprintf(stderr, "usage: mhd PORT [poll|select]\n");
		return 2;
	}
	if (strcmp(wait, "poll") == 0)
		flags |= MHD_USE_POLL;
	addr.sin_port = htons((uint16_t)port);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (body_init() < 0 || sem_init(&stop, 0, 0) < 0) {
		perror("mhd");
		return 1;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);

	daemon = MHD_start_daemon(flags, 0, NULL, NULL, answer, NULL,
		MHD_OPTION_SOCK_ADDR, &addr, MHD_OPTION_CONNECTION_LIMIT, 1000000u,
		MHD_OPTION_LISTEN_BACKLOG_SIZE, 4096u, MHD_OPTION_NOTIFY_CONNECTION,
		count_connection, NULL, MHD_OPTION_END);
	info = daemon ? MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
	if (!info) {
		fprintf(stderr, "mhd: cannot listen on port %ld\n", port);
		return 1;
	}
	printf("listening on 127.0.0.1:%u\n", info->port);
	fflush(stdout);

	while (sem_wait(&stop) < 0 && errno == EINTR)
		;
	MHD_stop_daemon(daemon);
	printf("mhd: %lu connections served, %lu answers\n", atomic_load(&connections),
		atomic_load(&answers));
	return 0;
}
