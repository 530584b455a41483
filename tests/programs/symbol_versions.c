/*
 * Linked against old versions of the symbols, as programs from before glibc 2.34 are:
 * pthread_create@GLIBC_2.2.5 and friends. They must be threads like any other.
 */
#include "prog.h"

__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
__asm__(".symver pthread_detach, pthread_detach@GLIBC_2.2.5");
__asm__(".symver pthread_mutex_lock, pthread_mutex_lock@GLIBC_2.2.5");
__asm__(".symver pthread_mutex_unlock, pthread_mutex_unlock@GLIBC_2.2.5");
__asm__(".symver pthread_cond_wait, pthread_cond_wait@GLIBC_2.3.2");
__asm__(".symver pthread_cond_signal, pthread_cond_signal@GLIBC_2.3.2");
__asm__(".symver pthread_once, pthread_once@GLIBC_2.2.5");
__asm__(".symver nanosleep, nanosleep@GLIBC_2.2.5");
__asm__(".symver poll, poll@GLIBC_2.2.5");
__asm__(".symver read, read@GLIBC_2.2.5");
__asm__(".symver accept, accept@GLIBC_2.2.5");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int pipe_fds[2], done;

static void *run(void *arg)
{
	struct timespec ts = {0, 1000000};
	char c;

	CHECK(read(pipe_fds[0], &c, 1) == 1);
	CHECK(nanosleep(&ts, NULL) == 0);
	CHECK(poll(NULL, 0, 1) == 0);
	pthread_mutex_lock(&lock);
	done++;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
	return arg;
}

/* The condition variables of the oldest interface are other objects altogether. */
typedef struct {
	void *cond;
} old_cond;
int old_cond_wait(old_cond *, pthread_mutex_t *);
int old_cond_signal(old_cond *);
int old_cond_init(old_cond *, const pthread_condattr_t *);
__asm__(".symver old_cond_wait, pthread_cond_wait@GLIBC_2.2.5");
__asm__(".symver old_cond_signal, pthread_cond_signal@GLIBC_2.2.5");
__asm__(".symver old_cond_init, pthread_cond_init@GLIBC_2.2.5");

static struct {
	old_cond cond;
	char guard[8]; /* a new condition variable would be 40 bytes longer */
} old;
static bool go;

static void *waits_old(void *arg)
{
	pthread_mutex_lock(&lock);
	while (!go)
		old_cond_wait(&old.cond, &lock);
	pthread_mutex_unlock(&lock);
	return arg;
}

int main(void)
{
	pthread_t threads[10];

	OK(pipe(pipe_fds));
	for (int i = 0; i < 10; i++)
		threads[i] = start(run, NULL);
	OK(write(pipe_fds[1], "0123456789", 10));
	pthread_mutex_lock(&lock);
	while (done < 10)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < 10; i++)
		finish(threads[i]);
	say("%d threads", done);

	memset(old.guard, 0x77, sizeof old.guard);
	old_cond_init(&old.cond, NULL);
	pthread_t t = start(waits_old, NULL);
	settle();
	pthread_mutex_lock(&lock);
	go = true;
	old_cond_signal(&old.cond);
	pthread_mutex_unlock(&lock);
	finish(t);
	say("old condition variable: guard whole %d",
		old.guard[0] == 0x77 && old.guard[7] == 0x77);
	return 0;
}
