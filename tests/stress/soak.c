/*
 * soak.c - threads of every kind, many of them, and nothing left of them
 *
 *   soak detached|join|mixed THREADS [SECONDS]
 *
 * Makes that many threads, some hundreds at once, until SECONDS have passed if they are
 * given (then THREADS is that many a round). What the process holds (memory,
 * descriptors, mappings) is looked at when a quarter is done and again at the end: it
 * must not have grown by more than allocators and caches explain. What `mixed` threads
 * do is drawn from WEFT_SEED; each ends in one of the ways in which a thread can.
 */
#include "prog.h"

#include <dirent.h>
#include <semaphore.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum {
	AT_ONCE = 100,
	/*
	 * What may be added between the two looks, at most. Descriptors that no program
	 * has, beyond its limit or at the top below it, are weft's: two more for each
	 * carrier that a busy machine makes it add. A leak has thousands of threads to
	 * show itself.
	 */
	SLACK_KIB = 8192,
	SLACK_MAPPINGS = 400,
	SLACK_BEYOND = 128,
	TOP = 256,
	KINDS = 10,
};

static uint64_t seed;
static sem_t room;
static long started, ran, cleaned;
static pthread_key_t key;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static long guarded;

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* ---- what the process holds ----------------------------------------------- */

struct holdings {
	long kib, descriptors, beyond, mappings;
};

static long status_kib(void)
{
	char line[256];
	long kib = -1;
	FILE *f = fopen("/proc/self/status", "re");

	CHECK(f);
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

static struct holdings look(void)
{
	struct holdings h = {0};
	struct rlimit limit;
	struct dirent *e;
	DIR *dir = opendir("/proc/self/fd");
	FILE *f = fopen("/proc/self/maps", "re");
	int c;

	CHECK(dir && f);
	OK(getrlimit(RLIMIT_NOFILE, &limit));
	while ((e = readdir(dir)))
		*(strtoul(e->d_name, NULL, 10) < limit.rlim_cur - TOP ? &h.descriptors
								      : &h.beyond) += 1;
	closedir(dir);
	while ((c = fgetc(f)) != EOF)
		h.mappings += c == '\n';
	fclose(f);
	h.kib = status_kib();
	return h;
}

static bool grown(const char *what, long from, long to, long slack)
{
	if (to - from <= slack)
		return false;
	say("leak: %s from %ld to %ld", what, from, to);
	return true;
}

/* ---- threads --------------------------------------------------------------- */

static void clean(void *arg)
{
	__atomic_fetch_add((long *)arg, 1, __ATOMIC_SEQ_CST);
}

static void *plain(void *arg)
{
	volatile char stack[2000];

	memset((void *)stack, 0x5a, sizeof stack);
	__atomic_fetch_add(&ran, 1, __ATOMIC_SEQ_CST);
	CHECK(stack[1999] == 0x5a);
	if (arg)
		sem_post(arg);
	return NULL;
}

static void echo_once(uint64_t *random)
{
	char out = (char)draw(random), in = 0;
	int fds[2];

	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	CHECK(write(fds[0], &out, 1) == 1);
	CHECK(read(fds[1], &in, 1) == 1 && in == out);
	close(fds[0]);
	close(fds[1]);
}

static void tick(uint64_t *random)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	struct itimerspec at = {.it_value = {0, 1 + (long)(draw(random) % 300000)}};
	struct timespec limit = {10, 0};
	sigset_t set;
	timer_t timer;

	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	OK(timer_create(CLOCK_MONOTONIC, &ev, &timer));
	OK(timer_settime(timer, 0, &at, NULL));
	CHECK(sigtimedwait(&set, NULL, &limit) == SIGUSR1);
	OK(timer_delete(timer));
}

static void unlock(void *arg)
{
	pthread_mutex_unlock(arg);
}

static void wait_for_nobody(uint64_t *random)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_nsec += (long)(draw(random) % 2000000);
	if (at.tv_nsec >= 1000000000) {
		at.tv_nsec -= 1000000000;
		at.tv_sec++;
	}
	pthread_mutex_lock(&mutex);
	pthread_cleanup_push(unlock, &mutex);
	pthread_cond_timedwait(&cond, &mutex, &at);
	pthread_cleanup_pop(1);
}

