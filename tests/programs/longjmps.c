/* setjmp and longjmp over parks in threads; siglongjmp out of a handler that interrupted
 * a call. */
#include "sig.h"

#include <setjmp.h>

static int fds[2];

static void jump_from(jmp_buf env, int depth)
{
	if (depth)
		jump_from(env, depth - 1);
	usleep(200);
	longjmp(env, 7);
}

static void *jumps(void *arg)
{
	volatile int rounds = 0, sum = 0;
	jmp_buf env;

	for (rounds = 0; rounds < 50; rounds++) {
		int r = setjmp(env);

		if (!r)
			jump_from(env, 10);
		sum += r;
	}
	return (void *)(intptr_t)(sum == 350 && arg == NULL);
}

static __thread sigjmp_buf back;
static __thread volatile int armed;
static int done;

static void handler(int sig)
{
	(void)sig;
	if (armed) {
		armed = 0;
		siglongjmp(back, 1);
	}
}

/* The interrupted recv is gone for good: what comes later is the next call's. */
static void *leaves(void *arg)
{
	volatile int left = 0;
	char buf[4];

	for (volatile int i = 0; i < 10; i++) {
		if (sigsetjmp(back, 1)) {
			left++;
			continue;
		}
		armed = 1;
		CHECK(recv(fds[0], buf, 4, 0) != 4);
	}
	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	memset(buf, 0, sizeof buf);
	recv_all(fds[0], buf, 3);
	say("left recv %d times, then read %.3s", left, buf);
	return arg;
}

int main(void)
{
	pthread_t threads[16];
	int good = 0;

	for (int i = 0; i < 16; i++)
		threads[i] = start(jumps, NULL);
	for (int i = 0; i < 16; i++)
		good += (int)(intptr_t)finish(threads[i]);
	say("%d of 16 jumped right", good);
	unix_pair(fds);
	sig_install(SIGUSR1, SA_RESTART, handler);
	pthread_t t = start(leaves, NULL);
	sig_until(t, SIGUSR1, &done);
	send_all(fds[1], "abc", 3);
	finish(t);
	return 0;
}
