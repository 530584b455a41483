/* As servers stop: SIGTERM to the process makes main's accept, poll or select return
 * EINTR. */
#include "sig.h"

#include <sys/select.h>

static volatile sig_atomic_t in_main, elsewhere;
static pthread_t main_thread;
static int done, fds[2];

static void handler(int sig)
{
	(void)sig;
	if (pthread_equal(pthread_self(), main_thread))
		in_main++;
	else
		elsewhere++;
}

static void *blocks(void *arg)
{
	char c;

	CHECK(recv(fds[0], &c, 1, 0) == 1);
	return arg;
}

/*
 * One signal finds main in its call. A second one, sent while main still runs the
 * handler of the first (which blocks the signal there), would rightly go to another
 * thread: so it comes only if main was not in its call yet.
 */
static void *sends_signals(void *arg)
{
	settle();
	while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST)) {
		OK(kill(getpid(), SIGTERM));
		for (int i = 0; i < 1000 && !__atomic_load_n(&done, __ATOMIC_SEQ_CST);
			i++)
			usleep(2000);
	}
	return arg;
}

int main(void)
{
	struct sockaddr_in addr;
	int l = tcp_listen(4, &addr);
	struct pollfd p = {l, POLLIN, 0};
	pthread_t threads[10], sender;
	fd_set in;

	main_thread = pthread_self();
	sig_install(SIGTERM, 0, handler);
	unix_pair(fds);
	for (int i = 0; i < 10;
		i++) /* they have it unblocked too, but main comes first */
		threads[i] = start(blocks, NULL);
	for (int way = 0; way < 3; way++) {
		int r;

		done = 0;
		sender = start(sends_signals, NULL);
		if (way == 0)
			r = accept(l, NULL, NULL);
		else if (way == 1)
			r = poll(&p, 1, -1);
		else {
			FD_ZERO(&in);
			FD_SET(l, &in);
			r = select(l + 1, &in, NULL, NULL, NULL);
		}
		int err = errno;
		__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
		finish(sender);
		say("%s: %d %s",
			way == 0   ? "accept"
			: way == 1 ? "poll"
				   : "select",
			r, err_name(err));
	}
	say("handled in main: %d, elsewhere: %d", in_main > 0, elsewhere);
	OK(send(fds[1], "0123456789", 10, 0));
	for (int i = 0; i < 10; i++)
		finish(threads[i]);
	return 0;
}
