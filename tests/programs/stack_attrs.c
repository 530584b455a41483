/* Stack size, address and guard as asked for; pthread_getattr_np of oneself and of
 * others. */
#include "prog.h"

#include <sys/mman.h>

static pthread_barrier_t gate;

struct seen {
	void *addr;
	size_t size, guard;
	void *local;
	int detached;
};

static void look_at(pthread_t t, struct seen *seen)
{
	pthread_attr_t attr;

	ZERO(pthread_getattr_np(t, &attr));
	ZERO(pthread_attr_getstack(&attr, &seen->addr, &seen->size));
	ZERO(pthread_attr_getguardsize(&attr, &seen->guard));
	ZERO(pthread_attr_getdetachstate(&attr, &seen->detached));
	ZERO(pthread_attr_destroy(&attr));
}

static void *looks(void *arg)
{
	struct seen *seen = arg;
	char here;

	seen->local = &here;
	look_at(pthread_self(), seen);
	pthread_barrier_wait(&gate); /* main looks at us meanwhile */
	pthread_barrier_wait(&gate);
	return NULL;
}

static void with(const char *what, pthread_attr_t *attr, size_t asked)
{
	struct seen own, others;
	pthread_t t;

	ZERO(pthread_create(&t, attr, looks, &own));
	pthread_barrier_wait(&gate);
	look_at(t, &others);
	pthread_barrier_wait(&gate);
	finish(t);
	say("%s: inside %d, same from outside %d, at least as asked %d, not much more "
	    "%d, "
	    "guard %zu, detached %d",
		what,
		(char *)own.local >= (char *)own.addr &&
			(char *)own.local < (char *)own.addr + own.size,
		own.addr == others.addr && own.size == others.size, own.size >= asked,
		own.size < asked + 65536, own.guard, own.detached);
}

/* Uses nearly all of it. */
static size_t use_stack(size_t bytes)
{
	volatile char block[1024];

	memset((void *)block, 1, sizeof block);
	if (bytes <= sizeof block * 2)
		return (size_t)block[0];
	return use_stack(bytes - sizeof block - 128) + (size_t)block[1023];
}

static void *uses(void *arg)
{
	usleep(100);
	return (void *)(intptr_t)(use_stack((size_t)arg) > 0);
}

int main(void)
{
	pthread_attr_t attr;
	struct seen own;
	char *mine;

	ZERO(pthread_barrier_init(&gate, NULL, 2));
	look_at(pthread_self(), &own);
	say("main: inside %d, guard %zu",
		(char *)&own >= (char *)own.addr &&
			(char *)&own < (char *)own.addr + own.size,
		own.guard);

	ZERO(pthread_attr_init(&attr));
	size_t size;
	ZERO(pthread_attr_getstacksize(&attr, &size));
	with("default", NULL, size);
	static const size_t sizes[] = {16384, 65536, 1 << 20, 64 << 20};
	for (int i = 0; i < 4; i++) {
		char what[32];

		snprintf(what, sizeof what, "%zu bytes", sizes[i]);
		ZERO(pthread_attr_setstacksize(&attr, sizes[i]));
		with(what, &attr, sizes[i]);
	}
	ZERO(pthread_attr_setstacksize(&attr, 256 * 1024));
	ZERO(pthread_attr_setguardsize(&attr, 0));
	with("no guard", &attr, 256 * 1024);
	ZERO(pthread_attr_setguardsize(&attr, 65536));
	with("large guard", &attr, 256 * 1024 - 65536);
	ZERO(pthread_attr_destroy(&attr));

	/* A stack of the program's own: used, and left alone afterwards. */
	mine = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	CHECK(mine != MAP_FAILED);
	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setstack(&attr, mine, 1 << 20));
	with("own stack", &attr, 1 << 20);
	pthread_t t;
	ZERO(pthread_create(&t, &attr, looks, &own));
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	finish(t);
	say("own stack is the one: %d %d", own.addr == mine, own.size == 1 << 20);
	memset(mine, 0, 1 << 20);
	OK(munmap(mine, 1 << 20));
	ZERO(pthread_attr_destroy(&attr));

	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setstacksize(&attr, 64 << 20));
	ZERO(pthread_create(&t, &attr, uses, (void *)(60 << 20)));
	say("60 MiB used: %ld", (long)(intptr_t)finish(t));
	t = start(uses, (void *)(size - 256 * 1024));
	say("nearly all of the default used: %ld", (long)(intptr_t)finish(t));
	return 0;
}
