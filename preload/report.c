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
#include <link.h>
#include <time.h>

#include "../interpose/dispatch.h"
#include "../runtime/atomic.h"
#include "../runtime/native.h"
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

/* Who lists a library that was never there may have mistyped it. */
static void say_unmet(void)
{
	for (const struct link_map *m = _r_debug.r_map; m; m = m->l_next) {
		const char *name = m->l_name;

		for (const char *p = name; p && *p; p++)
			name = *p == '/' ? p + 1 : name;
		if (name)
			weft_native_match(name);
	}
	for (unsigned i = 0; i < weft_native_count(true); i++) {
		char name[64];

		if (weft_native_met(i))
			continue;
		weft_native_name(name, sizeof name, i);
		weft_log_parts("WEFT_NATIVE: no library ", name,
			" was loaded when the process ended", NULL);
	}
}

static void at_exit(void)
{
	if (__atomic_exchange_n(&reported, 1, __ATOMIC_SEQ_CST))
		return;
	if (options->native)
		say_unmet();
	if (options->stats == WEFT_STATS_FILE)
		to_file();
	else if (options->stats != WEFT_STATS_NONE)
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
	if (o->stats == WEFT_STATS_NONE && !o->native)
		return;
	weft_at_exit_group = at_exit;
	if (o->stats == WEFT_STATS_EVERY && weft_runtime_spawn(every))
		weft_log("WEFT_STATS: no thread for the periodic report");
}
