/*
 * greedy_owner.c - a thread takes a lock again as soon as it has given it back, and
 * waits with it now and then. Others get it all the same, each several times: a mutex,
 * one that is tried for 12 ms at a time, a semaphore, a rwlock, a flag under a mutex, and
 * the mutexes and semaphores of several processes.
 */
#include "prog.h"

#include <semaphore.h>
#include <stdatomic.h>

enum { OTHERS = 3, TIMES = 5 };
enum kind {
	MUTEX,
	TIMED,
	SEMAPHORE,
	RWLOCK,
	FLAG,
	SHARED_MUTEX,
	SHARED_SEMAPHORE,
	KINDS
};
static const char *const kind_name[] = {"mutex", "timed mutex", "semaphore", "rwlock",
	"flag", "shared mutex", "shared semaphore"};

static enum kind kind;
static pthread_mutex_t mutex, *shared_mutex;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t semaphore, *shared_semaphore;
static bool taken;
static atomic_int done;

static void take(void)
{
	struct timespec until;
	int err;

	switch (kind) {
	case MUTEX:
		ZERO(pthread_mutex_lock(&mutex));
		break;
	case TIMED:
		do {
			until = to_timespec(now_ns(CLOCK_REALTIME) + 12 * MS);
			err = pthread_mutex_timedlock(&mutex, &until);
		} while (err == ETIMEDOUT);
		ZERO(err);
		break;
	case SEMAPHORE:
		OK(sem_wait(&semaphore));
		break;
	case RWLOCK:
		ZERO(pthread_rwlock_wrlock(&rwlock));
		break;
	case FLAG:
		ZERO(pthread_mutex_lock(&mutex));
		while (taken)
			ZERO(pthread_cond_wait(&cond, &mutex));
		taken = true;
		ZERO(pthread_mutex_unlock(&mutex));
		break;
	case SHARED_MUTEX:
		ZERO(pthread_mutex_lock(shared_mutex));
		break;
	default:
		OK(sem_wait(shared_semaphore));
	}
}

static void give_back(void)
{
	switch (kind) {
	case MUTEX:
	case TIMED:
		ZERO(pthread_mutex_unlock(&mutex));
		break;
	case SEMAPHORE:
		OK(sem_post(&semaphore));
		break;
	case RWLOCK:
		ZERO(pthread_rwlock_unlock(&rwlock));
		break;
	case FLAG:
		ZERO(pthread_mutex_lock(&mutex));
		taken = false;
		ZERO(pthread_cond_signal(&cond));
		ZERO(pthread_mutex_unlock(&mutex));
		break;
	case SHARED_MUTEX:
		ZERO(pthread_mutex_unlock(shared_mutex));
		break;
	default:
		OK(sem_post(shared_semaphore));
	}
}

static void *greedy(void *arg)
{
	for (unsigned n = 0; atomic_load(&done) < OTHERS; n++) {
		take();
		for (volatile int i = 0; i < 1000; i++)
			;
		if (n % 100 == 0)
			usleep(5000);
		give_back();
	}
	return arg;
}

static void *other(void *arg)
{
	for (int i = 0; i < TIMES; i++) {
		take();
		give_back();
		usleep(1);
	}
	atomic_fetch_add(&done, 1);
	return arg;
}

int main(void)
{
	pthread_mutexattr_t attr;

	ZERO(pthread_mutex_init(&mutex, NULL));
	OK(sem_init(&semaphore, 0, 1));
	shared_mutex = shared_memory(sizeof *shared_mutex);
	shared_semaphore = shared_memory(sizeof *shared_semaphore);
	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutex_init(shared_mutex, &attr));
	OK(sem_init(shared_semaphore, 1, 1));
	for (kind = MUTEX; kind < KINDS; kind++) {
		pthread_t t[1 + OTHERS];

		atomic_store(&done, 0);
		t[0] = start(greedy, NULL);
		for (int i = 1; i <= OTHERS; i++)
			t[i] = start(other, NULL);
		for (int i = 0; i <= OTHERS; i++)
			finish(t[i]);
		say("%s: %d had it %d times each", kind_name[kind], OTHERS, TIMES);
	}
	return 0;
}
