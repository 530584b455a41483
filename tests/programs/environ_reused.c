/* Some programs write their title over the memory of their environment before all else.
 */
#include "prog.h"

extern char **environ;

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	for (char **e = environ; *e; e++)
		memset(*e, 0, strlen(*e));
	for (int i = 0; i < 3; i++)
		on_thread(nothing, NULL);
	say("done");
	return 0;
}
