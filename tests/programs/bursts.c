/*
 * Threads that compute for milliseconds at a time, never for long enough to be noticed as
 * computing, beside threads that wait: a pipeline as of a parallel compressor, whose
 * writer waits for a pipe that another process reads, and pairs that ask and answer. In
 * the middle of a burst a kernel thread is made to look after the others, again and
 * again: registers, errno and the order of the blocks stay what they were. Signals are
 * handled meanwhile.
 */
#include "prog.h"

#include <semaphore.h>
#include <sys/wait.h>

#define BLOCKS  60
#define WORKERS 3
#define AHEAD   7
#define BLOCK   (96 * 1024)
#define STEPS   700000
#define PAIRS   8
#define ROUNDS  20

static int sink[2], fds[PAIRS][2];
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

static void *answers(void *arg)
{
	int fd = fds[(intptr_t)arg][0];
	char c;

	while (read(fd, &c, 1) == 1) {
		c++;
		CHECK(write(fd, &c, 1) == 1);
	}
	return arg;
}

static void *asks(void *arg)
{
	int fd = fds[(intptr_t)arg][1];
	intptr_t right = 0;

	for (int n = 0; n < ROUNDS; n++) {
		char c = (char)n;

		usleep(3000);
		CHECK(write(fd, &c, 1) == 1);
		CHECK(read(fd, &c, 1) == 1);
		right += c == n + 1;
	}
	CHECK(!shutdown(fd, SHUT_WR));
	return (void *)right;
}

/* The process at the other end: what it read, in order, as one number. */
static int read_all(int fd)
{
	static unsigned char buf[32 * 1024];
	uint64_t sum = 1469598103934665603u, bytes = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof buf)) > 0) {
		bytes += (uint64_t)n;
		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ buf[i]) * 1099511628211u;
	}
	printf("read %llu bytes, %016llx\n", (unsigned long long)bytes,
		(unsigned long long)sum);
	fflush(stdout);
	return n < 0;
}

int main(void)
{
	pthread_t workers[WORKERS], writer, a[PAIRS], b[PAIRS];
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	intptr_t right = 0;
	int status, sent = 0;
	pid_t reader;

	CHECK(!pipe(sink));
	reader = fork();
	CHECK(reader >= 0);
	if (!reader) {
		close(sink[1]);
		_exit(read_all(sink[0]));
	}
	CHECK(!close(sink[0]));
	CHECK(!sigaction(SIGUSR1, &act, NULL));
	CHECK(!sem_init(&room, 0, AHEAD));
	for (int i = 0; i < BLOCKS; i++)
		CHECK(!sem_init(&filled[i], 0, 0));
	for (intptr_t i = 0; i < PAIRS; i++) {
		CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]));
		CHECK(!pthread_create(&a[i], NULL, answers, (void *)i));
		CHECK(!pthread_create(&b[i], NULL, asks, (void *)i));
	}
	CHECK(!pthread_create(&writer, NULL, write_in_order, NULL));
	for (int i = 0; i < WORKERS; i++)
		CHECK(!pthread_create(&workers[i], NULL, compress, NULL));
	while (__atomic_load_n(&taken, __ATOMIC_RELAXED) < BLOCKS) {
		usleep(2000);
		sent += !pthread_kill(workers[sent % WORKERS], SIGUSR1);
	}
	for (int i = 0; i < WORKERS; i++)
		CHECK(!pthread_join(workers[i], NULL));
	CHECK(!pthread_join(writer, NULL));
	for (int i = 0; i < PAIRS; i++) {
		void *n;

		CHECK(!pthread_join(b[i], &n));
		CHECK(!pthread_join(a[i], NULL));
		right += (intptr_t)n;
	}
	CHECK(waitpid(reader, &status, 0) == reader);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	printf("%d right answers, %d wrong errno, signals %s\n", (int)right, wrong_errno,
		handled > 0 && handled <= sent ? "handled" : "not handled");
	return 0;
}
