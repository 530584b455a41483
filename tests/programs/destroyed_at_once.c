/*
 * What synchronises two threads may be destroyed, and its memory unmapped, as soon as
 * POSIX says so: by the one who was let go, while the other is still on its way out.
 */
#include "prog.h"

#include <semaphore.h>
#include <sys/mman.h>

#define ROUNDS 40

struct page {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_barrier_t barrier;
	pthread_rwlock_t rwlock;
	sem_t sem;
	int ready, waiting;
};

static struct page *fresh(void)
{
	struct page *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	ZERO(pthread_mutex_init(&p->mutex, NULL));
	ZERO(pthread_cond_init(&p->cond, NULL));
	ZERO(pthread_barrier_init(&p->barrier, NULL, 2));
	ZERO(pthread_rwlock_init(&p->rwlock, NULL));
	OK(sem_init(&p->sem, 0, 0));
	return p;
}

static void drop(struct page *p)
{
	memset(p, 0xa5, sizeof *p);
	OK(munmap(p, sizeof *p));
}

static void *posts(void *arg)
{
	struct page *p = arg;

	OK(sem_post(&p->sem));
	return NULL;
}

static void *meets(void *arg)
{
	struct page *p = arg;

	pthread_barrier_wait(&p->barrier);
	return NULL;
}

static void *unlocks(void *arg)
{
	struct page *p = arg;

	ZERO(pthread_mutex_lock(&p->mutex));
	p->ready = 1;
	ZERO(pthread_mutex_unlock(&p->mutex));
	return NULL;
}

static void *waits(void *arg)
{
	struct page *p = arg;

	ZERO(pthread_mutex_lock(&p->mutex));
	p->waiting++;
	while (!p->ready)
		ZERO(pthread_cond_wait(&p->cond, &p->mutex));
	ZERO(pthread_mutex_unlock(&p->mutex));
	return NULL;
}

static void *reads(void *arg)
{
	struct page *p = arg;

	ZERO(pthread_rwlock_rdlock(&p->rwlock));
	__atomic_store_n(&p->ready, 1, __ATOMIC_SEQ_CST);
	ZERO(pthread_rwlock_unlock(&p->rwlock));
	return NULL;
}

static void *round_of_all(void *arg)
{
	pthread_t t, more[3];
	struct page *p;

	for (int i = 0; i < ROUNDS; i++) {
		p = fresh();
		t = start(posts, p);
		OK(sem_wait(&p->sem));
		OK(sem_destroy(&p->sem));
		drop(p);
		finish(t);

		p = fresh();
		t = start(meets, p);
		pthread_barrier_wait(&p->barrier);
		ZERO(pthread_barrier_destroy(&p->barrier));
		drop(p);
		finish(t);

		/* Who saw `ready` under the lock is the last one to hold it. */
		p = fresh();
		t = start(unlocks, p);
		for (bool seen = false; !seen; sched_yield()) {
			ZERO(pthread_mutex_lock(&p->mutex));
			seen = p->ready;
			ZERO(pthread_mutex_unlock(&p->mutex));
		}
		ZERO(pthread_mutex_destroy(&p->mutex));
		drop(p);
		finish(t);

		/* pthread_cond_destroy waits for those that were woken. */
		p = fresh();
		for (int k = 0; k < 3; k++)
			more[k] = start(waits, p);
		for (bool all = false; !all; sched_yield()) {
			ZERO(pthread_mutex_lock(&p->mutex));
			all = p->waiting == 3;
			if (all) {
				p->ready = 1;
				ZERO(pthread_cond_broadcast(&p->cond));
				ZERO(pthread_cond_destroy(&p->cond));
			}
			ZERO(pthread_mutex_unlock(&p->mutex));
		}
		for (int k = 0; k < 3; k++)
			finish(more[k]);
		drop(p);

		p = fresh();
		t = start(reads, p);
		while (!__atomic_load_n(&p->ready, __ATOMIC_SEQ_CST))
			sched_yield();
		ZERO(pthread_rwlock_wrlock(&p->rwlock));
		ZERO(pthread_rwlock_unlock(&p->rwlock));
		ZERO(pthread_rwlock_destroy(&p->rwlock));
		finish(t);
		drop(p);
	}
	return arg;
}

int main(void)
{
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		threads[i] = start(round_of_all, NULL);
	for (int i = 0; i < 3; i++)
		finish(threads[i]);
	say("%d rounds", 3 * ROUNDS);
	return 0;
}
