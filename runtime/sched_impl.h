/* sched_impl.h - what the runtime's own files share about scheduling. */
#pragma once
#include "fiber_impl.h"
#include "pin.h"
#include "runtime.h"

/* The TSC runs at 2-4 GHz on every machine of these years: 2.5 is near enough. */
#define WEFT_TSC(ns) ((uint64_t)(ns)*5 / 2)

enum {
	WEFT_CARRIERS_MAX = 64,     /* that a user may ask for */
	WEFT_CARRIER_TABLE = 32768, /* with those that stand in for stuck ones */
	WEFT_CARRIERS_CAP = 256,
	WEFT_FIBER_CHUNK = 1024,
	WEFT_FIBER_CHUNKS = 2048, /* two million fibers */
};

struct runtime {
	bool running;
	struct weft_config config;
	enum weft_engine engine; /* (c) never AUTO */
	unsigned cpus;
	unsigned carriers;                           /* (a) grows */
	struct carrier *carrier[WEFT_CARRIER_TABLE]; /* (c) */
	unsigned target;                             /* (c) how many are to run fibers */
	struct carrier *express;       /* (a) for those that do not compute, or NULL */
	unsigned sleepers;             /* (a) carriers asleep, not in the pool */
	unsigned stuck;                /* (a) how many are, at the monitor's last look */
	struct weft_lock threads_lock; /* while a kernel thread is made and listed */
	struct carrier *helpers;       /* every helper ever made, for the stats */
	struct fiber *main_fiber;
	int pid;
	uint32_t tid_offset; /* (c) where this process's virtual ids begin */

	struct weft_lock table_lock;
	struct fiber *chunk[WEFT_FIBER_CHUNKS]; /* (t) grows; entries constant once set */
	uint32_t fresh;                         /* (t) next index never used */
	uint32_t free_count;                    /* (t) */
	struct fiber *free_head, *free_tail;    /* (t) FIFO, so that ids come back late */
	uint32_t alive, peak;                   /* (t) */
};
extern struct runtime weft_rt;

/* The fiber of that index, below `fresh`: in use or not. */
static inline struct fiber *weft_fiber_at(uint32_t index)
{
	struct fiber *chunk = load_acquire(&weft_rt.chunk[index / WEFT_FIBER_CHUNK]);

	return &chunk[index % WEFT_FIBER_CHUNK];
}

/* carrier.c */
struct carrier *weft_carrier_new(unsigned id, enum carrier_kind kind);
void weft_carrier_free(struct carrier *c);
int weft_carrier_open(struct carrier *c); /* its engine and descriptors */
/* Lets weft_keepers_state() tell of it; once it has a kernel thread. */
void weft_carrier_watch(struct carrier *c);
void weft_carrier_close(struct carrier *c);
/* Forgets the numbers of what may be the program's by now; the files stay open. */
void weft_carrier_disown(struct carrier *c);
/* c, which has disowned its own, gets what was opened for `from`. */
void weft_carrier_take_engine(struct carrier *c, struct carrier *from);
/* Ends its sleep. False: the calling thread does not have its descriptor. */
bool weft_carrier_event(const struct carrier *c);
void weft_carrier_enter(struct carrier *c);
void weft_carrier_leave(struct carrier *c);
void weft_carrier_stop_tick(struct carrier *c);
void weft_carrier_resume_tick(struct carrier *c);
void weft_carrier_end(struct carrier *c) __attribute__((noreturn));
void weft_carrier_join(struct carrier *c);
int weft_carrier_spawn(struct carrier *c, void (*fn)(void *));
void weft_carrier_kick(struct carrier *c); /* a signal that restarts calls */
/* FS base of the calling thread, which is c's. */
void weft_carrier_set_fs_slow(struct carrier *c, uintptr_t v);
static inline void weft_carrier_set_fs(struct carrier *c, uintptr_t v)
{
	bool same = c->fs_loaded == v;

	c->fs_loaded = v; /* first: from here on it is what the fault's handler writes */
	if (c->fs_on_loan) {
		if (weft_fs_read() != v)
			weft_fs_write(v);
	} else if (!same) {
		if (unlikely(weft_fs_on_loan))
			weft_carrier_set_fs_slow(c, v);
		else
			weft_wrfsbase(v);
	}
}
/*
 * One more, from the monitor's thread or a carrier: in *ret, if that is not NULL. Its
 * kernel thread need not have run when this returns, and may find that the program did
 * something to its descriptors while they were made; the next call makes that one again.
 */
