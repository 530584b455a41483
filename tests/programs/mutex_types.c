/* Mutex types: ownership is the thread's, whatever it does while it holds one. */
#include "prog.h"

static pthread_mutex_t mutex;
static pthread_barrier_t gate;

static void init(int type)
{
	pthread_mutexattr_t attr;

	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_settype(&attr, type));
	ZERO(pthread_mutex_init(&mutex, &attr));
	ZERO(pthread_mutexattr_destroy(&attr));
}

/* Blocks in many ways, so that an owner kept by kernel thread would change. */
static void park_a_lot(void)
{
	for (int i = 0; i < 30; i++) {
		usleep(200);
		sched_yield();
		poll(NULL, 0, 1);
	}
}

static void *other(void *arg)
{
	const char *name = arg;
	struct timespec soon;

	pthread_barrier_wait(&gate); /* main holds it */
	say("%s: other's trylock %s", name, err_name(pthread_mutex_trylock(&mutex)));
	if (strcmp(name, "normal") != 0) /* undefined for a normal one */
		say("%s: other's unlock %s", name,
			err_name(pthread_mutex_unlock(&mutex)));
	soon = to_timespec(now_ns(CLOCK_REALTIME) + 5 * MS);
	say("%s: other's timedlock %s", name,
		err_name(pthread_mutex_timedlock(&mutex, &soon)));
	soon = to_timespec(now_ns(CLOCK_MONOTONIC) + 5 * MS);
	say("%s: other's clocklock %s", name,
		err_name(pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &soon)));
	pthread_barrier_wait(&gate);
	ZERO(pthread_mutex_lock(&mutex)); /* until main lets go */
	park_a_lot();
	ZERO(pthread_mutex_unlock(&mutex));
	return NULL;
}

static void *holder(void *arg)
{
	const char *name = arg;
	pthread_t t;

	ZERO(pthread_mutex_lock(&mutex));
	t = start(other, arg);
	park_a_lot();
	if (strcmp(name, "normal") == 0)
		say("%s: trylock of one's own %s", name,
			err_name(pthread_mutex_trylock(&mutex)));
	else
		say("%s: lock of one's own %s", name,
			err_name(pthread_mutex_lock(&mutex)));
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	park_a_lot();
	if (strcmp(name, "recursive") == 0)
		ZERO(pthread_mutex_unlock(&mutex));
	ZERO(pthread_mutex_unlock(&mutex));
	if (strcmp(name, "normal") != 0)
		say("%s: one unlock too many %s", name,
			err_name(pthread_mutex_unlock(&mutex)));
	finish(t);
	ZERO(pthread_mutex_destroy(&mutex));
	return NULL;
}

/* A counter under contention, with a wait in the critical section. */
static long counter;

static void *contends(void *arg)
{
	for (int i = 0; i < 500; i++) {
		ZERO(pthread_mutex_lock(&mutex));
		long seen = counter;
		if (i % 50 == 0)
			sched_yield();
		counter = seen + 1;
		ZERO(pthread_mutex_unlock(&mutex));
	}
	return arg;
}

int main(void)
{
	static const struct {
		const char *name;
		int type;
	} types[] = {
		{"normal", PTHREAD_MUTEX_NORMAL},
		{"recursive", PTHREAD_MUTEX_RECURSIVE},
		{"errorcheck", PTHREAD_MUTEX_ERRORCHECK},
		{"adaptive", PTHREAD_MUTEX_ADAPTIVE_NP},
	};
	pthread_t threads[16];

	ZERO(pthread_barrier_init(&gate, NULL, 2));
	for (int i = 0; i < 3; i++) {
		init(types[i].type);
		on_thread(holder, (void *)types[i].name);
	}
	for (int i = 0; i < 4; i++) {
		init(types[i].type);
		counter = 0;
		for (int k = 0; k < 16; k++)
			threads[k] = start(contends, NULL);
		for (int k = 0; k < 16; k++)
			finish(threads[k]);
		say("%s: counted %ld", types[i].name, counter);
		ZERO(pthread_mutex_destroy(&mutex));
	}
	return 0;
}
