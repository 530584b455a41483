/*
 * Threads that compute for milliseconds at a time, never for long enough to be noticed as
 * computing, beside threads that wait: a pipeline as of a parallel compressor, whose
 * writer waits for a pipe that another process reads, and pairs that ask and answer. In
 * the middle of a burst a kernel thread is made to look after the others, again and
 * again: registers, errno and the order of the blocks stay what they were. Signals are
 * handled meanwhile.
 */
#include "pairs.h"
#include "sig.h"

#include <semaphore.h>

#define BLOCKS  60
#define WORKERS 3
#define AHEAD   7
#define BLOCK   (96 * 1024)
#define STEPS   700000
#define PAIRS   8
#define ROUNDS  20

static int sink[2];
static sem_t room, filled[BLOCKS];
static unsigned char *block[BLOCKS];
static int taken, wrong_errno;
static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
	errno = EDOM;
}

/* Integers and floating point, both live all the time; the result says if one was lost.
 */
static void fill(unsigned char *to, unsigned seed)
{
	double x = seed + 0.5, y = 1.0;
	uint64_t n = seed;

	for (int i = 0; i < STEPS; i++) {
		n = n * 6364136223846793005u + 1442695040888963407u;
		x = x * 0.999 + 1.0 / (y + (double)(n >> 60));
		y = y * 0.5 + x;
		if (i % (STEPS / BLOCK) == 0 && i / (STEPS / BLOCK) < BLOCK)
			to[i / (STEPS / BLOCK)] =
				(unsigned char)((n >> 56) ^ (uint64_t)(x * 1e6));
	}
}

/* Room first: who has taken the next block and waited would be waited for. */
static void *compress(void *arg)
{
	for (;;) {
		int k;

		while (sem_wait(&room))
			CHECK(errno == EINTR);
		k = __atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED);
		if (k >= BLOCKS)
			break;
		block[k] = calloc(1, BLOCK);
		CHECK(block[k]);
		errno = 1000 + k;
		fill(block[k], (unsigned)k);
		__atomic_add_fetch(&wrong_errno, errno != 1000 + k && errno != EDOM,
			__ATOMIC_RELAXED);
		sem_post(&filled[k]);
	}
	sem_post(&room);
	return arg;
}

static void *write_in_order(void *arg)
{
	for (int k = 0; k < BLOCKS; k++) {
		ssize_t n;

		while (sem_wait(&filled[k]))
			CHECK(errno == EINTR);
		for (size_t at = 0; at < BLOCK; at += (size_t)n) {
			n = write(sink[1], block[k] + at, BLOCK - at);
			if (n < 0 && errno == EINTR)
				n = 0;
			CHECK(n >= 0);
		}
		free(block[k]);
		sem_post(&room);
	}
	CHECK(!close(sink[1]));
	return arg;
}

/* The process at the other end: what it read, in order, as one number. */
static void read_all(int fd)
{
	static unsigned char buf[32 * 1024];
	uint64_t sum = CHECKSUM_INIT, bytes = 0;
	ssize_t n;

	while ((n = OK(read(fd, buf, sizeof buf))) > 0) {
		bytes += (uint64_t)n;
		sum = checksum(sum, buf, (size_t)n);
	}
	say("read %llu bytes, %016llx", (unsigned long long)bytes,
		(unsigned long long)sum);
}

int main(void)
{
	struct pair pairs[PAIRS];
	pthread_t workers[WORKERS], writer;
	int status, sent = 0, right = 0;
	pid_t reader;

	OK(pipe(sink));
	OK((reader = fork()));
	if (!reader) {
		OK(close(sink[1]));
		read_all(sink[0]);
		_exit(0);
	}
	OK(close(sink[0]));
	sig_install(SIGUSR1, SA_RESTART, on_signal);
	OK(sem_init(&room, 0, AHEAD));
	for (int i = 0; i < BLOCKS; i++)
		OK(sem_init(&filled[i], 0, 0));
	for (int i = 0; i < PAIRS; i++)
		pair_start(&pairs[i], ROUNDS, 3000);
	writer = start(write_in_order, NULL);
	for (int i = 0; i < WORKERS; i++)
		workers[i] = start(compress, NULL);
	while (__atomic_load_n(&taken, __ATOMIC_RELAXED) < BLOCKS) {
		usleep(2000);
		sent += !pthread_kill(workers[sent % WORKERS], SIGUSR1);
	}
	for (int i = 0; i < WORKERS; i++)
		finish(workers[i]);
	finish(writer);
	for (int i = 0; i < PAIRS; i++)
		right += pair_finish(&pairs[i]);
	OK(waitpid(reader, &status, 0));
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	say("%d right answers, %d wrong errno, signals %s", right, wrong_errno,
		handled > 0 && handled <= sent ? "handled" : "not handled");
	return 0;
}
