/* fiber_impl.h - the bodies of struct fiber and struct carrier, for runtime/ alone. */
#pragma once
#include "arch/x86_64/context.h"
#include "atomic.h"
#include "fiber.h"
#include "list.h"
#include "lock.h"
#include "sigstate.h"
#include "sys.h"

enum { WEFT_SYSCALL_SLOTS = WEFT_SYSCALL_TABLE_SIZE };

enum weft_counter {
#define WEFT_COUNTER(id, text) WEFT_COUNTER_##id,
#include "counters.def"
#undef WEFT_COUNTER
	WEFT_COUNTERS,
};

/*
 * Who owns the stack tells the states apart.
 *   FREE     in the table's free list; nobody may point at it
 *   NEW      made, not started: its creator's
 *   READY    on exactly one queue: whoever takes it off owns it
 *   RUNNING  on a carrier, which stands on its stack
 *   PARKED   on no queue; the stack is nobody's; who claims it (`wake`) takes it
 *   EXITED   left its stack for ever; the carrier in its exit commit owns it
 */
enum fiber_state {
	FIBER_FREE,
	FIBER_NEW,
	FIBER_READY,
	FIBER_RUNNING,
	FIBER_PARKED,
	FIBER_EXITED,
};

enum {
	FIBER_MAIN = 1,       /* at home on carrier 0; stolen only if that computes */
	FIBER_PASS = 2,       /* a CLONE_VM child may run in its name: check the tid */
	FIBER_KEEP_PASS = 4,  /* ... and it may outlive this call */
	FIBER_PINNED = 8,     /* runs on `carrier` only */
	FIBER_BOUND = 16,     /* runs on `bound` only, which runs nobody else */
	FIBER_NATIVE = 32,    /* … for this park, as a native library called it */
	FIBER_TID_MOVED = 64, /* clear_tid is not, or was not always, libc's word */
};

enum { WAKE_STATE = 7, WAKE_PARK = 8 };

/* A waiter on a futex word; a kernel thread that is no carrier sleeps in `word`. */
struct futex_waiter {
	struct list link;            /* (b) bucket lock */
	struct futex_bucket *bucket; /* (b) NULL once dequeued */
	uintptr_t addr;              /* (b) */
	uint32_t bitset;             /* (b) */
	bool shared;                 /* (b) */
	bool pi;                     /* (b) waits for ownership, not for a wake-up */
	uint32_t val;                /* (b) what it saw in the word */
	uint64_t since;              /* (b) the TSC when it came here */
	uint64_t begun;              /* (b) … and since when it waits like this only */
	unsigned vain;       /* (b) how often it was woken since then, perhaps in vain */
	unsigned given;      /* (b) how often its waker gave way to it since then */
	bool woken;          /* (b) the last time … */
	bool early;          /* (b) … after a long wait: then it keeps its place … */
	uint32_t park;       /* (o) … if this was its fiber's last one */
	int tid;             /* (c) of a PI waiter */
	struct fiber *fiber; /* (c) or NULL */
	int word;            /* (a) native waiters: 0 waiting, 1 woken */
};

/* A fiber's CPU time; see accounting.c. All of it belongs to the lock. */
struct cpu_account {
	struct weft_lock lock;
	struct carrier *on;          /* a slice has begun there, or NULL */
	uint64_t begun;              /* that carrier's CPU clock then */
	uint64_t sum;                /* of the slices that ended */
	uint64_t last, user, system; /* what was reported */
};

/* Key: (o) the carrier or fiber that owns it, (a) atomic, (c) constant while alive,
   (t) table lock. */
