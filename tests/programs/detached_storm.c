/* COUNT detached threads come and go, at most 100 at once; none is lost. */
#include "prog.h"

#include <semaphore.h>

static sem_t room;
static long ran;

static void *run(void *arg)
{
	volatile char stack[2000];

	memset((void *)stack, 0x5a, sizeof stack); /* the stack is really ours */
	__atomic_fetch_add(&ran, 1, __ATOMIC_SEQ_CST);
	if ((intptr_t)arg % 64 == 0)
		free(malloc(1000)); /* gives the thread a malloc cache to release */
	CHECK(stack[1999] == 0x5a);
	sem_post(&room);
	return NULL;
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 100000;
	pthread_attr_t attr;
	pthread_t t;

	OK(sem_init(&room, 0, 100));
	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	ZERO(pthread_attr_setstacksize(&attr, 16384 * 2));
	for (long i = 0; i < count; i++) {
		OK(sem_wait(&room));
		/* The poster may still be ending: more than 100 exist for a moment. */
		ZERO(pthread_create(&t, &attr, run, (void *)(intptr_t)i));
	}
	for (int i = 0; i < 100; i++)
		OK(sem_wait(&room));
	say("%ld of %ld ran", ran, count);
	return 0;
}
