/*
 * keepers.c - see keepers.h.
 *
 * A pinned fiber that is parked has its registers on its stack. One that is blocked in
 * the kernel has its stack pointer and pc in /proc/self/task/ID/syscall, also in a page
 * fault; the other registers are not to be had without stopping it, so its frames are
 * known up to the first that needs one, or guessed. One that computes was seen at the
 * last tick; the first one is waited for. Rejected: asking it by a signal, which ends
 * calls that must not end.
 */
#include "keepers.h"

#include <fcntl.h>
#include <time.h>

#include "making.h"
#include "sched_impl.h"
#include "walk.h"

enum { FIBERS = 4, FRAMES = 5, DEEP = 24, PATIENCE_MS = 50 };

void weft_keepers_put(char *buf, size_t size, size_t *at, const char *text)
{
	while (*text && *at < size)
		buf[(*at)++] = *text++;
}

static bool hex_number(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t n = 0;
	unsigned digits = 0;

	if (p[0] != '0' || p[1] != 'x')
		return false;
	for (p += 2; digits < 16; p++, digits++) {
		if (*p >= '0' && *p <= '9')
			n = n * 16 + (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			n = n * 16 + (uint64_t)(*p - 'a' + 10);
		else
			break;
	}
	*text = p;
	*ret = n;
	return digits != 0;
}

long weft_keepers_open(int tid, const char *name)
{
	char path[48] = "/proc/self/task/", digits[21];
	size_t n = sizeof "/proc/self/task/" - 1;

	weft_keepers_put(path, sizeof path, &n, weft_format_u64(digits, (uint64_t)tid));
	weft_keepers_put(path, sizeof path - 1, &n, name);
	path[n] = 0;
	return weft_sys4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
}

/* What the kernel says of one of our threads, as text. 0: nothing. */
static size_t read_syscall(int tid, char *text, size_t size)
{
	long fd, got = 0;

	weft_lock(&weft_rt.threads_lock);
	weft_making_begin();
	fd = weft_keepers_open(tid, "/syscall");
	if (fd >= 0) {
		got = weft_sys3(SYS_read, fd, (long)text, (long)size - 1);
		weft_sys1(SYS_close, fd);
	}
	weft_making_end();
	weft_unlock(&weft_rt.threads_lock);
	if (got <= 0)
		return 0;
	text[got] = 0;
	return (size_t)got;
}

/*
 * "0 0x5 … 0xSP 0xPC": the last two; false when it runs, or there is no /proc. It takes a
 * low number for a moment, for a few threads that are told of once in a process.
 */
static bool ask_kernel(int tid, struct weft_unwind_frame *f)
{
	char text[256];
	uint64_t last[2] = {0, 0}, v;

	if (!read_syscall(tid, text, sizeof text))
		return false;
	for (const char *p = text; *p;) {
		if (hex_number(&p, &v)) {
			last[0] = last[1];
			last[1] = v;
		} else {
			p++;
		}
	}
	if (!last[0])
		return false;
	weft_memset(f, 0, sizeof *f);
	f->reg[WEFT_UNWIND_SP] = last[0];
	f->reg[WEFT_UNWIND_PC] = last[1];
	f->exact = true;
	return true;
}

static void at_last_tick(const struct carrier *c, struct weft_unwind_frame *f)
{
	weft_memset(f, 0, sizeof *f);
	f->reg[WEFT_UNWIND_PC] = load_relaxed(&c->sample[0]);
	f->reg[WEFT_UNWIND_SP] = load_relaxed(&c->sample[1]);
	f->reg[WEFT_UNWIND_BP] = load_relaxed(&c->sample[2]);
	f->reg[WEFT_UNWIND_BX] = load_relaxed(&c->sample[3]);
	f->exact = true;
}

static bool is_ours(uintptr_t pc)
{
	struct weft_module own, its;

	return weft_module_of((uintptr_t)weft_park, &own) && weft_module_of(pc, &its) &&
	       own.base == its.base;
}

static void put_frames(
	char *buf, size_t size, size_t *at, const struct weft_unwind_frame *f)
{
	uintptr_t pc[DEEP];
	bool guessed;
	unsigned n = weft_walk_collect(*f, pc, DEEP, &guessed), first = 0;
	char where[WEFT_WHERE_MAX];

	/* How weft parks a fiber is of no interest. */
	while (first < n && is_ours(pc[first]))
		first++;
	first = first < n ? first : 0;
	for (unsigned i = first; i < n && i < first + FRAMES; i++) {
		weft_keepers_put(buf, size, at,
			i > first ? " < "
			: guessed ? ", perhaps at "
				  : " at ");
		weft_keepers_put(buf, size, at, weft_where(where, pc[i]));
	}
}

static void put_one(char *buf, size_t size, size_t *at, const struct carrier *c,
	const struct fiber *fiber, bool held)
{
	struct weft_unwind_frame f;
	char name[sizeof fiber->name + 1], digits[21];

	weft_memcpy(name, fiber->name, sizeof fiber->name);
	name[sizeof fiber->name] = 0;
	weft_keepers_put(buf, size, at, "; thread ");
	weft_keepers_put(buf, size, at,
		weft_format_u64(digits, (uint64_t)load_relaxed(&fiber->tid)));
	weft_keepers_put(buf, size, at, name[0] ? " \"" : "");
	weft_keepers_put(buf, size, at, name);
	weft_keepers_put(buf, size, at, name[0] ? "\"" : "");
	if (held) {
		weft_walk_begin(&f, load_relaxed(&fiber->sp));
		weft_keepers_put(buf, size, at, " waits pinned");
	} else if (ask_kernel(load_relaxed(&c->tid), &f)) {
		weft_keepers_put(buf, size, at, " is blocked");
	} else {
		at_last_tick(c, &f);
		weft_keepers_put(buf, size, at, " computes");
	}
	if (f.reg[WEFT_UNWIND_SP])
		put_frames(buf, size, at, &f);
}

static bool computes_unseen(const struct carrier *c)
{
	char state;

	if ((load_relaxed(&c->odd) & (ODD_HELD | ODD_STUCK)) != ODD_STUCK ||
		!load_relaxed(&c->current) || !c->has_tick || load_relaxed(&c->sample[1]))
		return false;
	state = weft_keepers_state(c);
	return !state || state == 'R';
}

/* A tick is 10 ms of a kernel thread's CPU time, which takes longer on a busy machine. */
static void await_ticks(void)
{
	const struct timespec ms = {0, 1000000};

	for (int i = 0; i < PATIENCE_MS; i++) {
		unsigned unseen = 0;

		for (unsigned k = 0; k < load_acquire(&weft_rt.carriers); k++)
			unseen += computes_unseen(weft_rt.carrier[k]);
		if (!unseen)
			return;
		weft_sys2(SYS_nanosleep, (long)&ms, 0);
	}
}

void weft_keepers_tell(char *buf, size_t size, size_t *at)
{
	unsigned told = 0;

	await_ticks(); /* it is told once: as well as can be */
	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];
		int odd = load_relaxed(&c->odd);
		bool held = (odd & ODD_HELD) != 0;
		struct fiber *f =
			held ? load_relaxed(&c->holds) : load_relaxed(&c->current);

		if (!f || !(odd & (ODD_HELD | ODD_STUCK)))
			continue;
		if (told++ == FIBERS) {
			weft_keepers_put(buf, size, at, "; and others");
			return;
		}
		put_one(buf, size, at, c, f, held);
	}
}

char weft_keepers_state(const struct carrier *c)
{
	char text[128];
	long got = weft_sys4(
		SYS_pread64, load_relaxed(&c->stat_fd), (long)text, sizeof text - 1, 0);
	size_t n = got > 0 ? (size_t)got : 0;

	text[n] = 0;
	/* "ID (name) D …"; a name may have anything in it, and numbers have no ')'. */
	while (n && text[n - 1] != ')')
		n--;
	return n && text[n] == ' ' ? text[n + 1] : 0;
}
