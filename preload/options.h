/*
 * The WEFT_* options, parsed from an environment.
 *
 * The parser is the first thing of weft that runs in a process: it needs
 * nothing to be initialised, allocates nothing, opens nothing (not even the
 * file that WEFT_STATS names), calls no function of libc and keeps no state.
 * It has no errors to return: whatever is unknown or malformed is one line for
 * the user, and that option's default is used.
 */
#ifndef WEFT_OPTIONS_H
#define WEFT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_STRING_(x) #x
#define WEFT_STRING(x)  WEFT_STRING_(x)

#define WEFT_STATS_EVERY_MAX  86400 /* a day */
#define WEFT_CARRIERS_MAX     64
#define WEFT_CARRIERS_CAP_MAX 32768
#define WEFT_NATIVE_NAMES_MAX 32
#define WEFT_FAULT_MAX        1000000000

/* What the two lists may name; each name is also a field's. */
#define WEFT_STRESS_KNOBS(X) X(migrate) X(wouldblock) X(shuffle)
#define WEFT_FAULT_POINTS(X) X(mmap) X(io_uring_setup) X(io_uring_enter) X(clone)

enum weft_engine_option {
	WEFT_OPTION_ENGINE_AUTO,
	WEFT_OPTION_ENGINE_IO_URING,
	WEFT_OPTION_ENGINE_EPOLL,
};

#define WEFT_STRESS_FIELD(name) bool stress_##name;
#define WEFT_FAULT_FIELD(name)  unsigned fault_##name;
#define WEFT_LISTED_NAME(name)  " " #name
#define WEFT_URING_NAMES                                                                 \
	" single_issuer defer_taskrun coop_taskrun taskrun_flag poll_first futex_wait"   \
	" waitid cancel_any submit_overflow large_rings"

enum weft_stats_mode {
	WEFT_STATS_NONE,
	WEFT_STATS_EXIT,
	WEFT_STATS_EVERY,
	WEFT_STATS_FILE,
};

struct weft_options {
#define WEFT_OPTION(id, variable, kind, fields, ...) fields
#include "options.def"
#undef WEFT_OPTION
};

enum weft_option_id {
#define WEFT_OPTION(id, ...) WEFT_OPTION_##id,
#include "options.def"
#undef WEFT_OPTION
	WEFT_OPTION_COUNT
};

/*
 * The longest line that complain() gets, '\0' included. What the user gave is
 * shortened to fit, and shown without control characters.
 */
#define WEFT_OPTIONS_LINE_MAX 768

/*
 * Fills all of *ret from env (as environ; NULL is an empty one). Of a variable
 * that is there twice the first counts, as for getenv().
 *
 * secure is the process's AT_SECURE: then everything but WEFT=off is ignored,
 * silently, because the environment is that of a less privileged user. WEFT=off
 * silences the complaints too.
 *
 * complain gets complete lines: they start with "weft: ", end with '\n', and
 * live until it returns. It may be NULL.
 */
void weft_options_parse(char *const *env, bool secure, struct weft_options *ret,
	void (*complain)(const char *line));

/*
 * One value of one option, by the same rules. False, and *ret untouched, when
 * it is malformed. value must live as long as *ret.
 */
bool weft_options_set(
	enum weft_option_id id, const char *value, struct weft_options *ret);

#ifdef __cplusplus
}
#endif
#endif
