/*
 * Threads that touch memory which somebody serves late (userfaultfd, as live migration
 * and user-space swap do), more of them than there are CPUs. Their page faults end only
 * when the others have got on: those that relay bytes, one that sleeps and counts, the
 * main thread, and the thread that serves the faults, which all run beside them.
 */
#include "faults.h"

#define TOUCHERS 16
#define RELAYS   20
#define TURNS    200
#define ROUNDS   3

static int uffd, ring[2], touching, relayed, ticks, round_now;
static char *memory;

static void *touches(void *arg)
{
	int i = (int)(intptr_t)arg;
	const volatile char *page = memory + (size_t)(round_now * TOUCHERS + i) * PAGE;
	char c;

	__atomic_fetch_add(&touching, 1, __ATOMIC_SEQ_CST);
	c = *page;
	return (void *)(intptr_t)c;
}

static void *relays(void *arg)
{
	char c;

	for (int n = 0; n < TURNS / RELAYS; n++) {
		CHECK(read(ring[0], &c, 1) == 1);
		__atomic_fetch_add(&relayed, 1, __ATOMIC_SEQ_CST);
		CHECK(write(ring[1], &c, 1) == 1);
	}
	return arg;
}

static void *counts(void *arg)
{
	for (int i = 0; i < 20; i++) {
		usleep(500);
		__atomic_fetch_add(&ticks, 1, __ATOMIC_SEQ_CST);
	}
	return arg;
}

static int at(int *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* Reads the faults at once, and answers when there is nobody left to wait for. */
static void *serves(void *arg)
{
	struct uffd_msg msg;
	bool faulted[TOUCHERS] = {false};

	/* A signal ends a fault, which then begins anew and is told again. */
	for (int left = TOUCHERS; left;) {
		CHECK(read(uffd, &msg, sizeof msg) == sizeof msg);
		CHECK(msg.event == UFFD_EVENT_PAGEFAULT);
		size_t n = (msg.arg.pagefault.address - (uint64_t)memory) / PAGE;

		if (n / TOUCHERS != (size_t)round_now)
			continue; /* of an earlier round, told again */
		left -= !faulted[n % TOUCHERS];
		faulted[n % TOUCHERS] = true;
	}
	while (at(&relayed) < TURNS || at(&ticks) < 20)
		usleep(500);
	for (int i = 0; i < TOUCHERS; i++)
		OK(faults_serve(uffd, memory, (size_t)round_now * TOUCHERS + (size_t)i));
	return arg;
}

static void one_round(void)
{
	pthread_t t[TOUCHERS], r[RELAYS], server, counter;
	char rest[3];
	int wrong = 0;

	touching = relayed = ticks = 0;
	for (int i = 0; i < RELAYS; i++)
		r[i] = start(relays, NULL);
	server = start(serves, NULL);
	for (int i = 0; i < TOUCHERS; i++)
		t[i] = start(touches, (void *)(intptr_t)i);
	counter = start(counts, NULL);
	while (at(&touching) < TOUCHERS)
		usleep(100);
	OK(write(ring[1], "abc", 3));
	for (int i = 0; i < TOUCHERS; i++)
		wrong += (intptr_t)finish(t[i]) != round_now * TOUCHERS + i + 1;
	for (int i = 0; i < RELAYS; i++)
		finish(r[i]);
	finish(server);
	finish(counter);
	for (int left = 3; left;)
		left -= (int)OK(read(ring[0], rest, (size_t)left));
	say("round %d: %d relayed, %d ticks, %d wrong", round_now, relayed, ticks, wrong);
}

int main(void)
{
	const size_t size = (size_t)ROUNDS * TOUCHERS * PAGE;
	uffd = faults_open(UFFD_USER_MODE_ONLY, size, &memory);
	OK(pipe(ring));
	for (; round_now < ROUNDS; round_now++)
		one_round();
	return 0;
}
