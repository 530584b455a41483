/*
 * tid_address.c - the word that is cleared at a thread's end, asked for and moved
 *
 * prctl(PR_GET_TID_ADDRESS) is the thread's own; set_tid_address moves it. Put back, a
 * join works as ever, also one that began while it was away; elsewhere, who waits there
 * is woken; a bad one is nobody's error.
 */
#include "prog.h"

#include <linux/futex.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static void *moves(void *arg)
{
	int *word = NULL, *again = NULL, other;
	long tid = syscall(SYS_gettid);

	OK(prctl(PR_GET_TID_ADDRESS, &word));
	*(bool *)arg = word && *word == tid &&
		       syscall(SYS_set_tid_address, &other) == tid &&
		       prctl(PR_GET_TID_ADDRESS, &again) == 0 && again == &other &&
		       syscall(SYS_set_tid_address, word) == tid;
	return NULL;
}

static void *away(void *arg)
{
	int *word = NULL, other;

	OK(prctl(PR_GET_TID_ADDRESS, &word));
	syscall(SYS_set_tid_address, &other);
	OK(sem_post(arg));
	usleep(100000); /* the joiner is at it by now */
	syscall(SYS_set_tid_address, word);
	return NULL;
}

static int elsewhere = 1;

static void *ends(void *arg)
{
	usleep(100000);
	syscall(SYS_set_tid_address, arg);
	return NULL;
}

/* Its own word is never cleared: nobody can join it. */
static void end_with(void *word)
{
	pthread_t t = start(ends, word);

	ZERO(pthread_detach(t));
}

int main(void)
{
	pthread_t threads[20];
	bool right[20] = {0};
	int good = 0;
	sem_t is_away;

	for (int i = 0; i < 20; i++)
		threads[i] = start(moves, &right[i]);
	for (int i = 0; i < 20; i++) {
		finish(threads[i]);
		good += right[i];
	}
	say("%d of 20", good);
	say("bad pointer: %s", RESULT(prctl(PR_GET_TID_ADDRESS, bad_pointer)));

	OK(sem_init(&is_away, 0, 0));
	for (int i = 0; i < 20; i++)
		threads[i] = start(away, &is_away);
	for (int i = 0; i < 20; i++)
		OK(sem_wait(&is_away));
	for (int i = 0; i < 20; i++)
		finish(threads[i]);
	say("joined");

	end_with(&elsewhere);
	while (__atomic_load_n(&elsewhere, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &elsewhere, FUTEX_WAIT, 1, NULL);
	say("cleared elsewhere");
	end_with(bad_pointer);
	end_with(NULL);
	usleep(200000);
	return 0;
}
