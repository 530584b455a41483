/*
 * micro.c - what threads cost: to make, to hold, to switch, to put to sleep.
 *
 * Run it natively and under weft, on one core, and compare:
 *
 *	taskset -c 0 micro cond 100000
 *	taskset -c 0 weft micro cond 100000
 *
 *	micro spawn N STACK_KB    N threads alive at once, then all joined;
 *	                          stops where the system stops (0: default stack)
 *	micro serial N            create and join, N times one after the other
 *	micro cond N              two threads pass a turn N times, mutex and
 *	                          condition variable
 *	micro sem N               the same with two semaphores
 *	micro yield N             two threads call sched_yield() N times each
 *	micro sleep N SECONDS     N threads sleep 1 to 100 ms again and again;
 *	                          how late do they wake?
 *	micro hogs N HOGS SECONDS MS
 *	                          N threads in pairs, one asks every MS milliseconds or
 *	                          so, the other answers, beside HOGS threads that
 *	                          compute; how long does an answer take?
 *	micro turns N PAIRS SECONDS MS
 *	                          the same beside PAIRS pairs of threads that do
 *	                          nothing but hand a turn to and fro
 *
 * Each prints one line of key=value. scripts/bench.sh runs them all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000u

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* A number of kB, or a plain one, from a file of /proc. */
static long field_of(const char *file, const char *key)
{
	char line[256];
	long value = 0;
	FILE *f = fopen(file, "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)) == 0) {
			value = atol(line + strlen(key));
			break;
		}
	}
	fclose(f);
	return value;
}

static void check(int error, const char *what)
{
	if (!error)
		return;
	fprintf(stderr, "micro: %s: %s\n", what, strerror(error));
	exit(1);
}

/* ------------------------------------------------------------------ */
/* spawn                                                               */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_opened = PTHREAD_COND_INITIALIZER;
static pthread_cond_t all_arrived = PTHREAD_COND_INITIALIZER;
static long arrived, awaited = LONG_MAX;
static int gate_open;

