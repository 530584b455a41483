/*
 * What happens to a descriptor while a thread waits for it: poll and select look again
 * at its number when they go on (fs/select.c), before they look for a signal; and who
 * waits for room in a UNIX socket takes the error of a peer that went away, which one
 * that begins to send does not (net/core/sock.c, sock_alloc_send_pskb). A listener whose
 * number is closed is waited for until a signal comes, and a terminal that is hung up is
 * at its end for those only that did not wait (drivers/tty/n_tty.c).
 */
#include "sig.h"

#include <sys/select.h>

enum {
	POLLS_ONE,
	POLLS_TWO,
	SELECTS,
	SELECTS_SIGNALLED,
	STREAM,
	PACKETS,
	LISTENER,
	TERMINAL,
	CASES
};

static struct waiter {
	pthread_t t;
	int what, a[2], b[2];
	char result[160];
} waiters[CASES];

static void waits_for_both(struct waiter *w)
{
	struct pollfd p[2] = {{w->a[0], POLLIN, 0}, {w->b[0], POLLIN, 0}};
	const char *r =
		RESULT(w->what == POLLS_ONE ? poll(p + 1, 1, -1) : poll(p, 2, -1));

	snprintf(w->result, sizeof w->result, "%s, %x %x", r, (unsigned)p[0].revents,
		(unsigned)p[1].revents);
}

static void selects_both(struct waiter *w)
{
	fd_set in, out, odd;

	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&odd);
	FD_SET(w->a[0], &in);
	FD_SET(w->b[0], &in);
	FD_SET(w->b[0], &odd);
	const char *r = RESULT(select(FD_SETSIZE, &in, &out, &odd, NULL));

	snprintf(w->result, sizeof w->result, "%s, %d %d, %d", r, FD_ISSET(w->a[0], &in),
		FD_ISSET(w->b[0], &in), FD_ISSET(w->b[0], &odd));
}

static void fills(struct waiter *w)
{
	static char much[1 << 20];
	const char *r[3];

	while (send(w->a[0], much, 4096, MSG_DONTWAIT) > 0)
		;
	for (int i = 0; i < 3; i++)
		r[i] = RESULT(send(w->a[0], much, 4096, MSG_NOSIGNAL));
	snprintf(w->result, sizeof w->result, "%s, then %s, %s", r[0], r[1], r[2]);
}

static void reads_twice(struct waiter *w)
{
	char c;
	const char *r = RESULT(read(w->a[0], &c, 1));

	snprintf(w->result, sizeof w->result, "%s, then %s", r,
		RESULT(read(w->a[0], &c, 1)));
}

static void open_terminal(int fds[2])
{
	fds[1] = OK(posix_openpt(O_RDWR | O_NOCTTY));
	OK(grantpt(fds[1]));
	OK(unlockpt(fds[1]));
	fds[0] = OK(open(ptsname(fds[1]), O_RDWR | O_NOCTTY));
}

static void *waits(void *arg)
{
	struct waiter *w = arg;

	sig_mask(SIG_UNBLOCK, SIGUSR1);
	if (w->what <= POLLS_TWO)
		waits_for_both(w);
	else if (w->what <= SELECTS_SIGNALLED)
		selects_both(w);
	else if (w->what <= PACKETS)
		fills(w);
	else if (w->what == LISTENER)
		snprintf(w->result, sizeof w->result, "%s",
			RESULT(accept(w->b[0], NULL, NULL)));
	else
		reads_twice(w);
	return NULL;
}

int main(void)
{
	static const char *const name[] = {"poll of one", "poll of two", "select",
		"select, signalled", "stream", "packets", "listener", "terminal"};
	struct sockaddr_in address;

	sig_mask(SIG_BLOCK, SIGUSR1);
	sig_install(SIGUSR1, 0, sig_count);
	for (int i = 0; i < CASES; i++) {
		struct waiter *w = &waiters[i];

		w->what = i;
		if (i == TERMINAL)
			open_terminal(w->a);
		else
			OK(socketpair(AF_UNIX,
				i == PACKETS ? SOCK_SEQPACKET : SOCK_STREAM, 0, w->a));
		if (i == LISTENER)
			w->b[0] = tcp_listen(5, &address);
		else
			unix_pair(w->b);
		w->t = start(waits, w);
	}
	settle();
	for (int i = 0; i < CASES; i++)
		OK(close(
			i < STREAM || i == LISTENER ? waiters[i].b[0] : waiters[i].a[1]));
	CHECK(write(waiters[SELECTS].a[1], "", 1) == 1);
	for (int i = 0; i < CASES; i++)
		if (i != SELECTS && (i < STREAM || i == LISTENER))
			ZERO(pthread_kill(waiters[i].t, SIGUSR1));
	for (int i = 0; i < CASES; i++) {
		finish(waiters[i].t);
		say("%s: %s", name[i], waiters[i].result);
	}
	return 0;
}