struct fiber {
	void *sp;                /* (o) where it stopped */
	uintptr_t fs_base;       /* (o) */
	struct fiber *qnext;     /* link in the one queue that holds it */
	struct carrier *carrier; /* (o) runs or ran last here; never a helper */
	int tid;                 /* (c) 0: free */
	uint32_t wake;           /* (a) number of the park * 8 + enum weft_wake */
	uint8_t in_weft;         /* (a) signals may not redirect it now */
	uint8_t state;           /* (a) enum fiber_state */
	uint8_t reason;          /* (o) enum weft_park_reason */
	uint8_t flags;           /* (o) FIBER_… */
	int attention; /* (a) a signal may be deliverable: look when leaving weft */
	int give_way;  /* (a) enum weft_give_way: lets others run when it leaves weft, and
			  not before */
	uint8_t vector_live; /* (o) came through a site: vector registers matter */
	uint8_t tried;       /* (o) enum weft_tried: what the front door found out */
	uint8_t creating;    /* (o) enum weft_creating: inside libc's pthread_create */
	uint8_t accepted;    /* (o) connections in a row, without giving way */
	uint8_t heard;       /* (o) waits for a peer since it asked where that runs */
	uint8_t returns;     /* (o) from a helper: not behind the whole queue */
	uint8_t waited;      /* (o) in another carrier's queue: not behind this one's */
	uint8_t answered;    /* (o) what it waits for is that its answer is given */
	uint8_t again;       /* (o) how often it went on at once after that */
	uint8_t firsts; /* (o) how often it went before the queue since it was in it */
	uint8_t interruptible;    /* (o) a signal may end this park */
	uint8_t accounted;        /* (a) its CPU time is read at every switch */
	uint8_t bind_due;         /* (a) 0, or an enum weft_bind_reason and 1 */
	struct carrier *helper;   /* (a) stands on this helper's kernel thread */
	struct carrier *bound;    /* (a) has this one for life; bind.c */
	struct carrier *follows;  /* (o) goes there when it is ready next, or NULL */
	struct carrier *asked_on; /* (o) on this one it asked last where its peer is */
	int kernel_tid;           /* (a) its id, once that has the fiber's attributes */
	uint64_t looked;          /* (o) the turn of its last look in vain */

	/* An operation in a ring, or a wait in an epoll set. Owned by its carrier. */
	struct carrier *io_carrier;
	int io_pending; /* completions still to come */
	int io_res;
	uint8_t io_cancelled; /* cancel was submitted */
	uint8_t io_how;       /* enum weft_wake to report */
	uint64_t *io_bits;    /* which of them are still in the ring; on its stack */
	unsigned io_words;    /* length of that */
	struct poll_waiter *io_waiters; /* (poller lock) … or in the epoll set … */
	bool io_in_set;                 /* (poller lock) … until its wait is over */
	int io_fd;                      /* (a) the number it waits for, or -1 */
	bool io_direct;        /* (o) the ring makes the call itself, on its file */
	int io_disturbed;      /* (a) its accept was begun anew: see accept_in_ring */
	unsigned io_mark;      /* (a) its operation is in the kernel from here on */
	int again_fd;          /* (o) where it saw EAGAIN last, or -1 */
	uint16_t again_events; /* (o) … and for what */

	/* Timer. */
	struct carrier *timer_carrier; /* (heap lock) NULL: not armed */
	uint32_t timer_index;          /* (heap lock) */
	uint64_t deadline;             /* (heap lock) on CLOCK_MONOTONIC */
	uint64_t asked;                /* (heap lock) the same, on the clock asked for */

	struct futex_waiter fw;
	void *vector_area; /* (o) from the vector pool, NULL until first needed */

	int *clear_tid;
	void *robust_head;
	struct proxy *proxy; /* (o) the kernel thread that owns its foreign locks */
	int *lent_id;        /* (o) where libc sees that one's id just now, or NULL */
	int own_id;          /* (o) … instead of this one */
	size_t robust_len;

	uint32_t index;      /* (c) in the table */
	uint32_t generation; /* (t) */
	uint64_t ready_tsc;  /* (a) since when it is in a queue, about */
	uint64_t ran; /* (a) TSC ticks of its last long run, halved by each since */
	uint64_t computed_tsc; /* (a) when the monitor saw it compute, or 0 */
	uint64_t start_routine;
	char name[16];
	struct weft_attributes *attributes; /* (attributes lock) NULL: as its carrier */

	struct cpu_account cpu;
	uint64_t cpu_sampled;    /* (a) written by the carrier it runs on */
	uint32_t cpu_first_park; /* (c) `wake` at its beginning */

	unsigned pins;                  /* (o) */
	struct weft_pin_site *pin_site; /* (o) who pinned it */
	uint64_t pinned_at;             /* (o) */

	struct sigstate sig;
	struct fiber *sig_next; /* link in a carrier's list of fibers to interrupt */
	int sig_queued;         /* (a) is on such a list */
} __attribute__((aligned(64)));

enum { RUNQ_SIZE = 256 };

/* Single producer (the carrier), consumers: the carrier and thieves. */
struct runq {
	uint32_t head; /* (a) moved by whoever takes */
	uint32_t tail; /* (a) moved by the owner */
	struct fiber *slot[RUNQ_SIZE];
};

