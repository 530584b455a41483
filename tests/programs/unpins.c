/*
 * weft.h: unpinning what is not pinned, in several threads and more than once, does
 * nothing but one line on stderr (messages.sh looks at that); what is pinned then still
 * is, and is let go.
 */
#include "prog.h"

#include "../../preload/weft.h"

static void *unpins(void *arg)
{
	WEFT_UNPIN();
	usleep(100);
	WEFT_PIN();
	usleep(100);
	WEFT_UNPIN();
	WEFT_UNPIN();
	usleep(100);
	return arg;
}

int main(void)
{
	pthread_t t[10];

	for (int i = 0; i < 10; i++)
		t[i] = start(unpins, NULL);
	for (int i = 0; i < 10; i++)
		finish(t[i]);
	WEFT_UNPIN();
	say("done");
	return 0;
}
