/*
 * stats.c - the statistics as text: `key=value` lines behind "weft stats:".
 *
 * The carriers' counters are read without stopping anybody: each is written by
 * its carrier alone, so a sum is at most a moment old and never torn. May be
 * called from any kernel thread, also while the program exits.
 */
#include "stats.h"

#include <errno.h>

#include "bind.h"
#include "engine.h"
#include "pin.h"
#include "stack.h"

struct out {
	int fd;
	size_t at;
	char buf[2048];
};

static void flush(struct out *o)
{
	size_t done = 0;

	while (done < o->at) {
		long w = weft_sys3(
			SYS_write, o->fd, (long)(o->buf + done), (long)(o->at - done));

		if (w == -EINTR || w == -EAGAIN)
			continue;
		if (w <= 0)
			break;
		done += (size_t)w;
	}
	o->at = 0;
}

static void text(struct out *o, const char *s)
{
	while (*s) {
		if (o->at == sizeof o->buf)
			flush(o);
		o->buf[o->at++] = *s++;
	}
}

static void number(struct out *o, uint64_t v)
{
	char buf[21];

	text(o, weft_format_u64(buf, v));
}

static void hex(struct out *o, uint64_t v)
{
	char digits[17];
	unsigned n = 16;

	digits[n] = 0;
	do
		digits[--n] = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	text(o, "0x");
	text(o, digits + n);
}

/* "fibers created" becomes the key "fibers_created". */
static void word(struct out *o, const char *s)
{
	char one[2] = {0, 0};

	for (; *s; s++) {
		one[0] = *s == ' ' ? '_' : *s;
		text(o, one);
	}
}

static void pair(struct out *o, const char *key, uint64_t v)
{
	text(o, " ");
	word(o, key);
	text(o, "=");
	number(o, v);
}

static uint64_t total(size_t counter)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		sum += load_relaxed(&weft_rt.carrier[i]->counters[counter]);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		sum += load_relaxed(&c->counters[counter]);
	if (weft_monitor_carrier())
		sum += load_relaxed(&weft_monitor_carrier()->counters[counter]);
	return sum;
}

static uint64_t native_total(unsigned nr)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		sum += load_relaxed(&weft_rt.carrier[i]->native_calls[nr]);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		sum += load_relaxed(&c->native_calls[nr]);
	return sum;
}

static const char *const reason_text[] = {
#define WEFT_REASON(id, text) [WEFT_REASON_##id] = text,
#include "park_reasons.def"
#undef WEFT_REASON
};

const char *weft_reason_text(enum weft_park_reason r)
{
	return r < WEFT_REASONS ? reason_text[r] : "?";
}

static void fibers(struct out *o)
{
	uint64_t parked[WEFT_REASONS] = {0}, running = 0, ready = 0;

	for (uint32_t i = 0; i < load_relaxed(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);

		switch (load_relaxed(&f->state)) {
		case FIBER_RUNNING:
			if (load_relaxed(&f->helper) && !load_relaxed(&f->bound))
				parked[WEFT_REASON_OFFLOAD]++;
			else
				running++;
			break;
		case FIBER_READY:
			ready++;
			break;
		case FIBER_PARKED:
			parked[f->reason < WEFT_REASONS ? f->reason : 0]++;
			break;
		default:
			break;
		}
	}
	text(o, "weft stats: fibers created=");
	/* The main fiber was not created by pthread_create: not counted. */
	number(o, total(WEFT_COUNTER_CREATED));
	pair(o, "alive", load_relaxed(&weft_rt.alive));
	pair(o, "peak", load_relaxed(&weft_rt.peak));
	pair(o, "running", running);
	pair(o, "ready", ready);
	text(o, "\nweft stats: parked");
	for (unsigned r = WEFT_REASON_YIELD; r < WEFT_REASONS; r++)
		if (parked[r])
			pair(o, reason_text[r], parked[r]);
	text(o, "\n");
}

