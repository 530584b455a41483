/* setitimer while computing, timer_create with a signal and with a thread, alarm into
 * pause. */
#include "sig.h"

#include <sys/time.h>

static int notified;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void notify(union sigval v)
{
	pthread_mutex_lock(&lock);
	notified += v.sival_int;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void *works(void *arg)
{
	for (int i = 0; i < 50; i++)
		usleep(1000);
	return arg;
}

int main(void)
{
	struct itimerval every = {{0, 5000}, {0, 5000}}, off = {{0, 0}, {0, 0}};
	struct itimerspec once = {{0, 0}, {0, 5 * MS}};
	struct sigevent ev;
	pthread_t t = start(works, NULL);
	volatile unsigned long x = 0;
	timer_t timer;

	sig_install(SIGALRM, SA_RESTART, sig_count);
	OK(setitimer(ITIMER_REAL, &every, NULL));
	while (sig_handled < 10)
		x++;
	OK(setitimer(ITIMER_REAL, &off, NULL));
	say("interval timer: 10 while computing");

	sig_install(SIGPROF, SA_RESTART, sig_count);
	sig_handled = 0;
	OK(setitimer(ITIMER_PROF, &every, NULL));
	while (sig_handled < 3)
		x++;
	OK(setitimer(ITIMER_PROF, &off, NULL));
	say("profiling timer: 3 while computing");

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_SIGNAL;
	ev.sigev_signo = SIGRTMIN;
	sig_handled = 0;
	sig_install(SIGRTMIN, 0, sig_count);
	OK(timer_create(CLOCK_MONOTONIC, &ev, &timer));
	OK(timer_settime(timer, 0, &once, NULL));
	while (!sig_handled)
		usleep(500);
	say("SIGEV_SIGNAL: %d", sig_handled);
	OK(timer_delete(timer));

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_THREAD;
	ev.sigev_notify_function = notify;
	ev.sigev_value.sival_int = 7;
	OK(timer_create(CLOCK_MONOTONIC, &ev, &timer));
	for (int i = 0; i < 3; i++) {
		OK(timer_settime(timer, 0, &once, NULL));
		pthread_mutex_lock(&lock);
		while (notified < 7 * (i + 1))
			pthread_cond_wait(&cond, &lock);
		pthread_mutex_unlock(&lock);
	}
	say("SIGEV_THREAD: %d", notified);
	OK(timer_delete(timer));

	sig_install(SIGALRM, 0, sig_count);
	every = (struct itimerval){{0, 20000}, {0, 20000}};
	OK(setitimer(ITIMER_REAL, &every, NULL));
	say("pause: %s", RESULT(pause()));
	OK(setitimer(ITIMER_REAL, &off, NULL));
	finish(t);
	return 0;
}