struct timer_heap {
	struct weft_lock lock;
	uint32_t count, room;
	struct fiber **slot;
	uint64_t first; /* (a) earliest deadline, WEFT_NO_DEADLINE when empty */
};

enum { WEFT_CPU_SLOTS = 8 }; /* signal numbers that signal_cpu.c tells apart */

enum carrier_kind { CARRIER_FULL, CARRIER_HELPER, CARRIER_BOUND };

/* What the monitor thinks of a carrier; see monitor.c. */
enum {
	ODD_WATCHED = 1,  /* no fiber has left its stack here since the last look */
	ODD_STUCK = 2,    /* (timers.lock) one fiber has kept it since the look before */
	ODD_RETIRING = 4, /* there is one too many: this one goes when it can */
	ODD_RETIRED = 8,  /* in the pool: asleep, and nobody gives it anything */
	ODD_HELD = 16,    /* a pinned fiber is parked: runs nothing but this one */
	ODD_NEW = 32,     /* its kernel thread has not run yet */
	ODD_AWAY = ODD_STUCK | ODD_RETIRED | ODD_HELD | ODD_NEW,
};

struct weft_ring;
struct weft_poller;

struct carrier {
	struct carrier *self;  /* WEFT_GS_SELF */
	struct fiber *current; /* WEFT_GS_CURRENT; NULL in the scheduler */
	void *sched_sp;
	uintptr_t fs_loaded; /* what FS base holds now, or will when it is used next */
	uintptr_t fs_own;    /* a thread control block of its own */
	uint64_t fs_lost_in; /* (o) SWITCHES when it was lost last */
	bool fs_on_loan;     /* (o) the kernel knows WEFT_FS_LOST instead */

	bool (*commit)(struct fiber *, void *);
	void *commit_arg;

	uint64_t looked_tsc; /* (o) when it looked at ring, inbox and timers */
	unsigned cpu;        /* (a) where it was then */
	uint64_t turn_tsc;   /* (o) since when it runs what was first in its queue */
	uint64_t turn_cpu;   /* (o) its thread's CPU time when its turn began … */
	unsigned turn_run;   /* (o) … and `ticks` then */
	struct runq woken;   /* ready, and before the queue */
	unsigned woken_runs; /* (o) of those since the last one of the queue */
	struct runq runq;
	struct fiber *spill_head, *spill_tail; /* (spill_lock) the queue's overflow */
	uint32_t spill_count;
	uint64_t spill_since; /* (a) since when the first there is ready */
	struct weft_lock spill_lock;

	struct timer_heap timers;
	struct weft_ring *ring; /* one of these two */
	struct weft_poller *poller;

	void *sched_top;    /* (c) its own stack */
	void *signal_stack; /* (c) first-level signal handlers run here */
	size_t signal_stack_size;
	void (*entry)(void *); /* (c) what its kernel thread runs */
	unsigned id;
	enum carrier_kind kind; /* (a) a full one may become bound */
	int tid;                /* kernel thread id */
	int kickers, executes;  /* (a) see kick() */
	unsigned ticks;       /* fibers taken; every so often the carrier looks outside */
	unsigned yields;      /* yields with nobody to yield to */
	unsigned woke;        /* wake-ups that the kernel made for its fibers */
	int odd;              /* (a) ODD_…; 0: does its ordinary work */
	struct fiber *held;   /* (o) pinned here, and parked */
	unsigned answers;     /* (o) in the ring, and not yet given to the kernel … */
	uint64_t answers_tsc; /* (o) … and since when */
	struct fiber *at_once; /* (o) asks the kernel, and need not park if it is done */
	struct fiber *holds;   /* (a) … the last one that was */
	uint64_t held_since;   /* (a) … and since when */
	int called;   /* (a) others wait: the monitor kicks it, or a long turn ends */
	int look_due; /* (a) … kicks it to look, though it is not stuck */
	uint64_t seen_switches; /* (monitor) the switch counter at its last look */
	uint64_t seen_long;     /* (monitor) long_tsc then */
	uint64_t seen_cpu;      /* (monitor) its thread's CPU clock then, or 0 */
	uint64_t glanced_at, glanced_cpu; /* (monitor) at its last glance */
	uint64_t room_at, room_cpu; /* (monitor) when hogs.c looked, and its CPU clock */
	bool in_the_way; /* (monitor) it had the CPU while another one could have run */
	int pause_due;   /* (a) … and is kicked to leave it that: enum weft_pause */
	bool hog;        /* (monitor) stuck, and it computes */
	int awaits_turn; /* (a) … like others, of which one for each CPU runs */
	uint64_t stuck_since;    /* (timers.lock) */
	uint64_t stuck_cpu;      /* (monitor) its kernel thread's CPU clock then */
	uint64_t cpu_sampled_at; /* (o) its kernel thread's CPU clock at the last tick */
	uint64_t cpu_sampled_switches; /* (o) the switch counter then */
	uint64_t sample[4];    /* (a) pc, sp, bp, bx at the last tick, for messages */
	uint64_t joined_crowd; /* (o) SWITCHES when one last did (crowd.c) */
	struct carrier *makes_room; /* (o) then for this one, or NULL */
	uint64_t rooms_paid;        /* (o) when it has made up for such pauses */
	uint64_t backlog_tsc;       /* since when there is more work than this carrier */
	uint64_t long_tsc;          /* (a) the sum of its fibers' long runs */
	uint64_t run_tsc;           /* (a) since when its fiber runs */
	bool shares;            /* (a) … so long that others may have a single one */
	bool slow;              /* (a) its fibers compute, as the monitor found */
	struct carrier *lone;   /* (o) who had that, … */
	uint64_t lone_switches; /* (o) … and the switch counter then */
	uint64_t napped;        /* (o) its own when it slept to look again */
	uint64_t ran, ran_at; /* (receiver) its thread's CPU clock, found moved then … */
	uint64_t signalled[WEFT_CPU_SLOTS]; /* … and when it got such a signal last */
	uint64_t rng;
	uint32_t closing; /* (a) odd: its fiber closes a number (making.c) */
	bool in_close;    /* (o) … and is in the call for that */