static void pins(struct out *o)
{
	static const char *const slots[WEFT_PIN_SLOTS] = {"under 10us", "under 100us",
		"under 1ms", "under 10ms", "under 100ms", "longer"};
	uint64_t total[WEFT_PIN_REASONS] = {0};
	bool any = false;

	for (const struct weft_pin_site *s = weft_pin_site(0); s;
		s = weft_pin_site(weft_pin_site_next(s))) {
		enum weft_pin_reason why = weft_pin_site_reason(s);

		text(o, "weft stats: pin site=");
		hex(o, weft_pin_site_address(s));
		text(o, " reason=");
		word(o, weft_pin_reason_text(why));
		if (load_relaxed(&s->where[0])) {
			text(o, " where=");
			text(o, s->where);
		}
		pair(o, "count", load_relaxed(&s->count));
		pair(o, "total us", load_relaxed(&s->total_ns) / 1000);
		for (unsigned i = 0; i < WEFT_PIN_SLOTS; i++)
			if (load_relaxed(&s->duration[i]))
				pair(o, slots[i], load_relaxed(&s->duration[i]));
		text(o, "\n");
		total[why < WEFT_PIN_REASONS ? why : 0] += load_relaxed(&s->count);
		any = true;
	}
	if (!any)
		return;
	text(o, "weft stats: pins");
	for (unsigned i = 0; i < WEFT_PIN_REASONS; i++)
		pair(o, weft_pin_reason_text((enum weft_pin_reason)i), total[i]);
	text(o, "\n");
}

/* Those that are kept now, by whom, and for how long already. */
static void kept(struct out *o)
{
	uint64_t now = weft_now_ns();

	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];
		int odd = load_relaxed(&c->odd);
		bool held = (odd & ODD_HELD) != 0;
		struct fiber *f =
			held ? load_relaxed(&c->holds) : load_relaxed(&c->current);
		uint64_t since = held ? load_relaxed(&c->held_since)
				      : load_relaxed(&c->stuck_since);

		if (!(odd & (ODD_HELD | ODD_STUCK)) || !f)
			continue;
		text(o, held ? "weft stats: held" : "weft stats: stuck");
		pair(o, "carrier", c->id);
		pair(o, "ms", now > since ? (now - since) / 1000000 : 0);
		pair(o, "tid", (uint64_t)load_relaxed(&f->tid));
		text(o, "\n");
	}
}

static void bound(struct out *o)
{
	for (unsigned why = 0; why < WEFT_BIND_REASONS; why++) {
		uint64_t n = weft_bound_count((enum weft_bind_reason)why);

		if (!n)
			continue;
		text(o, "weft stats:");
		pair(o, weft_bind_reason_text((enum weft_bind_reason)why), n);
		text(o, "\n");
	}
}

static void engine(struct out *o)
{
	static const char *const names[] = {
#define WEFT_URING_FEATURE(name) #name,
#include "uring_features.def"
#undef WEFT_URING_FEATURE
	};
	unsigned have = weft_on_epoll() ? 0 : weft_ring_features();

	text(o, " engine=");
	text(o, weft_engine_name());
	text(o, " reason=");
	text(o, weft_engine_reason());
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		if (weft_on_epoll() || have & 1u << i)
			continue;
		text(o, " without=");
		text(o, names[i]);
	}
	text(o, "\n");
}

/* Static: the caller may stand on a stack of 16 KiB. */
static struct out out;
static struct weft_lock out_lock;

static void write_all(struct out *o)
{
	struct weft_stack_stats stacks;
	unsigned asleep = 0, helpers = 0;

	fibers(o);
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		asleep += load_relaxed(&weft_rt.carrier[i]->sleeping) != 0;
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		helpers++;
	text(o, "weft stats: carriers");
	pair(o, "count", weft_rt.carriers);
	pair(o, "asleep", asleep);
	pair(o, "helpers", helpers);
	pair(o, "cpus", weft_rt.cpus);
	engine(o);
#define WEFT_COUNTER(id, name)                                                           \
	if (WEFT_COUNTER_##id != WEFT_COUNTER_CREATED) {                                 \
		text(o, "weft stats:");                                                  \
		pair(o, name, total(WEFT_COUNTER_##id));                                 \
		text(o, "\n");                                                           \
	}
#include "counters.def"
#undef WEFT_COUNTER
	weft_stack_stats(&stacks);
	text(o, "weft stats: stacks");
	pair(o, "live", stacks.live);
	pair(o, "warm", stacks.warm);
	pair(o, "reserved bytes", stacks.reserved_bytes);
	text(o, "\n");
	for (unsigned nr = 0; nr < WEFT_SYSCALL_SLOTS; nr++) {
		uint64_t n = native_total(nr);
		const char *name = weft_stats_call_name ? weft_stats_call_name(nr) : NULL;
		char buf[21];

		if (!n)
			continue;
		text(o, "weft stats: native ");
		text(o, name ? name : weft_format_u64(buf, nr));
		text(o, "=");
		number(o, n);
		text(o, "\n");
	}
	kept(o);
	pins(o);
	bound(o);
	flush(o);
}

void weft_stats_write(int fd)
{
	if (!weft_runtime_running())
		return;
	weft_lock(&out_lock);
	out.fd = fd;
	out.at = 0;
	write_all(&out);
	weft_unlock(&out_lock);
}

const char *(*weft_stats_call_name)(unsigned nr);
