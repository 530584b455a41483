/* getaddrinfo, getnameinfo, getpwnam, syslog and localtime in many threads at once. */
#include "prog.h"

#include <netdb.h>
#include <pwd.h>
#include <syslog.h>

static int wrong;

static void *run(void *arg)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *ai;
	struct passwd pw, *result;
	char buf[2048], host[256], service[32];

	for (int i = 0; i < 5; i++) {
		int err = getaddrinfo("127.0.0.1", "80", &hints, &ai);

		if (err || ((struct sockaddr_in *)ai->ai_addr)->sin_port != htons(80))
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		if (!err) {
			if (getnameinfo(ai->ai_addr, ai->ai_addrlen, host, sizeof host,
				    service, sizeof service,
				    NI_NUMERICHOST | NI_NUMERICSERV) ||
				strcmp(host, "127.0.0.1") || strcmp(service, "80"))
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
			freeaddrinfo(ai);
		}
		err = getaddrinfo("localhost", "http", &hints, &ai);
		if (err)
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		else
			freeaddrinfo(ai);
		if (getpwnam_r("root", &pw, buf, sizeof buf, &result) || !result ||
			pw.pw_uid)
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		if (getpwnam_r("no-such-user-here", &pw, buf, sizeof buf, &result) ||
			result)
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		syslog(LOG_DEBUG, "test %ld", (long)(intptr_t)arg);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[40];

	openlog("weft-test", LOG_PID, LOG_USER);
	for (intptr_t i = 0; i < 40; i++)
		threads[i] = start(run, (void *)i);
	for (int i = 0; i < 40; i++)
		finish(threads[i]);
	closelog();
	say("%d wrong", wrong);
	return 0;
}
