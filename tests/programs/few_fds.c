/*
 * A limit of 64 descriptors, set before or after the first thread ("early", "late"):
 * EMFILE comes after exactly as many as natively, a full table hurts no thread that
 * waits, and accept keeps the connection for later. With "hard" the limit cannot be
 * raised again; then some of the 64 may be gone, and only the behaviour is compared.
 */
#include "prog.h"

#include <sys/resource.h>

static int listener, wake[2];
static bool hard;
static struct sockaddr_in address;

static void *waits(void *arg)
{
	char c;

	CHECK(read(wake[0], &c, 1) == 1);
	usleep(1000);
	return arg;
}

static void limit(void)
{
	struct rlimit rl;

	OK(getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = 64;
	if (hard)
		rl.rlim_max = 64;
	OK(setrlimit(RLIMIT_NOFILE, &rl));
}

static void *fills(void *arg)
{
	int opened[80], n = 0, client, c;
	struct pollfd p = {listener, POLLIN, 0};

	client = tcp_connect(&address);
	while (n < 80 && (opened[n] = dup(0)) >= 0)
		n++;
	int err = errno;
	int highest = n ? opened[n - 1] : -1;
	if (hard)
		say("many more descriptors: %d, then %s", n > 32, err_name(err));
	else
		say("%d more descriptors, the highest %d, then %s", n, highest,
			err_name(err));
	c = accept(listener, NULL, NULL);
	say("accept %d %s", c, err_name(errno));
	OK(close(opened[--n]));
	OK(poll(&p, 1, -1));
	c = OK(accept(listener, NULL, NULL));
	say("and with room: %d", c == highest);
	say("socket: %s", RESULT(socket(AF_INET, SOCK_STREAM, 0)));
	send_all(c, "hi", 2);
	char buf[2];
	recv_all(client, buf, 2);
	say("received %.2s", buf);
	while (n > 0)
		OK(close(opened[--n]));
	OK(close(c));
	OK(close(client));
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t threads[10];
	bool early = argc > 1 && strcmp(argv[1], "late") != 0;

	hard = argc > 1 && strcmp(argv[1], "hard") == 0;

	if (early)
		limit();
	listener = tcp_listen(4, &address);
	OK(pipe(wake));
	for (int i = 0; i < 10; i++)
		threads[i] = start(waits, NULL);
	if (!early)
		limit();
	on_thread(fills, NULL);
	on_thread(fills, NULL);
	OK(write(wake[1], "xxxxxxxxxx", 10));
	for (int i = 0; i < 10; i++)
		finish(threads[i]);
	say("done");
	return 0;
}