static void *wait_at_gate(void *arg)
{
	pthread_mutex_lock(&gate_lock);
	if (++arrived == awaited)
		pthread_cond_signal(&all_arrived);
	while (!gate_open)
		pthread_cond_wait(&gate_opened, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	return arg;
}

static void spawn(long count, long stack_kb)
{
	pthread_t *threads = malloc((size_t)count * sizeof(*threads));
	long made = 0, rss, available, kernel_threads;
	uint64_t begin, alive, release, end;
	pthread_attr_t attr;
	int error = 0;

	check(threads ? 0 : ENOMEM, "malloc");
	/* Touched before the memory is looked at: it is not the threads'. */
	memset(threads, 1, (size_t)count * sizeof(*threads));
	pthread_attr_init(&attr);
	if (stack_kb)
		check(pthread_attr_setstacksize(&attr, (size_t)stack_kb * 1024),
			"stack size");
	rss = field_of("/proc/self/status", "VmRSS:");
	available = field_of("/proc/meminfo", "MemAvailable:");

	begin = now_ns();
	while (made < count) {
		error = pthread_create(&threads[made], &attr, wait_at_gate, (void *)made);
		if (error)
			break;
		made++;
	}
	pthread_mutex_lock(&gate_lock);
	awaited = made;
	while (arrived < made)
		pthread_cond_wait(&all_arrived, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	alive = now_ns();

	rss = field_of("/proc/self/status", "VmRSS:") - rss;
	kernel_threads = field_of("/proc/self/status", "Threads:");
	available -= field_of("/proc/meminfo", "MemAvailable:");

	release = now_ns();
	pthread_mutex_lock(&gate_lock);
	gate_open = 1;
	pthread_cond_broadcast(&gate_opened);
	pthread_mutex_unlock(&gate_lock);
	for (long i = 0; i < made; i++) {
		void *result;

		check(pthread_join(threads[i], &result), "pthread_join");
		if (result != (void *)i) {
			fprintf(stderr, "micro: thread %ld returned %ld\n", i,
				(long)result);
			exit(1);
		}
	}
	end = now_ns();

	printf("spawn wanted=%ld alive=%ld stopped_by=%s kernel_threads=%ld "
	       "create_s=%.3f finish_s=%.3f rss_kb_each=%.2f "
	       "memavail_kb_each=%.2f\n",
		count, made,
		error == EAGAIN   ? "EAGAIN"
		: error == ENOMEM ? "ENOMEM"
		: error           ? "other"
				  : "nothing",
		kernel_threads, (double)(alive - begin) / SECOND,
		(double)(end - release) / SECOND, made ? (double)rss / (double)made : 0,
		made ? (double)available / (double)made : 0);
	free(threads);
}

/* ------------------------------------------------------------------ */
/* serial                                                              */

static void *give_back(void *arg)
{
	return arg;
}

static void serial(long count)
{
	uint64_t begin = now_ns();

	for (long i = 0; i < count; i++) {
		pthread_t thread;
		void *result;

		check(pthread_create(&thread, NULL, give_back, (void *)i),
			"pthread_create");
		check(pthread_join(thread, &result), "pthread_join");
		check(result == (void *)i ? 0 : EINVAL, "thread's result");
	}
	printf("serial count=%ld ns_each=%.1f\n", count,
		(double)(now_ns() - begin) / (double)count);
}

/* ------------------------------------------------------------------ */
/* Two threads that take turns                                         */

static long rounds;
static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed[2] = {
	PTHREAD_COND_INITIALIZER,
	PTHREAD_COND_INITIALIZER,
};
static long turn;
static sem_t turn_sem[2];

static void *cond_player(void *arg)
{
	long me = (long)arg;

	pthread_mutex_lock(&turn_lock);
	for (long i = 0; i < rounds; i++) {
		while (turn != me)
			pthread_cond_wait(&turn_changed[me], &turn_lock);
		turn = !me;
		pthread_cond_signal(&turn_changed[!me]);
	}
	pthread_mutex_unlock(&turn_lock);
	return NULL;
}

static void *sem_player(void *arg)
{
	long me = (long)arg;

	for (long i = 0; i < rounds; i++) {
		while (sem_wait(&turn_sem[me]) < 0)
			check(errno == EINTR ? 0 : errno, "sem_wait");
		sem_post(&turn_sem[!me]);
	}
	return NULL;
}

static void *yield_player(void *arg)
{
	for (long i = 0; i < rounds; i++)
		sched_yield();
	return arg;
}

/* The time is that of one way: one turn passed, or one yield. */
static void two_players(const char *name, void *(*play)(void *), long count)
{
	pthread_t players[2];
	uint64_t begin;

	rounds = count;
	sem_init(&turn_sem[0], 0, 1);
	sem_init(&turn_sem[1], 0, 0);
	begin = now_ns();
	for (long i = 0; i < 2; i++)
		check(pthread_create(&players[i], NULL, play, (void *)i),
			"pthread_create");
	for (int i = 0; i < 2; i++)
		check(pthread_join(players[i], NULL), "pthread_join");
	printf("%s count=%ld ns_each=%.1f\n", name, count,
		(double)(now_ns() - begin) / (2.0 * (double)count));
}

/* ------------------------------------------------------------------ */
/* sleep                                                               */

/* Lateness in microseconds, up to two seconds; whatever is later is last. */
#define LATE_MAX 2000000
static atomic_uint *late;
static atomic_ulong early; /* a sleep must never end before its time */
static uint64_t sleep_until_ns;

static void *sleeper(void *arg)
{
	uint32_t state = (uint32_t)(uintptr_t)arg * 2654435761u + 1;
	uint64_t begin;

	while ((begin = now_ns()) < sleep_until_ns) {
		uint64_t wanted_ns, took_ns, late_by_us = 0;
		struct timespec t;

		state ^= state << 13;
		state ^= state >> 17;
		state ^= state << 5;
		wanted_ns = (1000 + state % 99001) * 1000ull;
		t.tv_sec = 0;
		t.tv_nsec = (long)wanted_ns;
		if (nanosleep(&t, NULL) < 0)
			check(errno == EINTR ? 0 : errno, "nanosleep");
		took_ns = now_ns() - begin;
		if (took_ns >= wanted_ns)
			late_by_us = (took_ns - wanted_ns) / 1000;
		else
			atomic_fetch_add(&early, 1);
		if (late_by_us >= LATE_MAX)
			late_by_us = LATE_MAX - 1;
		atomic_fetch_add_explicit(&late[late_by_us], 1, memory_order_relaxed);
	}
	return NULL;
}

static long late_us(uint64_t wakes, double quantile)
{
	uint64_t sum = 0;

	for (long i = 0; i < LATE_MAX; i++) {
		sum += late[i];
		if ((double)sum > quantile * (double)wakes)
			return i;
	}
	return LATE_MAX;
}

static void sleepers(long count, double seconds)
{
	pthread_t *threads = malloc((size_t)count * sizeof(*threads));
	uint64_t begin, cpu, wakes = 0;
	pthread_attr_t attr;
	double took_s, cpu_s;

	late = calloc(LATE_MAX, sizeof(*late));
	check(threads && late ? 0 : ENOMEM, "malloc");
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16 * 1024);
	begin = now_ns();
	cpu = cpu_ns();
	sleep_until_ns = begin + (uint64_t)(seconds * SECOND);
	for (long i = 0; i < count; i++)
		check(pthread_create(&threads[i], &attr, sleeper, (void *)(i + 1)),
			"pthread_create");
	for (long i = 0; i < count; i++)
		check(pthread_join(threads[i], NULL), "pthread_join");
	took_s = (double)(now_ns() - begin) / SECOND;
	cpu_s = (double)(cpu_ns() - cpu) / SECOND;
	for (long i = 0; i < LATE_MAX; i++)
		wakes += late[i];
	printf("sleep threads=%ld wakes=%lu early=%lu p50_us=%ld p99_us=%ld p999_us=%ld "
	       "cpu_us_per_wake=%.2f cores=%.2f\n",
		count, wakes, atomic_load(&early), late_us(wakes, .5),
		late_us(wakes, .99), late_us(wakes, .999),
		wakes ? cpu_s * 1e6 / (double)wakes : 0, cpu_s / took_s);
	free(late);
	free(threads);
}

/* ------------------------------------------------------------------ */
/* hogs, turns                                                         */

static void one_byte(ssize_t got, const char *what)
{
	check(got == 1 ? 0 : got < 0 ? errno : EPIPE, what);
}

static void *answers(void *arg)
{
	int fd = (int)(long)arg;
	char c;

	while (read(fd, &c, 1) == 1)
		one_byte(write(fd, &c, 1), "write");
	return NULL;
}

static uint32_t pause_us; /* (c) on average */

/* Answers that took so many microseconds are counted in `late`. */
static void *asks(void *arg)
{
	int fd = (int)(long)arg;
	uint32_t state = (uint32_t)fd * 2654435761u + 1;

	while (now_ns() < sleep_until_ns) {
		uint64_t begin, us;
		char c = 0;

		state ^= state << 13;
		state ^= state >> 17;
		state ^= state << 5;
		usleep(pause_us / 5 + state % (pause_us / 5 * 8));
		begin = now_ns();
		one_byte(write(fd, &c, 1), "write");
		one_byte(read(fd, &c, 1), "read");
		us = (now_ns() - begin) / 1000;
		atomic_fetch_add_explicit(&late[us < LATE_MAX ? us : LATE_MAX - 1], 1,
			memory_order_relaxed);
	}
	shutdown(fd, SHUT_RDWR);
	return NULL;
}

static atomic_ulong done_beside; /* what the others got done meanwhile */

static void *hog(void *arg)
{
	uint64_t n = 1;
	unsigned long turns = 0;

	(void)arg;
	for (; now_ns() < sleep_until_ns; turns++)
		for (int i = 0; i < 10000; i++)
			n = n * 6364136223846793005u + 1442695040888963407u;
	atomic_fetch_add(&done_beside, turns + (n == 0));
	return NULL;
}

/* Two semaphores for each pair, next to each other; whoever sees first that the
 * time is over lets the other one see it, too. */
static sem_t *turns_of;

static void *takes_turns(void *arg)
{
	long me = (long)arg;
	unsigned long turns = 0;

	while (now_ns() < sleep_until_ns) {
		while (sem_wait(&turns_of[me]) < 0)
			check(errno == EINTR ? 0 : errno, "sem_wait");
		turns++;
		sem_post(&turns_of[me ^ 1]);
	}
	sem_post(&turns_of[me ^ 1]);
	atomic_fetch_add(&done_beside, turns);
	return NULL;
}

/* `count` threads that ask and answer, and `others` that run `routine`, each
 * with its number. `done` is the word for what the others do. */
static void ask_beside(const char *what, long count, void *(*routine)(void *),
	long others, const char *done, double seconds)
{
	long pairs = count / 2, made = 0;
	pthread_t *threads = malloc((size_t)(2 * pairs + others) * sizeof(*threads));
	pthread_attr_t attr;
	uint64_t asked = 0;

	late = calloc(LATE_MAX, sizeof(*late));
	check(threads && late ? 0 : ENOMEM, "malloc");
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16 * 1024);
	sleep_until_ns = now_ns() + (uint64_t)(seconds * SECOND);
	for (long i = 0; i < others; i++)
		check(pthread_create(&threads[made++], NULL, routine, (void *)i),
			"pthread_create");
	for (long i = 0; i < pairs; i++) {
		int fd[2];

		check(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) ? errno : 0, "socketpair");
		check(pthread_create(
			      &threads[made++], &attr, answers, (void *)(long)fd[0]),
			"pthread_create");
		check(pthread_create(&threads[made++], &attr, asks, (void *)(long)fd[1]),
			"pthread_create");
	}
	for (long i = 0; i < made; i++)
		check(pthread_join(threads[i], NULL), "pthread_join");
	for (long i = 0; i < LATE_MAX; i++)
		asked += late[i];
	printf("%s threads=%ld others=%ld pause_ms=%u answers=%lu p50_us=%ld p99_us=%ld "
	       "p999_us=%ld %s=%lu\n",
		what, 2 * pairs, others, pause_us / 1000, asked, late_us(asked, .5),
		late_us(asked, .99), late_us(asked, .999), done,
		atomic_load(&done_beside));
	free(late);
	free(threads);
}

