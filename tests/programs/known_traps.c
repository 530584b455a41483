/*
 * Where others that run many threads on few have failed, and a plain program must not
 * notice: a lock that is held over a sleep while as many threads wait for it as you like
 * (brpc 1741); a recursive lock whose owner goes on elsewhere in between (brpc 1229); a
 * client and its server in one process, both with a lock held while they wait for each
 * other's bytes, and others who want the locks (conscrypt 1170); errno, its
 * value and its address, on both sides of a switch in one function (libgo 256); a
 * descriptor that is closed while another thread reads, and whose number is somebody
 * else's at once (liburing 363).
 */
#include "prog.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int inside, counter, overlaps;

static void *sleeps_inside(void *arg)
{
	for (int i = 0; i < 3; i++) {
		ZERO(pthread_mutex_lock(&lock));
		overlaps += inside++;
		usleep(200);
		counter++;
		inside--;
		ZERO(pthread_mutex_unlock(&lock));
	}
	return arg;
}

static void lock_over_sleep(void)
{
	pthread_t t[100];

	for (int i = 0; i < 100; i++)
		t[i] = start(sleeps_inside, NULL);
	for (int i = 0; i < 100; i++)
		finish(t[i]);
	say("lock over sleep: %d, %d overlaps", counter, overlaps);
}

/* ---- */

static pthread_mutex_t again;
static int depth, deepest, strangers;

static void *goes_deeper(void *arg)
{
	for (int i = 0; i < 3; i++) {
		for (int n = 1; n <= 4; n++) {
			ZERO(pthread_mutex_lock(&again));
			strangers += ++depth != n;
			deepest = n > deepest ? n : deepest;
			if (n % 2)
				usleep(50);
			else
				sched_yield();
		}
		for (int n = 4; n >= 1; n--) {
			strangers += depth-- != n;
			ZERO(pthread_mutex_unlock(&again));
			if (n > 1)
				usleep(20);
		}
		CHECK(pthread_mutex_unlock(&again) == EPERM);
	}
	return arg;
}

static void recursive_lock(void)
{
	pthread_mutexattr_t attr;
	pthread_t t[20];

	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE));
	ZERO(pthread_mutex_init(&again, &attr));
	for (int i = 0; i < 20; i++)
		t[i] = start(goes_deeper, NULL);
	for (int i = 0; i < 20; i++)
		finish(t[i]);
	say("recursive lock: %d deep, %d strangers", deepest, strangers);
}

/* ---- */

static pthread_mutex_t clients = PTHREAD_MUTEX_INITIALIZER,
		       servers = PTHREAD_MUTEX_INITIALIZER;
static int both[2];

static void *serves(void *arg)
{
	char text[8];

	ZERO(pthread_mutex_lock(&servers));
	for (int i = 0; i < 50; i++) {
		CHECK(recv(both[0], text, sizeof text, MSG_WAITALL) == sizeof text);
		CHECK(write(both[0], text, sizeof text) == sizeof text);
	}
	ZERO(pthread_mutex_unlock(&servers));
	return arg;
}

static void *shakes_hands(void *arg)
{
	char text[8] = "hello", back[8];

	ZERO(pthread_mutex_lock(&clients));
	for (int i = 0; i < 50; i++) {
		/* in two pieces: the server has to wait with its lock, too */
		CHECK(write(both[1], text, 3) == 3);
		sched_yield();
		CHECK(write(both[1], text + 3, 5) == 5);
		CHECK(recv(both[1], back, sizeof back, MSG_WAITALL) == sizeof back);
		CHECK(!strcmp(text, back));
	}
	ZERO(pthread_mutex_unlock(&clients));
	return arg;
}

static void *wants_each(void *arg)
{
	ZERO(pthread_mutex_lock(&clients));
	ZERO(pthread_mutex_unlock(&clients));
	ZERO(pthread_mutex_lock(&servers));
	ZERO(pthread_mutex_unlock(&servers));
	return arg;
}

static void client_and_server(void)
{
	pthread_t t[6];

	unix_pair(both);
	t[0] = start(shakes_hands, NULL);
	for (int i = 1; i < 5; i++)
		t[i] = start(wants_each, NULL);
	t[5] = start(serves, NULL);
	for (int i = 0; i < 6; i++)
		finish(t[i]);
	say("client and server: done");
}

/* ---- */

static int errno_moved, errno_changed;

static void *looks_at_errno(void *arg)
{
	int mine = (int)(intptr_t)arg;
	int *where = &errno;

	for (int i = 0; i < 50; i++) {
		errno = mine;
		if (i % 3)
			sched_yield();
		else
			ZERO(usleep(50));
		/* the compiler may believe that the address has not changed; nor has it
		 */
		if (where != &errno)
			__atomic_fetch_add(&errno_moved, 1, __ATOMIC_SEQ_CST);
		if (errno != mine || *where != mine)
			__atomic_fetch_add(&errno_changed, 1, __ATOMIC_SEQ_CST);
		CHECK(close(-1) == -1 && *where == EBADF);
	}
	return arg;
}

static void errno_stays(void)
{
	pthread_t t[16];

	for (int i = 0; i < 16; i++)
		t[i] = start(looks_at_errno, (void *)(intptr_t)(1000 + i));
	for (int i = 0; i < 16; i++)
		finish(t[i]);
	say("errno: %d moved, %d changed", errno_moved, errno_changed);
}

/* ---- */

static int about_to_read;

static void *reads_on(void *arg)
{
	char c = 0;

	__atomic_store_n(&about_to_read, 1, __ATOMIC_SEQ_CST);
	CHECK(read(*(int *)arg, &c, 1) == 1);
	return (void *)(intptr_t)c;
}

static void number_is_reused(void)
{
	int own = 0, left = 0;

	for (int i = 0; i < 20; i++) {
		int old[2], now[2], number;
		pthread_t t;
		char c = 0;

		unix_pair(old);
		number = old[0];
		about_to_read = 0;
		t = start(reads_on, &number);
		while (!__atomic_load_n(&about_to_read, __ATOMIC_SEQ_CST))
			usleep(100);
		usleep(2000); /* it is inside: nothing but time tells */
		OK(close(old[0]));
		unix_pair(now);
		CHECK(now[0] == old[0]);
		OK(write(now[1], "n", 1));
		usleep(200);
		OK(write(old[1], "o", 1));
		own += (intptr_t)finish(t) == 'o';
		left += recv(now[0], &c, 1, MSG_DONTWAIT) == 1 && c == 'n';
		close(now[0]);
		close(now[1]);
		close(old[1]);
	}
	say("reused number: %d read their own, %d left the other's", own, left);
}

int main(void)
{
	lock_over_sleep();
	recursive_lock();
	client_and_server();
	errno_stays();
	number_is_reused();
	return 0;
}
