/*
 * pin.c - fibers that must not change their kernel thread, and how long they do not.
 *
 * A pinned fiber that parks holds its carrier (`held`, sched.c): the carrier runs nothing
 * but this fiber, hands everything else to others, and others hand it nothing. When too
 * few are left the monitor adds carriers. Calls that would be offloaded are made here.
 *
 * Accounts are kept by call site in a table that is only ever added to; when it is full,
 * the rest is counted under site 0.
 */
#include "pin.h"

#include "sched_impl.h"
#include "stats.h"
#include "walk.h"

enum { SITES = 256, REASON_SHIFT = 56 };

static struct weft_pin_site site[SITES]; /* (a) [0] is the rest */
static int said_unbalanced;              /* (a) */

const char *weft_pin_reason_text(enum weft_pin_reason why)
{
	static const char *const text[] = {
#define WEFT_PIN_REASON(id, text) [WEFT_PIN_##id] = text,
#include "pin_reasons.def"
#undef WEFT_PIN_REASON
	};

	return why < WEFT_PIN_REASONS ? text[why] : "?";
}

uintptr_t weft_pin_site_address(const struct weft_pin_site *s)
{
	return load_relaxed(&s->key) & ((1ull << REASON_SHIFT) - 1);
}

enum weft_pin_reason weft_pin_site_reason(const struct weft_pin_site *s)
{
	return (enum weft_pin_reason)(load_relaxed(&s->key) >> REASON_SHIFT);
}

/* WEFT_TRACE=pin: once for each site. */
static void say(const struct fiber *f, const struct weft_pin_site *s)
{
	char tid[21];
	bool parked = f->reason != WEFT_REASON_NONE;

	weft_log_parts("pin: thread ", weft_format_u64(tid, (uint64_t)f->tid),
		f->name[0] ? " \"" : "", f->name, f->name[0] ? "\"" : "",
		" keeps its kernel thread: ",
		weft_pin_reason_text(weft_pin_site_reason(s)), " at ", s->where,
		parked ? ", while it waits: " : "",
		parked ? weft_reason_text((enum weft_park_reason)f->reason) : "", NULL);
}

static struct weft_pin_site *site_of(
	const struct fiber *f, enum weft_pin_reason why, uintptr_t address)
{
	uint64_t key = address | (uint64_t)why << REASON_SHIFT;
	uint64_t h = key * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < SITES - 1; i++) {
		struct weft_pin_site *s = &site[1 + (h + i) % (SITES - 1)];
		uint64_t none = 0;

		if (load_relaxed(&s->key) == key)
			return s;
		if (cas_acq_rel(&s->key, &none, key)) {
			/* The module may be gone when the statistics are written. */
			weft_where(s->where, address);
			if (weft_rt.config.trace_pins)
				say(f, s);
			return s;
		}
		if (none == key)
			return s;
	}
	return &site[0];
}

void weft_pin_begin(struct fiber *f, enum weft_pin_reason why, uintptr_t address)
{
	f->pin_site = site_of(f, why, address);
	f->pinned_at = weft_now_ns();
	fetch_add_relaxed(&f->pin_site->count, 1);
}

void weft_fiber_pin(enum weft_pin_reason why, uintptr_t address)
{
	struct fiber *f = weft_fiber_here();

	if (f->pins++)
		return;
	weft_pin_begin(f, why, address);
	f->flags |= FIBER_PINNED;
}

void weft_pin_end(struct fiber *f)
{
	struct weft_pin_site *s = f->pin_site;
	uint64_t ns = weft_now_ns() - f->pinned_at;
	unsigned slot = 0;

	for (uint64_t limit = 10000; slot < WEFT_PIN_SLOTS - 1 && ns >= limit;
		limit *= 10)
		slot++;
	fetch_add_relaxed(&s->duration[slot], 1);
	fetch_add_relaxed(&s->total_ns, ns);
}

bool weft_fiber_unpin(void)
{
	struct fiber *f = weft_fiber_here();

	if (!f->pins) {
		if (!xchg_acq_rel(&said_unbalanced, 1))
			weft_log(
				"weft_unpin() without a weft_pin() before: nothing is done");
		return false;
	}
	if (--f->pins)
		return true;
	f->flags &= (uint8_t)~FIBER_PINNED;
	weft_pin_end(f);
	return true;
}

void weft_pin_drop(struct fiber *f)
{
	f->pins = 0;
	f->flags &= (uint8_t)~FIBER_PINNED;
	weft_pin_end(f);
}

const struct weft_pin_site *weft_pin_site(unsigned i)
{
	while (i < SITES && !load_relaxed(&site[i].count))
		i++;
	return i < SITES ? &site[i] : NULL;
}

unsigned weft_pin_site_next(const struct weft_pin_site *s)
{
	return (unsigned)(s - site) + 1;
}
