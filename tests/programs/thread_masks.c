/* The signal mask is a thread's own: inherited at creation, kept across waits, swapped by
 * ppoll. */
#include "sig.h"

static bool blocked(int sig)
{
	sigset_t set;

	ZERO(pthread_sigmask(SIG_SETMASK, NULL, &set));
	return sigismember(&set, sig);
}

static void *inherits(void *arg)
{
	int bad = 0, id = (int)(intptr_t)arg;

	bad += blocked(SIGUSR1) != (id % 2 == 1);
	for (int i = 0; i < 20; i++) {
		int sig = SIGRTMIN + (id + i) % 8;

		sig_mask(SIG_BLOCK, sig);
		usleep(300);
		bad += !blocked(sig);
		sig_mask(SIG_UNBLOCK, sig);
		sched_yield();
		bad += blocked(sig);
		bad += blocked(SIGUSR1) != (id % 2 == 1);
	}
	return (void *)(intptr_t)bad;
}

static int fds[2];

/* The mask of ppoll counts only inside: a pending signal is taken at once. */
static void *swaps(void *arg)
{
	struct pollfd p = {fds[0], POLLIN, 0};
	struct timespec ts = {60, 0};
	sigset_t none;

	sig_mask(SIG_BLOCK, SIGUSR2);
	OK(raise(SIGUSR2));
	say("before: handled %d", sig_handled_here);
	sigemptyset(&none);
	int r = ppoll(&p, 1, &ts, &none);
	say("ppoll: %d %s, handled %d, blocked again %d", r, err_name(errno),
		sig_handled_here, blocked(SIGUSR2));
	OK(raise(SIGUSR2));
	OK(write(fds[1], "x", 1));
	r = ppoll(&p, 1, &ts, &none); /* both are ready: the descriptor is found first */
	say("both: %d, handled %d", r, sig_handled_here);
	return arg;
}

static void *handler_mask(void *arg)
{
	struct sigaction sa = {.sa_handler = sig_count};

	/* SA_NODEFER, SA_RESETHAND */
	sa.sa_flags = SA_RESETHAND;
	OK(sigaction(SIGUSR1, &sa, NULL));
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	OK(raise(SIGUSR1));
	OK(sigaction(SIGUSR1, NULL, &sa));
	say("reset to default: %d", sa.sa_handler == SIG_DFL);
	return arg;
}

int main(void)
{
	pthread_t threads[16];
	int bad = 0;

	for (intptr_t i = 0; i < 16; i++) {
		sig_mask(i % 2 ? SIG_BLOCK : SIG_UNBLOCK, SIGUSR1);
		threads[i] = start(inherits, (void *)i);
	}
	for (int i = 0; i < 16; i++)
		bad += (int)(intptr_t)finish(threads[i]);
	say("%d wrong", bad);
	/* the attribute's mask wins over the creator's */
	pthread_attr_t attr;
	sigset_t set;
	ZERO(pthread_attr_init(&attr));
	sigfillset(&set);
	ZERO(pthread_attr_setsigmask_np(&attr, &set));
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	pthread_t t;
	ZERO(pthread_create(&t, &attr, inherits, (void *)1));
	say("by attribute: %ld wrong", (long)(intptr_t)finish(t));
	OK(pipe(fds));
	sig_install(SIGUSR2, 0, sig_count);
	on_thread(swaps, NULL);
	on_thread(handler_mask, NULL);
	return 0;
}