int weft_carrier_add(struct carrier **ret);
/* Waits until it does. False: it could not. */
bool weft_carrier_begins(struct carrier *c);

/* monitor.c */
int weft_monitor_start(void);
void weft_monitor_stop(void);
void weft_monitor_forget(void);
struct carrier *weft_monitor_carrier(void); /* for counters and credentials; or NULL */
void weft_monitor_wake_carrier(struct carrier *c); /* which the caller cannot wake */
extern int weft_monitor_asleep;                    /* (a) [monitor-sleep] */
void weft_monitor_rouse(void);

/* deadline.c: the kernel thread that listens to clocks, for credentials; or NULL */
struct carrier *weft_clocks_listener(void);

/* Something happens that the monitor has to look at: from anywhere. */
static inline void weft_monitor_wake(void)
{
	if (unlikely(load_seq_cst(&weft_monitor_asleep)))
		weft_monitor_rouse();
}

/* sched.c */
void weft_sched_init(struct carrier *c);
void weft_sched_run_fiber(struct carrier *c, struct fiber *f);
void weft_sched_loop(void *carrier);
void weft_sched_home(void *carrier);       /* the same, begun by a fiber's first park */
void weft_sched_called(struct carrier *c); /* in its signal handler */
bool weft_sched_has_work(const struct carrier *c); /* of a stuck carrier */
unsigned weft_sched_queued(const struct carrier *c);
bool weft_sched_unseen(const struct carrier *c); /* ready, and c does not know */
/* c hands all it has to others, and is given nothing from then on. False: it cannot. */
bool weft_sched_retire(struct carrier *c);
void weft_park_finish(struct fiber *f, enum weft_wake how);
void weft_unpark_again(struct fiber *f); /* its answer was given */

/* queue.c */
void weft_sched_ready(struct carrier *c, struct fiber *f); /* on c's own thread */

/* inbox.c: from anywhere */
/* Another carrier that does its ordinary work; NULL when there is none. */
struct carrier *weft_somebody_but(const struct carrier *c);
void weft_carrier_wake(struct carrier *c);
void weft_sched_post(struct carrier *c, struct fiber *f);
void weft_sched_give(struct carrier *c, struct fiber *f); /* to this one alone */
void weft_sched_interrupt(struct carrier *c, struct fiber *f);
/* Of a bound carrier: its fiber, if it was given back; what is others' goes to them. */
struct fiber *weft_sched_take_bound(struct carrier *c);
/* From the monitor: what was given to a bound carrier just when it became one. */
void weft_sched_rescue(struct carrier *c);

/* balance.c: wakes a sleeping carrier for what is ready on c, or, if that is NULL, on
 * any; false when none sleeps that would run it. */
bool weft_sched_wake_one(const struct carrier *c);

/* express.c, from the monitor: c's fiber computes; others wait for such; none does. */
void weft_express_saw(struct carrier *c);
void weft_express_open(void);
void weft_express_close(void);

/* hogs.c: from the monitor, at each tick, … */
void weft_hogs_tick(unsigned hogs);
bool weft_hogs_watched(void);  /* make_room() is wanted every millisecond */
bool weft_hogs_by_turns(void); /* one for each CPU runs at a time */
void weft_hogs_make_room(struct carrier *monitor);
void weft_hogs_forget(void); /* in a fork child */
/* … and on c, in the handler of its kick: carrier.pause_due. */
enum weft_pause { WEFT_PAUSE_BRIEFLY = 1, WEFT_PAUSE_UNTIL_TURN };
void weft_hogs_pause(struct carrier *c, enum weft_pause how);

/* crowd.c: leaves the CPU to others, before another request is begun. */
void weft_crowd_make_room(struct carrier *c);

