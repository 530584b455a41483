/*
 * sigaltstack is a thread's own: handlers run there if asked to, faults and overflows
 * too, and nothing is said about these on stderr.
 */
#include "sig.h"

#include <setjmp.h>

#define THREADS 8
#define SIZE    65536

static __thread char *alt;
static __thread volatile int on_alt, runs;

static void handler(int sig)
{
	char here;
	stack_t ss;

	(void)sig;
	OK(sigaltstack(NULL, &ss));
	on_alt = &here >= alt && &here < alt + SIZE && (ss.ss_flags & SS_ONSTACK);
	runs++;
}

static void *run(void *arg)
{
	stack_t ss = {.ss_size = SIZE}, got;
	int bad = 0;

	OK(sigaltstack(NULL, &got));
	bad += got.ss_flags != SS_DISABLE; /* not inherited */
	ss.ss_sp = alt = malloc(SIZE);
	OK(sigaltstack(&ss, NULL));
	for (int i = 0; i < 20; i++) {
		usleep(300);
		OK(raise(SIGUSR1));
		bad += !on_alt || runs != 2 * i + 1;
		OK(raise(SIGUSR2)); /* without SA_ONSTACK */
		bad += on_alt || runs != 2 * i + 2;
		OK(sigaltstack(NULL, &got));
		bad += got.ss_sp != alt || got.ss_flags != 0;
	}
	ss.ss_flags = SS_DISABLE;
	OK(sigaltstack(&ss, NULL));
	free(alt);
	(void)arg;
	return (void *)(intptr_t)bad;
}

static __thread sigjmp_buf back;

static void fault_handler(int sig, siginfo_t *info, void *context)
{
	char here;

	(void)context;
	on_alt = &here >= alt && &here < alt + SIZE;
	siglongjmp(back, info->si_addr == (void *)8 ? 100 : sig);
}

static void *faults(void *arg)
{
	stack_t ss = {.ss_size = SIZE};
	int r;

	ss.ss_sp = alt = malloc(SIZE);
	OK(sigaltstack(&ss, NULL));
	for (int i = 0; i < 5; i++) {
		usleep(200);
		r = sigsetjmp(back, 1);
		if (!r)
			*(volatile int *)bad_pointer = 1;
		CHECK(r == 100 && on_alt);
	}
	say("null pointer: found %d times on the alternate stack", 5);
	(void)arg;
	return NULL;
}

static volatile int sink;

static int deeper(int n)
{
	volatile char block[4096];

	block[0] = (char)n;
	sink += block[0];
	return deeper(n + 1) + block[0];
}

static void *overflows(void *arg)
{
	stack_t ss = {.ss_size = SIZE};

	ss.ss_sp = alt = malloc(SIZE);
	OK(sigaltstack(&ss, NULL));
	int r = sigsetjmp(back, 1);
	if (!r)
		deeper(0);
	say("overflow: %s on the alternate stack %d", sigabbrev_np(r), on_alt);
	usleep(1000); /* and the thread goes on */
	return arg;
}

static void *lives(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* Another thread's guard is no overflow of one's own. */
static void touches_guard(void)
{
	pid_t pid = OK(fork());
	int status;

	if (!pid) {
		pthread_t t = start(lives, NULL);
		pthread_attr_t attr;
		size_t size;
		void *at;

		signal(SIGSEGV, SIG_DFL);
		ZERO(pthread_getattr_np(t, &attr));
		ZERO(pthread_attr_getstack(&attr, &at, &size));
		_exit(((volatile char *)at)[-1]);
	}
	OK(waitpid(pid, &status, 0));
	say("another thread's guard: %s", describe_status(status));
}

int main(void)
{
	pthread_t threads[THREADS];
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	int bad = 0;

	OK(sigaction(SIGUSR1, &sa, NULL));
	sa.sa_flags = 0;
	OK(sigaction(SIGUSR2, &sa, NULL));
	for (int i = 0; i < THREADS; i++)
		threads[i] = start(run, NULL);
	for (int i = 0; i < THREADS; i++)
		bad += (int)(intptr_t)finish(threads[i]);
	say("%d wrong", bad);
	sa.sa_sigaction = fault_handler;
	sa.sa_flags = SA_ONSTACK | SA_SIGINFO;
	OK(sigaction(SIGSEGV, &sa, NULL));
	on_thread(faults, NULL);
	finish(start_small(overflows, NULL, 256 * 1024));
	touches_guard();
	return 0;
}