static void turns(long count, long pairs, double seconds)
{
	turns_of = calloc((size_t)pairs * 2, sizeof(*turns_of));
	check(turns_of ? 0 : ENOMEM, "malloc");
	for (long i = 0; i < 2 * pairs; i++)
		check(sem_init(&turns_of[i], 0, i % 2 == 0) ? errno : 0, "sem_init");
	ask_beside("turns", count, takes_turns, 2 * pairs, "turns", seconds);
	free(turns_of);
}

/* ------------------------------------------------------------------ */

static double number(const char *text, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= min && value <= max)) {
		fprintf(stderr, "micro: '%s' is not a number from %g to %g\n", text, min,
			max);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	long count = argc > 2 ? (long)number(argv[2], 1, 1e9) : 0;

	/* So that a run that hangs ends, and a script may simply wait. */
	alarm(300);
	if (strcmp(what, "spawn") == 0 && argc == 4)
		spawn(count, (long)number(argv[3], 0, 1e6));
	else if (strcmp(what, "serial") == 0 && argc == 3)
		serial(count);
	else if (strcmp(what, "cond") == 0 && argc == 3)
		two_players(what, cond_player, count);
	else if (strcmp(what, "sem") == 0 && argc == 3)
		two_players(what, sem_player, count);
	else if (strcmp(what, "yield") == 0 && argc == 3)
		two_players(what, yield_player, count);
	else if (strcmp(what, "sleep") == 0 && argc == 4)
		sleepers(count, number(argv[3], 0.01, 1e4));
	else if (strcmp(what, "hogs") == 0 && argc == 6) {
		pause_us = (uint32_t)(1000 * number(argv[5], 0.01, 1e4));
		ask_beside(what, count, hog, (long)number(argv[3], 0, 1e4), "computed",
			number(argv[4], 0.01, 1e4));
	} else if (strcmp(what, "turns") == 0 && argc == 6) {
		pause_us = (uint32_t)(1000 * number(argv[5], 0.01, 1e4));
		turns(count, (long)number(argv[3], 1, 1e4), number(argv[4], 0.01, 1e4));
	} else {
		fprintf(stderr, "usage: micro spawn N STACK_KB | serial N | cond N | "
				"sem N | yield N | sleep N SECONDS | "
				"hogs N HOGS SECONDS MS | turns N PAIRS SECONDS MS\n");
		return 2;
	}
	return 0;
}
