/*
 * A thread-per-connection echo server and its clients in one process: CONNECTIONS at
 * once, each sends ROUNDS messages of changing size and compares every byte.
 */
#include "prog.h"

#include <netinet/tcp.h>

#define ROUNDS  20
#define LARGEST 5000

static int listener, connections;
static struct sockaddr_in address;
static long echoed, served;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_connected = PTHREAD_COND_INITIALIZER;
static int connected;

static void *serves(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char buf[1024];
	ssize_t n;
	int on = 1;

	OK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
	while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
		CHECK(send(fd, buf, (size_t)n, 0) == n);
	CHECK(n == 0);
	OK(close(fd));
	__atomic_fetch_add(&served, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *accepts(void *arg)
{
	pthread_t *threads = calloc((size_t)connections, sizeof *threads);

	CHECK(threads);
	for (int i = 0; i < connections; i++) {
		int fd = OK(accept(listener, NULL, NULL));

		threads[i] = start(serves, (void *)(intptr_t)fd);
	}
	for (int i = 0; i < connections; i++)
		finish(threads[i]);
	free(threads);
	return arg;
}

static void *talks(void *arg)
{
	unsigned id = (unsigned)(intptr_t)arg;
	unsigned char out[LARGEST], in[LARGEST];
	int fd = tcp_connect(&address);

	pthread_mutex_lock(&lock);
	if (++connected == connections)
		pthread_cond_broadcast(&all_connected);
	while (connected < connections)
		pthread_cond_wait(&all_connected, &lock);
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < ROUNDS; i++) {
		size_t len = 1 + (id * 131 + i * 977) % LARGEST;

		for (size_t k = 0; k < len; k++)
			out[k] = pattern(id * 7919 + i * 104729 + k);
		send_all(fd, out, len);
		recv_all(fd, in, len);
		CHECK(memcmp(in, out, len) == 0);
		__atomic_fetch_add(&echoed, (long)len, __ATOMIC_SEQ_CST);
	}
	OK(shutdown(fd, SHUT_WR));
	CHECK(recv(fd, in, 1, 0) == 0);
	OK(close(fd));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t server, *clients;

	connections = argc > 1 ? atoi(argv[1]) : 200;
	clients = calloc((size_t)connections, sizeof *clients);
	CHECK(clients);
	listener = tcp_listen(1024, &address);
	server = start(accepts, NULL);
	for (intptr_t i = 0; i < connections; i++)
		clients[i] = start(talks, (void *)i);
	for (int i = 0; i < connections; i++)
		finish(clients[i]);
	finish(server);
	say("%d connections, %ld bytes echoed, %ld served to the end", connections,
		echoed, served);
	return 0;
}