static void do_something(uint64_t *random, uint64_t kind)
{
	bool holds_something = kind != 1 && kind != 2 && kind != 8;
	int fd, old;

	/* What is cancelled there would leave a descriptor, a timer or a lock behind. */
	if (holds_something)
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	switch (kind) {
	case 0:
		echo_once(random);
		break;
	case 1:
		usleep((useconds_t)(draw(random) % 1000));
		break;
	case 2:
		wait_for_nobody(random);
		break;
	case 3:
		pthread_mutex_lock(&mutex);
		guarded++;
		if (draw(random) % 4 == 0)
			sched_yield();
		guarded--;
		CHECK(guarded == 0);
		pthread_mutex_unlock(&mutex);
		pthread_cond_broadcast(&cond);
		break;
	case 4:
		pthread_rwlock_rdlock(&rwlock);
		pthread_rwlock_unlock(&rwlock);
		pthread_rwlock_wrlock(&rwlock);
		pthread_rwlock_unlock(&rwlock);
		break;
	case 5:
		tick(random);
		break;
	case 6:
		fd = OK(eventfd(0, 0));
		CHECK(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 1) == 0);
		close(fd);
		break;
	case 7:
		free(malloc(1 + draw(random) % 200000));
		break;
	case 8:
		poll(NULL, 0, (int)(draw(random) % 2));
		break;
	default:
		sched_yield();
		break;
	}
	if (holds_something)
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
}

static void *mixed(void *arg)
{
	uint64_t random = seed ^ (uint64_t)(uintptr_t)arg * UINT64_C(0x2545f4914f6cdd1d);

	__atomic_fetch_add(&ran, 1, __ATOMIC_SEQ_CST);
	pthread_setspecific(key, &cleaned);
	for (uint64_t n = draw(&random) % 3; n; n--)
		do_something(&random, draw(&random) % KINDS);
	switch (draw(&random) % 3) {
	case 0:
		pthread_exit(arg);
	case 1:
		pause(); /* until it is cancelled */
	}
	return arg;
}

/* Made, told apart by their numbers, and seen off; the last way is cancelling. */
static void run_mixed(long count)
{
	pthread_t threads[AT_ONCE];

	for (long done = 0; done < count; done += AT_ONCE) {
		for (long i = 0; i < AT_ONCE; i++)
			threads[i] = start(mixed, (void *)(uintptr_t)++started);
		for (int i = 0; i < AT_ONCE; i++) {
			pthread_cancel(threads[i]);
			ZERO(pthread_join(threads[i], NULL));
		}
	}
}

static void run_joined(long count)
{
	pthread_t threads[AT_ONCE];

	for (long done = 0; done < count; done += AT_ONCE) {
		for (int i = 0; i < AT_ONCE; i++)
			threads[i] = start(plain, NULL);
		for (int i = 0; i < AT_ONCE; i++)
			ZERO(pthread_join(threads[i], NULL));
		started += AT_ONCE;
	}
}

static void run_detached(long count)
{
	pthread_attr_t attr;
	pthread_t t;

	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	for (long i = 0; i < count; i++) {
		OK(sem_wait(&room));
		ZERO(pthread_create(&t, &attr, plain, &room));
		started++;
	}
	for (int i = 0; i < AT_ONCE; i++)
		OK(sem_wait(&room));
	for (int i = 0; i < AT_ONCE; i++)
		OK(sem_post(&room));
	ZERO(pthread_attr_destroy(&attr));
}

int main(int argc, char **argv)
{
	void (*run)(long) = run_mixed;
	uint64_t until = 0, rounds = 0;
	struct holdings before, after;
	bool bad = false;
	sigset_t set;
	long count;

	CHECK(argc >= 3);
	count = (atol(argv[2]) + 4 * AT_ONCE - 1) / (4 * AT_ONCE) * AT_ONCE;
	if (!strcmp(argv[1], "detached"))
		run = run_detached;
	else if (!strcmp(argv[1], "join"))
		run = run_joined;
	if (getenv("WEFT_SEED"))
		seed = strtoull(getenv("WEFT_SEED"), NULL, 10);
	OK(sem_init(&room, 0, AT_ONCE));
	ZERO(pthread_key_create(&key, clean));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	if (argc > 3)
		until = now_ns(CLOCK_MONOTONIC) + (uint64_t)atol(argv[3]) * 1000 * MS;
	run(count);
	before = look();
	do
		for (int i = 0; i < 3; i++)
			run(count);
	while (++rounds && until && now_ns(CLOCK_MONOTONIC) < until);
	after = look();
	say("all ran: %s", ran == started || run == run_mixed ? "yes" : "no");
	bad |= ran != started && run != run_mixed;
	bad |= grown("memory in KiB", before.kib, after.kib, SLACK_KIB);
	bad |= grown("descriptors", before.descriptors, after.descriptors, 0);
	bad |= grown("descriptors of weft's", before.beyond, after.beyond, SLACK_BEYOND);
	bad |= grown("mappings", before.mappings, after.mappings, SLACK_MAPPINGS);
	say("%s", bad ? "something is left" : "nothing is left");
	return bad;
}
