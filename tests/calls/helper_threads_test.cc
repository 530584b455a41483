// libc's own helper threads: timers, message queues, asynchronous I/O and look-ups call
// back on threads that libc makes; and C11's threads, which are pthreads by another name.
#include "on_threads.h"

#include <aio.h>
#include <mqueue.h>
#include <netdb.h>
#include <semaphore.h>
#include <threads.h>

static sem_t told;

static void tell(union sigval value)
{
	usleep(500); /* a thread like any other: it may wait */
	for (int i = 0; i < value.sival_int; i++)
		OK(sem_post(&told));
}

static struct sigevent on_helper(int times)
{
	struct sigevent ev = {};

	ev.sigev_notify = SIGEV_THREAD;
	ev.sigev_notify_function = tell;
	ev.sigev_value.sival_int = times;
	return ev;
}

TEST(ThrdCreate, MakesThreads)
{
	on_one_thread([] {
		thrd_t threads[20];
		for (long i = 0; i < 20; i++)
			ASSERT_EQ(thrd_create(
					  &threads[i],
					  [](void *arg) {
						  struct timespec ts = {0, 500000};
						  EXPECT_EQ(thrd_sleep(&ts, nullptr), 0);
						  thrd_yield();
						  return (int)(long)arg * 2;
					  },
					  (void *)i),
				thrd_success);
		for (int i = 0; i < 20; i++) {
			int value = -1;
			EXPECT_EQ(thrd_join(threads[i], &value), thrd_success);
			EXPECT_EQ(value, i * 2);
		}
	});
}

static void timer_calls_back()
{
	struct sigevent ev = on_helper(1);
	struct itimerspec soon = {{0, 2000000}, {0, 2000000}};
	timer_t timer;

	OK(sem_init(&told, 0, 0));
	OK(timer_create(CLOCK_MONOTONIC, &ev, &timer));
	OK(timer_settime(timer, 0, &soon, nullptr));
	for (int i = 0; i < 5; i++)
		OK(sem_wait(&told));
	OK(timer_delete(timer));
}

TEST(TimerCreate, CallsBackOnAThread)
{
	on_one_thread(timer_calls_back);
}

TEST(TimerCreate, MayBeTheFirstThingThatMakesAThread)
{
	timer_calls_back();
	on_one_thread(timer_calls_back);
}

/* libc makes the helper once in a process: a new process for every attempt. */
static void timer_expires_at_once()
{
	struct sigevent ev = on_helper(1);
	struct itimerspec now = {{0, 0}, {0, 1}};
	timer_t timer;
	pid_t pid = OK(fork());
	int status;

	if (pid == 0) {
		sem_init(&told, 0, 0);
		_exit(timer_create(CLOCK_MONOTONIC, &ev, &timer) ||
			timer_settime(timer, 0, &now, nullptr) || sem_wait(&told));
	}
	OK(waitpid(pid, &status, 0));
	ASSERT_EQ(status, 0);
}

TEST(TimerCreate, MayExpireBeforeItsThreadHasBegun)
{
	on_one_thread([] {
		for (int i = 0; i < 25; i++)
			timer_expires_at_once();
	});
}

TEST(MqNotify, CallsBackOnAThread)
{
	char name[64];
	struct mq_attr attr = {};
	snprintf(name, sizeof name, "/weft-test-%d", getpid());
	attr.mq_maxmsg = 4;
	attr.mq_msgsize = 16;
	mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	if (queue == (mqd_t)-1)
		GTEST_SKIP() << "no POSIX message queues here: " << strerror(errno);
	OK(mq_unlink(name));
	OK(sem_init(&told, 0, 0));
	on_one_thread([&] {
		for (int i = 0; i < 3; i++) {
			struct sigevent ev = on_helper(1);
			char buf[16];
			OK(mq_notify(queue, &ev));
			OK(mq_send(queue, "hi", 2, 0));
			OK(sem_wait(&told));
			EXPECT_EQ(mq_receive(queue, buf, sizeof buf, nullptr), 2);
		}
	});
	OK(mq_close(queue));
}

TEST(AioRead, CompletesAndCallsBack)
{
	on_one_thread([] {
		int fd = OK(open("file", O_RDWR | O_CREAT, 0600));
		char out[] = "0123456789", in[11] = "";
		struct aiocb cb = {};
		const struct aiocb *list[] = {&cb};
		OK(sem_init(&told, 0, 0));
		cb.aio_fildes = fd;
		cb.aio_buf = out;
		cb.aio_nbytes = 10;
		cb.aio_sigevent = on_helper(1);
		OK(aio_write(&cb));
		OK(sem_wait(&told));
		EXPECT_EQ(aio_error(&cb), 0);
		EXPECT_EQ(aio_return(&cb), 10);

		cb.aio_sigevent = {};
		cb.aio_sigevent.sigev_notify = SIGEV_NONE;
		OK(aio_fsync(O_SYNC, &cb));
		while (aio_error(&cb) == EINPROGRESS)
			EXPECT_EQ(aio_suspend(list, 1, nullptr), 0);
		EXPECT_EQ(aio_return(&cb), 0);

		cb.aio_buf = in;
		OK(aio_read(&cb));
		while (aio_error(&cb) == EINPROGRESS)
			EXPECT_EQ(aio_suspend(list, 1, nullptr), 0);
		EXPECT_EQ(aio_return(&cb), 10);
		EXPECT_STREQ(in, out);
		OK(close(fd));
	});
}

TEST(LioListio, WaitsForAll)
{
	on_one_thread([] {
		int fd = OK(open("file", O_RDWR | O_CREAT, 0600));
		char parts[4][4] = {"aaa", "bbb", "ccc", "ddd"}, all[13] = "";
		struct aiocb cbs[4] = {};
		struct aiocb *list[4];
		for (int i = 0; i < 4; i++) {
			cbs[i].aio_fildes = fd;
			cbs[i].aio_buf = parts[i];
			cbs[i].aio_nbytes = 3;
			cbs[i].aio_offset = i * 3;
			cbs[i].aio_lio_opcode = LIO_WRITE;
			cbs[i].aio_sigevent.sigev_notify = SIGEV_NONE;
			list[i] = &cbs[i];
		}
		OK(lio_listio(LIO_WAIT, list, 4, nullptr));
		EXPECT_EQ(pread(fd, all, 12, 0), 12);
		EXPECT_STREQ(all, "aaabbbcccddd");
		OK(close(fd));
	});
}

TEST(GetaddrinfoA, ResolvesBehindTheBack)
{
	on_one_thread([] {
		struct addrinfo hints = {};
		hints.ai_flags = AI_NUMERICHOST;
		hints.ai_socktype = SOCK_STREAM;
		struct gaicb cbs[3] = {};
		struct gaicb *list[3];
		for (int i = 0; i < 3; i++) {
			cbs[i].ar_name = "127.0.0.1";
			cbs[i].ar_request = &hints;
			list[i] = &cbs[i];
		}
		EXPECT_EQ(getaddrinfo_a(GAI_WAIT, list, 3, nullptr), 0);
		for (struct gaicb &cb : cbs) {
			EXPECT_EQ(gai_error(&cb), 0);
			freeaddrinfo(cb.ar_result);
		}
		struct sigevent ev = on_helper(1);
		OK(sem_init(&told, 0, 0));
		EXPECT_EQ(getaddrinfo_a(GAI_NOWAIT, list, 3, &ev), 0);
		OK(sem_wait(&told));
		for (struct gaicb &cb : cbs) {
			EXPECT_EQ(gai_error(&cb), 0);
			freeaddrinfo(cb.ar_result);
		}
	});
}
