/*
 * More calls that only the kernel can wait for than there may be kernel threads: the
 * others go on, signals end the calls that have begun and those that have not, and each
 * gets what it waits for, whoever gives it.
 */
#include "prog.h"

#include <grp.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/sem.h>

enum { LOCKERS = 12, TAKERS = 12, TASKS = 6 };

static int semaphores, blocked, handled, interrupted;

static void *takes_semaphore(void *arg)
{
	struct sembuf op = {0, -1, 0};

	__atomic_fetch_add(&blocked, 1, __ATOMIC_SEQ_CST);
	while (semop(semaphores, &op, 1)) {
		CHECK(errno == EINTR);
		__atomic_fetch_add(&interrupted, 1, __ATOMIC_SEQ_CST);
	}
	return arg;
}

static void *locks_file(void *arg)
{
	int fd = OK(open("lock", O_RDWR));

	__atomic_fetch_add(&blocked, 1, __ATOMIC_SEQ_CST);
	CHECK(flock(fd, LOCK_SH) == 0);
	OK(close(fd));
	return arg;
}

static void *passes_on(void *arg)
{
	int *ring = (int *)arg;
	char c;

	for (int i = 0; i < 200; i++) {
		CHECK(read(ring[0], &c, 1) == 1);
		CHECK(write(ring[1], &c, 1) == 1);
	}
	return NULL;
}

static void others_go_on(void)
{
	int there[2], back[2];

	OK(pipe(there));
	OK(pipe(back));
	int x[2] = {there[0], back[1]}, y[2] = {back[0], there[1]};
	pthread_t a = start(passes_on, x), b = start(passes_on, y);

	OK(write(there[1], "x", 1));
	finish(a);
	finish(b);
	say("others went on");
}

static void *takes_in_time(void *arg)
{
	struct sembuf op = {0, -1, 0};
	struct timespec ts = {0, 200 * MS};
	uint64_t began = now_ns(CLOCK_MONOTONIC), took;

	CHECK(semtimedop(semaphores, &op, 1, &ts) == -1 && errno == EAGAIN);
	took = now_ns(CLOCK_MONOTONIC) - began;
	CHECK(took >= 200 * MS && took < 5000 * MS);
	return arg;
}

static void handler(int sig)
{
	(void)sig;
	__atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

int main(void)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};
	struct rlimit rl = {TASKS, TASKS};
	pthread_t lockers[LOCKERS], takers[TAKERS];
	uid_t nobody = 100000 + (uid_t)getpid(); /* the limit counts a user's */
	int fd;

	if (geteuid()) {
		say("not root: the limit would count this user's other processes");
		return 77;
	}
	fd = OK(open("lock", O_RDWR | O_CREAT, 0666));
	OK(chmod("lock", 0666));
	OK(flock(fd, LOCK_EX));
	OK(setgroups(0, NULL));
	OK(setresgid(nobody, nobody, nobody));
	OK(setresuid(nobody, nobody, nobody));
	OK(setrlimit(RLIMIT_NPROC, &rl));
	semaphores = OK(semget(IPC_PRIVATE, 1, 0600));
	OK(semctl(semaphores, 0, SETVAL, 0));
	OK(sigaction(SIGUSR1, &sa, NULL));
	for (int i = 0; i < LOCKERS; i++)
		lockers[i] = start(locks_file, NULL);
	for (int i = 0; i < TAKERS; i++)
		takers[i] = start(takes_semaphore, NULL);
	while (__atomic_load_n(&blocked, __ATOMIC_SEQ_CST) < LOCKERS + TAKERS)
		usleep(1000);
	others_go_on();
	for (int i = 0; i < LOCKERS; i++)
		ZERO(pthread_kill(lockers[i], SIGUSR1)); /* flock goes on */
	for (int i = 0; i < TAKERS; i++)
		ZERO(pthread_kill(takers[i], SIGUSR1)); /* semop does not */
	while (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) < LOCKERS + TAKERS)
		usleep(1000);
	say("%d signals were handled", handled);
	others_go_on();
	on_thread(takes_in_time, NULL);
	say("a time-out came in time");
	OK(flock(fd, LOCK_UN));
	for (int i = 0; i < LOCKERS; i++)
		finish(lockers[i]);
	say("all have the lock");
	for (int i = 0; i < TAKERS; i++)
		OK(semop(semaphores, (struct sembuf[]){{0, 1, 0}}, 1));
	for (int i = 0; i < TAKERS; i++)
		finish(takers[i]);
	say("all have the semaphore; interrupted: %d", interrupted);
	OK(semctl(semaphores, 0, IPC_RMID));
	return 0;
}
