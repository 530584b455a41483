/*
 * Parses the WEFT_* environment; see options.h for what it promises.
 *
 * Compiled twice: into libweft.so, where it runs in the constructor with
 * nothing to stand on, and into the launcher, which thereby accepts exactly
 * what the library accepts. Hence no libc function, no global data that is
 * written, and a message made on the stack. Every set_ID() decides first and
 * writes last, so that a malformed value changes nothing.
 */
#include "options.h"

/* ---- strings, without libc ---- */

/* Behind prefix if text starts with it, else NULL. */
static const char *after(const char *text, const char *prefix)
{
	while (*prefix != '\0')
		if (*text++ != *prefix++)
			return NULL;
	return text;
}

static bool same(const char *a, const char *b)
{
	a = after(a, b);
	return a != NULL && *a == '\0';
}

/*
 * A decimal number in [min, max] that starts at *text and ends before the
 * first non-digit, where *text is left. No sign, no blank, not empty.
 */
static bool number(const char **text, uint64_t min, uint64_t max, uint64_t *ret)
{
	const char *p = *text;
	uint64_t n = 0;

	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		const uint64_t digit = (uint64_t)(*p - '0');

		if (n > (UINT64_MAX - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	if (n < min || n > max)
		return false;
	*text = p;
	*ret = n;
	return true;
}

/* As number(), and nothing may follow. */
static bool whole_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t n;

	if (!number(&text, min, max, &n) || *text != '\0')
		return false;
	*ret = n;
	return true;
}

/* One of two words; *ret becomes whether it is the second. */
static bool either(const char *value, const char *first, const char *second, bool *ret)
{
	const bool is_second = same(value, second);

	if (!is_second && !same(value, first))
		return false;
	*ret = is_second;
	return true;
}

/* ---- one function per row of options.def ---- */

static bool set_OFF(const char *value, struct weft_options *ret)
{
	return either(value, "on", "off", &ret->off);
}

/* A copy: a program may use the memory of its environment for something else. */
static char stats_path[4096];

static bool set_STATS(const char *value, struct weft_options *ret)
{
	uint64_t seconds;
	size_t n = 0;

	if (same(value, "exit")) {
		ret->stats = WEFT_STATS_EXIT;
	} else if (*value == '/') {
		ret->stats = WEFT_STATS_FILE;
		do {
			if (n == sizeof stats_path)
				return false;
			stats_path[n] = value[n];
		} while (value[n++]);
		ret->stats_path = stats_path;
	} else {
		if (!number(&value, 1, WEFT_STATS_EVERY_MAX, &seconds) ||
			!same(value, "s"))
			return false;
		ret->stats = WEFT_STATS_EVERY;
		ret->stats_every_s = (unsigned)seconds;
	}
	return true;
}

/* Also a copy. */
static char native[1024];

/* As the name of a file may be: nothing that leads elsewhere or is not to be seen. */
static bool plausible_name(const char *text, size_t n)
{
	if (n == 0 || n > 63 || text[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++)
		if (text[i] == '/' || (unsigned char)text[i] <= ' ' || text[i] == 0x7f)
			return false;
	return true;
}

static bool set_NATIVE(const char *value, struct weft_options *ret)
{
	size_t at = 0, from = 0;
	unsigned names = 0;

	for (;; at++) {
		if (value[at] != ',' && value[at] != '\0')
			continue;
		if (at >= sizeof native || ++names > WEFT_NATIVE_NAMES_MAX ||
			!plausible_name(value + from, at - from))
			return false;
		from = at + 1;
		if (value[at] == '\0')
			break;
	}
	for (size_t i = 0; i <= at; i++)
		native[i] = value[i];
	ret->native = native;
	return true;
}

static bool set_TRACE(const char *value, struct weft_options *ret)
{
	if (!same(value, "pin"))
		return false;
	ret->trace_pins = true;
	return true;
}

static bool set_CARRIERS(const char *value, struct weft_options *ret)
{
	uint64_t n;

	if (!whole_number(value, 1, WEFT_CARRIERS_MAX, &n))
		return false;
	ret->carriers = (unsigned)n;
	return true;
}

static bool set_CARRIERS_CAP(const char *value, struct weft_options *ret)
{
	uint64_t n;

	if (!whole_number(value, 1, WEFT_CARRIERS_CAP_MAX, &n))
		return false;
	ret->carriers_cap = (unsigned)n;
	return true;
}

static bool set_VERBOSE(const char *value, struct weft_options *ret)
{
	return either(value, "0", "1", &ret->verbose);
}

/*
 * The lists: elements separated by single commas, none empty, none twice (of
 * "mmap:1,mmap:2" nobody can say which was meant).
 */
static bool set_STRESS(const char *value, struct weft_options *ret)
{
#define LOCAL(name) bool name = false;
	WEFT_STRESS_KNOBS(LOCAL)
#undef LOCAL

	for (;;) {
		const char *next = NULL;
		bool *knob = NULL;

		/* No name starts another one, so the first hit is it. */
#define MATCH(name)                                                                      \
	if (knob == NULL && (next = after(value, #name)) != NULL)                        \
		knob = &name;
		WEFT_STRESS_KNOBS(MATCH)
#undef MATCH
		if (knob == NULL || *knob || (*next != ',' && *next != '\0'))
			return false;
		*knob = true;
		if (*next == '\0')
			break;
		value = next + 1;
	}
#define STORE(name) ret->stress_##name = name;
	WEFT_STRESS_KNOBS(STORE)
#undef STORE
	return true;
}

static bool set_FAULT(const char *value, struct weft_options *ret)
{
#define LOCAL(name) unsigned name = 0;
	WEFT_FAULT_POINTS(LOCAL)
#undef LOCAL

	for (;;) {
		const char *next = NULL;
		unsigned *point = NULL;
		uint64_t n;

#define MATCH(name)                                                                      \
	if (point == NULL && (next = after(value, #name ":")) != NULL)                   \
		point = &name;
		WEFT_FAULT_POINTS(MATCH)
#undef MATCH
		if (point == NULL || *point != 0 ||
			!number(&next, 1, WEFT_FAULT_MAX, &n) ||
			(*next != ',' && *next != '\0'))
			return false;
		*point = (unsigned)n;
		if (*next == '\0')
			break;
		value = next + 1;
	}
#define STORE(name) ret->fault_##name = name;
	WEFT_FAULT_POINTS(STORE)
#undef STORE
	return true;
}

/* Names as in uring_features.def, in its order; -5.15 is that kernel. */
static bool set_URING(const char *value, struct weft_options *ret)
{
	static const char *const names[] = {
#define WEFT_URING_FEATURE(name) #name,
#include "../runtime/uring_features.def"
#undef WEFT_URING_FEATURE
	};
	enum { COUNT = sizeof names / sizeof *names };
	unsigned without = 0;

	for (;;) {
		const char *next = after(value, "-5.15");
		unsigned bits = (1u << (COUNT - 1)) - 1; /* large_rings is the last */

		for (unsigned i = 0; next == NULL && i < COUNT && *value == '-'; i++) {
			next = after(value + 1, names[i]);
			bits = 1u << i;
		}
		if (next == NULL || without & bits || (*next != ',' && *next != '\0'))
			return false;
		without |= bits;
		if (*next == '\0')
			break;
		value = next + 1;
	}
	ret->uring_without = without;
	return true;
}

static bool set_ENGINE(const char *value, struct weft_options *ret)
{
	if (same(value, "auto"))
		ret->engine = WEFT_OPTION_ENGINE_AUTO;
	else if (same(value, "io_uring"))
		ret->engine = WEFT_OPTION_ENGINE_IO_URING;
	else if (same(value, "epoll"))
		ret->engine = WEFT_OPTION_ENGINE_EPOLL;
	else
		return false;
	return true;
}

static bool set_SEED(const char *value, struct weft_options *ret)
{
	uint64_t n;

	if (!whole_number(value, 0, UINT64_MAX, &n))
		return false;
	ret->seed = n;
	ret->seed_given = true;
	return true;
}

static bool set_FSGSBASE(const char *value, struct weft_options *ret)
{
	ret->bases_lent = same(value, "loan");
	ret->bases_by_gs = same(value, "gs");
	ret->bases_by_calls = ret->bases_by_gs || same(value, "off");
	return ret->bases_lent || ret->bases_by_calls || same(value, "auto");
}

static bool set_SITES(const char *value, struct weft_options *ret)
{
	return either(value, "auto", "decode", &ret->sites_decode);
}

bool weft_options_set(enum weft_option_id id, const char *value, struct weft_options *ret)
{
	switch (id) {
#define WEFT_OPTION(id, ...)                                                             \
	case WEFT_OPTION_##id:                                                           \
		return set_##id(value, ret);
#include "options.def"
#undef WEFT_OPTION
	case WEFT_OPTION_COUNT:
		break;
	}
	return false;
}

/* ---- messages ---- */

struct line {
	size_t len;
	char text[WEFT_OPTIONS_LINE_MAX];
};

/* Room is always left for the '\n' and the '\0'. */
static void put_byte(struct line *line, char c)
{
	if (line->len < sizeof(line->text) - 2)
		line->text[line->len++] = c;
}

static void put(struct line *line, const char *text)
{
	while (*text != '\0')
		put_byte(line, *text++);
}

/*
 * What the user gave, up to '\0' or to end: at most max bytes of it, so that
 * the rest of the message still fits, and nothing that could make it two lines
 * or talk to the terminal. UTF-8 is shown and not cut in two.
 */
static void put_given(struct line *line, const char *text, const char *end, size_t max)
{
	size_t extra = 3; /* continuation bytes of the last character */

	for (; text != end && *text != '\0'; text++) {
		const unsigned char c = (unsigned char)*text;

		if (max > 0) {
			max--;
		} else if ((c & 0xc0) == 0x80 && extra > 0) {
			extra--;
		} else {
			put(line, "...");
			return;
		}
		put_byte(line, c < 0x20 || c == 0x7f ? '?' : (char)c);
	}
}

static void finish(struct line *line, void (*complain)(const char *line))
{
	line->text[line->len++] = '\n';
	line->text[line->len] = '\0';
	complain(line->text);
}

enum { GIVEN_MAX = 80 };

/* No initialiser for struct line here: it would be a call of memset(). */
static void complain_value(
	enum weft_option_id id, const char *value, void (*complain)(const char *line))
{
	const char *name = "", *allowed = "", *standard = "";
	struct line line;

	switch (id) {
#define WEFT_OPTION(                                                                     \
	id, variable, kind, fields, flag, metavar, implies, allowed_, standard_, help)   \
	case WEFT_OPTION_##id:                                                           \
		name = variable;                                                         \
		allowed = allowed_;                                                      \
		standard = standard_;                                                    \
		break;
#include "options.def"
#undef WEFT_OPTION
	case WEFT_OPTION_COUNT:
		break;
	}
	line.len = 0;
	put(&line, "weft: ");
	put(&line, name);
	put(&line, "='");
	put_given(&line, value, NULL, GIVEN_MAX);
	put(&line, "' is not understood; allowed: ");
	put(&line, allowed);
	put(&line, "; the default is used: ");
	put(&line, standard);
	finish(&line, complain);
}

static void complain_name(
	const char *entry, const char *equals, void (*complain)(const char *line))
{
	struct line line;

	line.len = 0;
	put(&line, "weft: ");
	put_given(&line, entry, equals, GIVEN_MAX);
	put(&line, "='");
	put_given(&line, equals + 1, NULL, GIVEN_MAX);
	put(&line, "' is ignored, there is no such option; allowed:");
#define WEFT_OPTION(id, variable, ...) put(&line, " " variable);
#include "options.def"
#undef WEFT_OPTION
	put(&line, "; the defaults are used");
	finish(&line, complain);
}

/* ---- the environment ---- */

/* The value if entry is name=value, else NULL. */
static const char *value_of(const char *entry, const char *name)
{
	entry = after(entry, name);
	return entry != NULL && *entry == '=' ? entry + 1 : NULL;
}

/* Which option entry sets, and to what; WEFT_OPTION_COUNT if none. */
static enum weft_option_id identify(const char *entry, const char **ret_value)
{
	const char *value;

#define WEFT_OPTION(id, variable, ...)                                                   \
	value = value_of(entry, variable);                                               \
	if (value != NULL) {                                                             \
		*ret_value = value;                                                      \
		return WEFT_OPTION_##id;                                                 \
	}
#include "options.def"
#undef WEFT_OPTION
	return WEFT_OPTION_COUNT;
}

static void set_defaults(struct weft_options *ret)
{
	/* Zero is every option's default; volatile, or this calls memset(). */
	volatile unsigned char *p = (volatile unsigned char *)ret;

	for (size_t i = 0; i < sizeof(*ret); i++)
		p[i] = 0;
}

void weft_options_parse(char *const *env, bool secure, struct weft_options *ret,
	void (*complain)(const char *line))
{
	uint32_t seen = 0;
	const char *value = NULL;

	_Static_assert(WEFT_OPTION_COUNT <= 32, "seen has a bit for each");
	_Static_assert(WEFT_STATS_NONE == 0, "zero is the default");

	set_defaults(ret);
	if (env == NULL)
		return;

	/* WEFT=off comes first: then nothing else matters, nor is said. */
	for (char *const *e = env; *e != NULL; e++) {
		if (identify(*e, &value) != WEFT_OPTION_OFF)
			continue;
		(void)weft_options_set(WEFT_OPTION_OFF, value, ret);
		break;
	}
	if (ret->off || secure)
		return;

	for (char *const *e = env; *e != NULL; e++) {
		const enum weft_option_id id = identify(*e, &value);

		if (id != WEFT_OPTION_COUNT) {
			const uint32_t bit = UINT32_C(1) << id;

			if ((seen & bit) == 0 && !weft_options_set(id, value, ret) &&
				complain != NULL)
				complain_value(id, value, complain);
			seen |= bit;
		} else if (after(*e, "WEFT_") != NULL && complain != NULL) {
			const char *equals = *e;

			while (*equals != '\0' && *equals != '=')
				equals++;
			if (*equals == '=') /* else no variable at all */
				complain_name(*e, equals, complain);
		}
	}
}
