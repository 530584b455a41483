/*
 * report.c - WEFT_STATS=exit | <n>s | /path.
 *
 * The report at exit is written from exit_group's handler, whichever way the
 * process gets there; a process that dies by a signal leaves none. The periodic
 * one is written by a kernel thread of weft's own, so that it also comes when the
 * program hangs. A file is opened anew for each report and only then: no
 * descriptor is kept, and a chroot in between is the program's own wish.
 */
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "../interpose/dispatch.h"
#include "../runtime/atomic.h"
#include "../runtime/runtime.h"
#include "../runtime/sys.h"

static const struct weft_options *options;
static int reported; /* (a) exit_group may be called twice, by two threads */

static void to_stderr(void)
{
	weft_stats_write(2);
}

static void to_file(void)
{
	long fd = weft_sys4(SYS_openat, AT_FDCWD, (long)options->stats_path,
		O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);

	if (fd < 0) {
		weft_log_parts("WEFT_STATS: cannot open ", options->stats_path, NULL);
		return;
	}
	weft_stats_write((int)fd);
	weft_sys1(SYS_close, fd);
}

static void at_exit(void)
{
	if (__atomic_exchange_n(&reported, 1, __ATOMIC_SEQ_CST))
		return;
	if (options->stats == WEFT_STATS_FILE)
		to_file();
	else
		to_stderr();
}

static void every(void *arg)
{
	struct timespec t = {.tv_sec = options->stats_every_s};

	(void)arg;
	for (;;) {
		weft_sys2(SYS_nanosleep, &t, 0);
		to_stderr();
	}
}

void weft_report_start(const struct weft_options *o)
{
	options = o;
	reported = 0;
	if (o->stats == WEFT_STATS_NONE)
		return;
	weft_at_exit_group = at_exit;
	if (o->stats == WEFT_STATS_EVERY && weft_runtime_spawn(every))
		weft_log("WEFT_STATS: no thread for the periodic report");
}
