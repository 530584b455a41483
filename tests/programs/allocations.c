/*
 * What an allocator is asked for: blocks that other threads free, threads that come and
 * go with their caches, children that allocate and make threads, and a library with
 * initial-exec thread-local storage (the argument) that is loaded and unloaded meanwhile.
 */
#include "prog.h"

#include <dlfcn.h>
#include <malloc.h>

#define WORKERS 12
#define ROUNDS  300
#define SLOTS   512

/* A block carries its size and a pattern; whoever takes it out checks and frees it. */
struct block {
	size_t size;
	unsigned char bytes[];
};

static struct block *slots[SLOTS];
static const char *path;
static long freed, wrong;
static bool stop;

static void put_away(struct block *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->size; i += 61)
		if (b->bytes[i] != pattern(b->size + i))
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
	free(b);
	__atomic_fetch_add(&freed, 1, __ATOMIC_SEQ_CST);
}

static struct block *make(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	size_t size = (*seed >> 33) % (*seed >> 60 ? 700 : 200000) + 1;
	struct block *b = NULL;

	switch (*seed >> 40 & 3) {
	case 0:
		b = malloc(sizeof *b + size);
		break;
	case 1:
		b = calloc(1, sizeof *b + size);
		break;
	case 2:
		CHECK(posix_memalign((void **)&b, 256, sizeof *b + size) == 0);
		CHECK((uintptr_t)b % 256 == 0);
		break;
	default:
		b = realloc(malloc(10), sizeof *b + size);
	}
	CHECK(b && malloc_usable_size(b) >= sizeof *b + size);
	b->size = size;
	for (size_t i = 0; i < size; i += 61)
		b->bytes[i] = pattern(size + i);
	return b;
}

static void *works(void *arg)
{
	uint64_t seed = (uintptr_t)arg + 1;

	for (int i = 0; i < ROUNDS; i++) {
		struct block *b = make(&seed);

		put_away(__atomic_exchange_n(
			&slots[seed >> 35 & (SLOTS - 1)], b, __ATOMIC_ACQ_REL));
		if (i % 16 == 0)
			sched_yield();
	}
	return NULL;
}

/* Short lives: a thread's cache is given back when it ends. */
static void *comes_and_goes(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
		put_away(on_thread((void *(*)(void *))make, &(uint64_t){(uintptr_t)arg}));
	return NULL;
}

static void *loads(void *arg)
{
	for (int i = 0; i < 60; i++) {
		void *lib = dlopen(path, RTLD_NOW);

		if (!lib) {
			say("%s", dlerror());
			_exit(1);
		}
		int (*add)(int) = (int (*)(int))dlsym(lib, "tls_add");
		CHECK(add && add(0) == 4711 + 815);
		usleep(200);
		CHECK(dlclose(lib) == 0);
	}
	return arg;
}

static void *forks(void *arg)
{
	for (int i = 0; i < 6; i++) {
		int status;
		pid_t pid = OK(fork());

		if (pid == 0) {
			uint64_t seed = (uint64_t)i;

			put_away(make(&seed));
			works((void *)1);
			on_thread(works, (void *)2);
			_exit(wrong ? 1 : 0);
		}
		OK(waitpid(pid, &status, 0));
		CHECK(status == 0);
	}
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t threads[WORKERS], others[4];

	CHECK(argc == 2);
	path = argv[1];
	others[0] = start(comes_and_goes, (void *)100);
	others[1] = start(comes_and_goes, (void *)200);
	others[2] = start(loads, NULL);
	others[3] = start(forks, NULL);
	for (int i = 0; i < WORKERS; i++)
		threads[i] = start(works, (void *)(intptr_t)i);
	for (int i = 0; i < WORKERS; i++)
		finish(threads[i]);
	finish(others[2]);
	finish(others[3]);
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	finish(others[0]);
	finish(others[1]);
	for (int i = 0; i < SLOTS; i++)
		put_away(slots[i]);
	say("all blocks came back: %d, wrong bytes: %ld", freed >= WORKERS * ROUNDS,
		wrong);
	return 0;
}
