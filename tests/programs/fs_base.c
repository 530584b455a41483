/*
 * FS base asked for and set by the program itself: each thread has its own, on whatever
 * kernel thread it runs, and nobody else's.
 */
#include "../support/prog.h"

#include <asm/prctl.h>
#include <semaphore.h>
#include <sys/syscall.h>

enum { THREADS = 24, ROUNDS = 100, BEFORE = 16384, AFTER = 4096 };

static __thread volatile int mine; /* the compiler must not move it over a call */
static sem_t turn[THREADS];

static uintptr_t asked(void)
{
	uintptr_t fs = 0;

	OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
	return fs;
}

static uintptr_t used(void)
{
	uintptr_t fs;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(fs));
	return fs;
}

/* Waits that let others run, and computing that the kernel interrupts. */
static void pass_on(int me)
{
	const struct timespec us = {0, 1000};
	volatile unsigned work = 0;

	ZERO(sem_post(&turn[(me + 1) % THREADS]));
	while (sem_wait(&turn[me]) && errno == EINTR)
		;
	if (me % 3 == 0)
		nanosleep(&us, NULL);
	if (me % 5 == 0)
		sched_yield();
	for (int i = 0; i < 20000; i++)
		work += (unsigned)i;
}

static void *run(void *arg)
{
	int me = (int)(intptr_t)arg;
	uintptr_t own = asked(), away = 0;
	char *copy = NULL;

	CHECK(own == used());
	mine = me;
	/* A copy of all there is: libc's pointers in it lead to the original. */
	if (me % 2) {
		CHECK((copy = aligned_alloc(64, BEFORE + AFTER)));
		away = (uintptr_t)copy + BEFORE;
	}
	for (int i = 0; i < ROUNDS; i++) {
		pass_on(me);
		CHECK(asked() == own && used() == own && mine == me);
		if (!away) {
			pass_on(me);
			continue;
		}
		memcpy(copy + BEFORE - 2048, (void *)(own - 2048), 2048 + 2304);
		OK(syscall(SYS_arch_prctl, ARCH_SET_FS, away));
		mine = me + 1000;
		pass_on(me);
		CHECK(asked() == away && mine == me + 1000);
		OK(syscall(SYS_arch_prctl, ARCH_SET_FS, own));
		CHECK(mine == me);
	}
	free(copy);
	return NULL;
}

int main(void)
{
	pthread_t t[THREADS];
	uintptr_t own = asked();

	say("bad address: %s", RESULT(syscall(SYS_arch_prctl, ARCH_GET_FS, 8l)));
	say("not the program's: %s",
		RESULT(syscall(SYS_arch_prctl, ARCH_SET_FS, 0xffff800000000000ul)));
	for (int i = 0; i < THREADS; i++)
		ZERO(sem_init(&turn[i], 0, 0));
	for (int i = 0; i < THREADS; i++)
		ZERO(pthread_create(&t[i], NULL, run, (void *)(intptr_t)i));
	say("bad address: %s", RESULT(syscall(SYS_arch_prctl, ARCH_GET_FS, 8l)));
	say("not the program's: %s",
		RESULT(syscall(SYS_arch_prctl, ARCH_SET_FS, 0xffff800000000000ul)));
	for (int i = 0; i < THREADS; i++)
		ZERO(pthread_join(t[i], NULL));
	CHECK(asked() == own && used() == own);
	say("%d threads kept theirs", THREADS);
	return 0;
}
