/* Two threads hand a ball over: through a condition variable, a semaphore, a pipe, a
 * socket. */
#include "prog.h"

#include <semaphore.h>

#define ROUNDS 2000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sems[2];
static int turn, hits[2], fds[2][2], pipes[2][2];

static void by_cond(int me)
{
	pthread_mutex_lock(&lock);
	while (turn != me)
		pthread_cond_wait(&cond, &lock);
	hits[me]++;
	turn = !me;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void by_sem(int me)
{
	OK(sem_wait(&sems[me]));
	hits[me]++;
	OK(sem_post(&sems[!me]));
}

static void by_pipe(int me)
{
	char c;

	CHECK(read(pipes[me][0], &c, 1) == 1);
	hits[me]++;
	CHECK(write(pipes[!me][1], &c, 1) == 1);
}

static void by_socket(int me)
{
	char c;

	CHECK(recv(fds[0][me], &c, 1, 0) == 1);
	hits[me]++;
	CHECK(send(fds[0][me], &c, 1, 0) == 1);
}

static void (*const ways[])(int) = {by_cond, by_sem, by_pipe, by_socket};
static int way;

static void *play(void *arg)
{
	for (int i = 0; i < ROUNDS; i++)
		ways[way]((int)(intptr_t)arg);
	return NULL;
}

int main(void)
{
	OK(sem_init(&sems[0], 0, 1));
	OK(sem_init(&sems[1], 0, 0));
	OK(pipe(pipes[0]));
	OK(pipe(pipes[1]));
	tcp_pair(fds[0]);
	OK(write(pipes[0][1], "b", 1));
	OK(send(fds[0][1], "b", 1, 0));
	for (way = 0; way < 4; way++) {
		hits[0] = hits[1] = 0;
		pthread_t a = start(play, (void *)0), b = start(play, (void *)1);

		finish(a);
		finish(b);
		say("way %d: %d and %d", way, hits[0], hits[1]);
	}
	return 0;
}
