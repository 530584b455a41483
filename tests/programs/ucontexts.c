/* Coroutines by makecontext and swapcontext inside threads, with blocking calls inside
 * them. */
#include "prog.h"

#include <ucontext.h>

#define COROUTINES 8
#define ROUNDS     30

struct thread {
	ucontext_t home, co[COROUTINES];
	int current, ended, fds[2];
	long sum;
};

static void body(unsigned lo, unsigned hi)
{
	struct thread *t = (struct thread *)((uintptr_t)lo | (uintptr_t)hi << 32);
	int me = t->current;
	char c;

	for (int i = 0; i < ROUNDS; i++) {
		c = (char)me;
		switch (i % 3) {
		case 0:
			send_all(t->fds[1], &c, 1);
			recv_all(t->fds[0], &c, 1);
			break;
		case 1:
			usleep(50);
			break;
		default:
			sched_yield();
		}
		CHECK(c == (char)me);
		t->sum += me;
		OK(swapcontext(&t->co[me], &t->home));
	}
	t->ended++;
}

static void *run(void *arg)
{
	struct thread *t = calloc(1, sizeof *t);
	long sum;

	CHECK(t);
	unix_pair(t->fds);
	for (int i = 0; i < COROUTINES; i++) {
		OK(getcontext(&t->co[i]));
		t->co[i].uc_stack.ss_sp = malloc(65536);
		t->co[i].uc_stack.ss_size = 65536;
		t->co[i].uc_link = &t->home;
		makecontext(&t->co[i], (void (*)(void))body, 2, (unsigned)(uintptr_t)t,
			(unsigned)((uintptr_t)t >> 32));
	}
	while (t->ended < COROUTINES)
		for (int i = 0; i < COROUTINES; i++) {
			if (!t->co[i].uc_stack.ss_sp)
				continue;
			int before = t->ended;

			t->current = i;
			OK(swapcontext(&t->home, &t->co[i]));
			if (t->ended > before) {
				free(t->co[i].uc_stack.ss_sp);
				t->co[i].uc_stack.ss_sp = NULL;
			}
		}
	sum = t->sum;
	OK(close(t->fds[0]));
	OK(close(t->fds[1]));
	free(t);
	(void)arg;
	return (void *)sum;
}

int main(void)
{
	pthread_t threads[8];

	for (int i = 0; i < 8; i++)
		threads[i] = start(run, NULL);
	for (int i = 0; i < 8; i++)
		say("thread %d: %ld", i, (long)(intptr_t)finish(threads[i]));
	return 0;
}
