/*
 * weft.h: threads that ask to stay on their kernel thread, more than there are carriers,
 * and all blocked at once: in sockets, sleeps, mutexes, condition variables, a call that
 * only the kernel can wait for. Each sees one kernel thread id all along, by a system
 * call instruction of its own; the others go on beside them and let them go. Without weft
 * the functions are NULL. Unpinning once too often does nothing.
 */
#include "prog.h"

#include "../../preload/weft.h"
#include <sys/file.h>
#include <sys/syscall.h>

#define PINNED 20
#define OTHERS 20
#define ROUNDS 10

static int pairs[PINNED][2], ring[2], waiting, moved, turn;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static int kernel_thread(void)
{
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(SYS_gettid) : "rcx", "r11", "memory");
	return (int)r;
}

static void *is_pinned(void *arg)
{
	int i = (int)(intptr_t)arg;
	char c;

	WEFT_PIN();
	WEFT_PIN();
	int tid = kernel_thread();

	WEFT_UNPIN();
	for (int n = 0; n < ROUNDS; n++) {
		__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
		CHECK(read(pairs[i][0], &c, 1) == 1);
		if (kernel_thread() != tid)
			__atomic_store_n(&moved, 1, __ATOMIC_SEQ_CST);
		usleep(300);
		sched_yield();
		ZERO(pthread_mutex_lock(&mutex));
		turn++;
		ZERO(pthread_cond_broadcast(&cond));
		if (n % 3 == 0)
			usleep(50);
		ZERO(pthread_mutex_unlock(&mutex));
		if (kernel_thread() != tid)
			__atomic_store_n(&moved, 1, __ATOMIC_SEQ_CST);
	}
	WEFT_UNPIN();
	usleep(100);
	return arg;
}

static void *relays(void *arg)
{
	char c;

	for (int n = 0; n < ROUNDS; n++) {
		CHECK(read(ring[0], &c, 1) == 1);
		usleep(200);
		CHECK(write(ring[1], &c, 1) == 1);
	}
	return arg;
}

static void *releases(void *arg)
{
	for (int n = 0; n < ROUNDS; n++) {
		/* all of them are blocked, or about to be */
		while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < (n + 1) * PINNED)
			usleep(500);
		for (int i = 0; i < PINNED; i++)
			OK(write(pairs[i][1], "x", 1));
		ZERO(pthread_mutex_lock(&mutex));
		while (turn < (n + 1) * PINNED)
			ZERO(pthread_cond_wait(&cond, &mutex));
		ZERO(pthread_mutex_unlock(&mutex));
	}
	return arg;
}

static void *ends_pinned(void *arg)
{
	WEFT_PIN();
	usleep(100);
	return arg;
}

int main(void)
{
	pthread_t pinned[PINNED], others[OTHERS], last;

	OK(pipe(ring));
	for (int i = 0; i < PINNED; i++)
		unix_pair(pairs[i]);
	for (int i = 0; i < PINNED; i++)
		pinned[i] = start(is_pinned, (void *)(intptr_t)i);
	for (int i = 0; i < OTHERS; i++)
		others[i] = start(relays, NULL);
	OK(write(ring[1], "abc", 3));
	last = start(releases, NULL);
	for (int i = 0; i < PINNED; i++)
		finish(pinned[i]);
	for (int i = 0; i < OTHERS; i++)
		finish(others[i]);
	finish(last);
	say("%d turns, %s", turn, moved ? "moved" : "none moved");
	for (int i = 0; i < 50; i++)
		on_thread(ends_pinned, NULL);
	say("ended pinned");
	WEFT_PIN();
	usleep(1000);
	WEFT_UNPIN();
	say("main too");
	return 0;
}
