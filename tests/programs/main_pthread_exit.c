/* main() ends by pthread_exit; the last thread out ends the process with status 0. */
#include "prog.h"

static pthread_t main_thread;
static int fds[2];

static void at_exit(void)
{
	say("atexit handler");
}

static void *last(void *arg)
{
	char c;

	(void)arg;
	ZERO(pthread_join(main_thread, NULL));
	say("joined main");
	CHECK(read(fds[0], &c, 1) == 1);
	usleep(20000);
	say("last thread ends");
	return (void *)5; /* not the exit status */
}

static void *other(void *arg)
{
	(void)arg;
	usleep(10000);
	OK(write(fds[1], "x", 1));
	return NULL;
}

static void main_cleanup(void *arg)
{
	(void)arg;
	say("main's cleanup handler");
}

int main(void)
{
	main_thread = pthread_self();
	atexit(at_exit);
	OK(pipe(fds));
	start(last, NULL);
	ZERO(pthread_detach(start(other, NULL)));
	pthread_cleanup_push(main_cleanup, NULL);
	pthread_exit(NULL);
	pthread_cleanup_pop(0);
	return 3;
}
