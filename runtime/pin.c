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

enum { SITES = 256 };

static struct weft_pin_site site[SITES]; /* (a) [0] is the rest */
static int said_unbalanced;              /* (a) */

static struct weft_pin_site *site_of(uintptr_t address)
{
	uint64_t h = address * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < SITES - 1; i++) {
		struct weft_pin_site *s = &site[1 + (h + i) % (SITES - 1)];
		uintptr_t none = 0;

		if (load_relaxed(&s->address) == address ||
			cas_acq_rel(&s->address, &none, address) || none == address)
			return s;
	}
	return &site[0];
}

void weft_fiber_pin(uintptr_t address)
{
	struct fiber *f = weft_fiber_here();

	if (f->pins++)
		return;
	f->pin_site = site_of(address);
	f->pinned_at = weft_now_ns();
	f->flags |= FIBER_PINNED;
	fetch_add_relaxed(&f->pin_site->count, 1);
}

static void account(struct weft_pin_site *s, uint64_t ns)
{
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
	account(f->pin_site, weft_now_ns() - f->pinned_at);
	return true;
}

void weft_pin_drop(struct fiber *f)
{
	f->pins = 0;
	f->flags &= (uint8_t)~FIBER_PINNED;
	account(f->pin_site, weft_now_ns() - f->pinned_at);
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
