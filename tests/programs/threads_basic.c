/* Creation, results, attributes, pthread_exit, once, keys and their destructors. */
#include "prog.h"

static pthread_key_t key_a, key_b;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_runs, destructor_runs_a, destructor_runs_b;

static void run_once(void)
{
	usleep(1000); /* the others must wait for the end, not for the start */
	once_runs++;
}

static void destroy_a(void *value)
{
	(void)value;
	__atomic_fetch_add(&destructor_runs_a, 1, __ATOMIC_SEQ_CST);
}

/* Sets the value again: POSIX lets glibc run it up to four times. */
static void destroy_b(void *value)
{
	__atomic_fetch_add(&destructor_runs_b, 1, __ATOMIC_SEQ_CST);
	ZERO(pthread_setspecific(key_b, value));
}

static void *twice_plus_one(void *arg)
{
	return (void *)((intptr_t)arg * 2 + 1);
}

static void deep_exit(intptr_t depth)
{
	if (depth == 0)
		pthread_exit((void *)42);
	deep_exit(depth - 1);
	say("not reached");
}

static void *exits_deep(void *arg)
{
	deep_exit((intptr_t)arg);
	return NULL;
}

static void *uses_keys(void *arg)
{
	CHECK(pthread_getspecific(key_a) == NULL);
	ZERO(pthread_setspecific(key_a, arg));
	ZERO(pthread_setspecific(key_b, arg));
	sched_yield();
	CHECK(pthread_getspecific(key_a) == arg);
	return NULL;
}

static void *calls_once(void *arg)
{
	ZERO(pthread_once(&once, run_once));
	CHECK(once_runs == 1);
	return arg;
}

static void *own_id(void *arg)
{
	*(pthread_t *)arg = pthread_self();
	return NULL;
}

static void cleanup(void *arg)
{
	strcat((char *)arg, "c");
}

static void *exits_with_cleanup(void *arg)
{
	pthread_cleanup_push(cleanup, arg);
	pthread_cleanup_push(cleanup, arg);
	pthread_exit(NULL);
	pthread_cleanup_pop(0);
	pthread_cleanup_pop(0);
	return NULL;
}

static int pipe_fds[2];

static void *writes_and_ends(void *arg)
{
	OK(write(pipe_fds[1], arg, 1));
	return NULL;
}

static void attributes(void)
{
	pthread_attr_t attr;
	pthread_t t;
	int state;

	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	ZERO(pthread_attr_getdetachstate(&attr, &state));
	CHECK(state == PTHREAD_CREATE_DETACHED);
	say("stack size 1: %s", err_name(pthread_attr_setstacksize(&attr, 1)));
	say("detach state 9: %s", err_name(pthread_attr_setdetachstate(&attr, 9)));
	char letter = 'd', got;
	ZERO(pthread_create(&t, &attr, writes_and_ends, &letter));
	CHECK(read(pipe_fds[0], &got, 1) == 1);
	say("detached thread wrote %c", got);
	ZERO(pthread_attr_destroy(&attr));
}

int main(void)
{
	pthread_t threads[50], id;
	intptr_t sum = 0;
	char trail[8] = "";

	for (intptr_t i = 0; i < 50; i++)
		threads[i] = start(twice_plus_one, (void *)i);
	for (int i = 0; i < 50; i++)
		sum += (intptr_t)finish(threads[i]);
	say("sum of results %ld", (long)sum);

	say("pthread_exit from the depth: %ld",
		(long)(intptr_t)on_thread(exits_deep, (void *)30));
	on_thread(exits_with_cleanup, trail);
	say("cleanup handlers: %s", trail);

	threads[0] = start(own_id, &id);
	finish(threads[0]);
	say("own id is the creator's: %d", pthread_equal(threads[0], id) != 0);
	say("join of oneself: %s", err_name(pthread_join(pthread_self(), NULL)));

	for (intptr_t i = 0; i < 20; i++)
		threads[i] = start(calls_once, NULL);
	for (int i = 0; i < 20; i++)
		finish(threads[i]);
	say("once ran %d time", once_runs);

	ZERO(pthread_key_create(&key_a, destroy_a));
	ZERO(pthread_key_create(&key_b, destroy_b));
	for (intptr_t i = 0; i < 20; i++)
		threads[i] = start(uses_keys, (void *)(i + 1));
	for (int i = 0; i < 20; i++)
		finish(threads[i]);
	say("destructors ran %d and %d times", destructor_runs_a, destructor_runs_b);

	OK(pipe(pipe_fds));
	attributes();
	threads[0] = start(writes_and_ends, trail);
	ZERO(pthread_detach(threads[0]));
	CHECK(read(pipe_fds[0], trail, 1) == 1);
	say("done");
	return 0;
}
