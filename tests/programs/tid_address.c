/*
 * tid_address.c - the word that is cleared at a thread's end, asked for and moved
 *
 * prctl(PR_GET_TID_ADDRESS) is the thread's own; set_tid_address moves it. Put back, a
 * join works as ever.
 */
#include "prog.h"

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

int main(void)
{
	pthread_t threads[20];
	bool right[20] = {0};
	int good = 0;

	for (int i = 0; i < 20; i++)
		threads[i] = start(moves, &right[i]);
	for (int i = 0; i < 20; i++) {
		finish(threads[i]);
		good += right[i];
	}
	say("%d of 20", good);
	say("bad pointer: %s", RESULT(prctl(PR_GET_TID_ADDRESS, bad_pointer)));
	return 0;
}
