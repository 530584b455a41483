/*
 * shutdown(2) and who reads, of every kind of socket: one that reads already, or
 * begins afterwards, at either end. A datagram socket that was shut down tells only
 * those that wait (net/core/datagram.c, __skb_wait_for_more_packets); poll calls it
 * ready for ever.
 */
#include "prog.h"

enum {
	KINDS = 6,
	CASES = KINDS * 2 * 3 * 2 * 2,
	WORDS = 20, /* after so many a receive is expected to wait */
};
static const char *const kind_name[] = {
	"datagrams", "packets", "stream", "tcp", "udp", "udp, not connected"};
static const char *const how_name[] = {"SHUT_RD", "SHUT_WR", "SHUT_RDWR"};

static struct reader {
	pthread_t t;
	int fds[2], kind, end, how;
	bool before, talks;
	int through; /* (a) */
	const char *shut;
	char result[32];
} readers[CASES];

static void udp_pair(int fds[2], bool connected)
{
	struct sockaddr_in a[2];
	socklen_t n = sizeof a[0];

	for (int i = 0; i < 2; i++) {
		a[i] = (struct sockaddr_in){
			.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
		fds[i] = OK(socket(AF_INET, SOCK_DGRAM, 0));
		OK(bind(fds[i], (struct sockaddr *)&a[i], n));
		OK(getsockname(fds[i], (struct sockaddr *)&a[i], &n));
	}
	for (int i = 0; i < 2 && connected; i++)
		OK(connect(fds[i], (struct sockaddr *)&a[!i], n));
}

static void make_pair(int fds[2], int kind)
{
	switch (kind) {
	case 0:
		OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
		break;
	case 1:
		OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
		break;
	case 2:
		unix_pair(fds);
		break;
	case 3:
		tcp_pair(fds);
		break;
	default:
		udp_pair(fds, kind == 4);
	}
}

static void *reads(void *arg)
{
	struct reader *r = arg;
	char buf[100];

	for (int i = 0; i < WORDS && r->talks && !r->before; i++)
		CHECK(recv(r->fds[0], buf, 1, 0) == 1);
	snprintf(r->result, sizeof r->result, "%s",
		r->talks ? RESULT(recv(r->fds[0], buf, sizeof buf, 0))
			 : RESULT(read(r->fds[0], buf, sizeof buf)));
	__atomic_store_n(&r->through, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void shut(struct reader *r)
{
	char buf[64];

	snprintf(buf, sizeof buf, "%s", RESULT(shutdown(r->fds[r->end], r->how)));
	r->shut = strdup(buf);
}

int main(void)
{
	for (int i = 0; i < CASES; i++) {
		struct reader *r = &readers[i];

		*r = (struct reader){.kind = i % KINDS,
			.how = i / KINDS % 3,
			.end = i / KINDS / 3 % 2,
			.before = i / KINDS / 3 / 2 % 2,
			.talks = i / KINDS / 3 / 2 / 2 && i % KINDS != KINDS - 1};
		make_pair(r->fds, r->kind);
		if (r->before)
			shut(r);
		r->t = start(reads, r);
	}
	for (int k = 0; k < WORDS; k++) {
		usleep(5000);
		for (int i = 0; i < CASES; i++)
			if (readers[i].talks && !readers[i].before)
				send_all(readers[i].fds[1], "", 1);
	}
	settle();
	for (int i = 0; i < CASES; i++)
		if (!readers[i].before)
			shut(&readers[i]);
	settle();
	settle();
	for (int i = 0; i < CASES; i++) {
		const struct reader *r = &readers[i];
		bool through = __atomic_load_n(&r->through, __ATOMIC_SEQ_CST);

		say("%s: %s of %s %s: %s, %s", kind_name[r->kind], how_name[r->how],
			r->end ? "its peer" : "it",
			r->before ? "before it reads" : "while it waits", r->shut,
			through ? r->result : "waits");
	}
	return 0;
}