enum weft_give_way { GIVE_WAY = 1, GIVE_WAY_TO_WOKEN };
/* turn.c: the fiber lets its carrier do its work if it was called meanwhile. */
void weft_sched_give_way(void);
/* … and whom it has just woken, when it leaves weft: it goes on behind them. */
void weft_sched_let_woken(void);
void weft_unpark_behind(struct fiber *f); /* sched.c: for that, before the queue */

/* bind.c */
struct fiber *weft_bound_next(struct carrier *c);
void weft_bound_drop_robust(struct fiber *f); /* at its end, still on its stack */
void weft_bound_end(struct fiber *f);         /* … and when it has left it */
struct fiber *weft_bound_owner(int tid);      /* whose kernel thread this is */
void weft_bound_forget(void);

/* fiber.c */
void weft_fiber_ids_start(int pid);
struct fiber *weft_fiber_new_main(void);
void weft_fiber_table_free(void); /* a start that failed: there is no fiber but main */

/* accounting.c: at switches of fibers whose CPU time is asked for, and at ticks. */
void weft_cpu_reset(struct fiber *f);
void weft_cpu_start(struct carrier *home, struct fiber *main_fiber);
void weft_cpu_begin(struct carrier *c, struct fiber *f);
void weft_cpu_end(struct carrier *c, struct fiber *f);
void weft_cpu_sample(struct carrier *c);
/* How long its kernel thread has run, in nanoseconds. */
uint64_t weft_cpu_clock(const struct carrier *c);

/* stack.c: where a fiber keeps its vector registers; pooled after its end. */
void *weft_vector_area_get(void);
void weft_vector_area_put(void *area);

/* timer.c */
void weft_timers_init(struct timer_heap *h);
void weft_timers_free(struct timer_heap *h);
unsigned weft_timers_run(struct carrier *c, uint64_t now, unsigned most);
/* Places those anew that move with a clock; are there any? Their carrier is to look. */
bool weft_timers_clock_set(struct timer_heap *h);
/*
 * Moves what is armed on `from` to `to`, the calling carrier or one that is woken
 * after; not deadlines of operations in a ring. With `if_stuck` nothing is moved from a
 * carrier that is not stuck any more. How many were moved.
 */
unsigned weft_timers_move(struct carrier *from, struct carrier *to, bool if_stuck);

/* io.c: a completion of the ring, and the end of a wait in the epoll set. */
void weft_io_complete(struct carrier *c, uint64_t user_data, int res);
void weft_io_cancel_failed(struct carrier *c, uint64_t user_data);
void weft_io_finish(struct fiber *f, enum weft_wake how);
/* io.c: what the fiber waits for on its carrier's engine is to end. */
void weft_io_abort(struct carrier *c, struct fiber *f, enum weft_wake how);

/* io.c: all that wait on c's engine are to begin anew elsewhere. On c's own thread. */
void weft_io_move_all(struct carrier *c);

/* futex.c */
void weft_futex_lock_all(void);
void weft_futex_unlock_all(void);
void weft_futex_forget(void);

/* follow.c: f has waited for what a peer did to fd, or answered that, and may go to where
 * it runs. */
void weft_follow_peer(struct fiber *f, int fd);

/* offload.c */
void weft_offload_lock(void);
void weft_offload_unlock(void);
void weft_offload_forget(void);

/* pin.c */
void weft_pin_drop(struct fiber *f); /* at its end */
/* The same fiber's pin, of one reason at a time: counted, and its time measured. */
void weft_pin_begin(struct fiber *f, enum weft_pin_reason why, uintptr_t address);
void weft_pin_end(struct fiber *f);

/* native.c */
extern bool weft_native_watches; /* (c) stacks of parking fibers are looked at */
/* On c, when f has left its stack: pins it for this park if it has to be. */
void weft_native_look(struct carrier *c, struct fiber *f);
void weft_native_end(struct fiber *f); /* it goes on */
/* Must the calling fiber stay on its kernel thread? */
bool weft_native_stays(void);

/* proxy.c */
int weft_proxy_drop(struct fiber *f); /* at its end */
struct fiber *weft_proxy_owner(int tid);
void weft_proxy_lock(void);
void weft_proxy_unlock(void);
void weft_proxy_forget(void);

/* stack.c */
void weft_stacks_lock(void);
void weft_stacks_unlock(void);