	uint64_t counters[WEFT_COUNTERS];
	uint64_t native_calls[WEFT_SYSCALL_SLOTS];

	/* Written by others: away from the hot lines above. */
	struct fiber *inbox __attribute__((aligned(64))); /* (a) pushed by anyone */
	struct fiber *sig_inbox;                          /* (a) fibers to interrupt */
	int sleeping;                                     /* (a) */
	uint32_t broadcast_done; /* (o) last call made for all threads */
	int wake_due;            /* (a) the monitor is asked to wake it */
	int event_fd;
	uint32_t closing_seen; /* (threads_lock) `closing` that was not waited for longer
				*/
	int began;   /* (a) of a further one: 1 when its engine is enabled, or -errno */
	int stat_fd; /* (a) tells the monitor what its kernel thread does, or -1 */
	uint64_t event_value;
	int lives; /* (a) the kernel clears it when its thread is gone */
	int tick;  /* (c) its timer, if has_tick */
	bool has_tick;
	uint8_t guard_state; /* (o) of the timer that ends brief calls; see engine.c */
	int guard;
	struct carrier *helper_next; /* (idle lock) */
	struct carrier *all_next;    /* (c) every helper ever made */
	int helper_word;
	struct proxy *proxy; /* (c) whose kernel thread this is */
	struct fiber
		*bound; /* (o) of kind BOUND: whose it is; NULL when that one ended */
	bool over;      /* (a) … and then its kernel thread is gone, or about to */
} __attribute__((aligned(64)));

#ifndef __cplusplus
_Static_assert(offsetof(struct fiber, in_weft) == WEFT_FIBER_IN_WEFT, "signal.S");
_Static_assert(offsetof(struct fiber, attention) == WEFT_FIBER_ATTENTION, "signal.S");
_Static_assert(offsetof(struct carrier, self) == WEFT_GS_SELF, "gs");
_Static_assert(offsetof(struct carrier, current) == WEFT_GS_CURRENT, "gs");
#endif

/*
 * The carrier below our feet. Read through GS base each time: after a park it
 * may be another one, and an asm volatile is never merged with an earlier one.
 */
static inline struct carrier *weft_carrier_self(void)
{
	struct carrier *c;

	if (unlikely(weft_bases == WEFT_BASES_SELECTORS))
		return (struct carrier *)weft_selected_pointer();
	__asm__ volatile("movq %%gs:%c1, %0" : "=r"(c) : "i"(WEFT_GS_SELF));
	return c;
}

/* The calling fiber, where only fibers come. */
static inline struct fiber *weft_fiber_here(void)
{
	struct fiber *f = weft_fiber_self();

	if (!f)
		__builtin_unreachable();
	return f;
}

#define weft_count(c, id)        counter_inc(&(c)->counters[WEFT_COUNTER_##id])
#define weft_count_add(c, id, n) counter_add(&(c)->counters[WEFT_COUNTER_##id], n)
