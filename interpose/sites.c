/*
 * sites.c - verifies a table against the running text, fills thunks, patches.
 *
 * Answers for: the text is either as the table says everywhere and patched, or as
 * it was; no page is ever writable and executable; nothing here runs code of libc
 * or ld.so (they are not executable for a while), allocates, or touches TLS.
 *
 * Runs once, at activation, in the only thread, with all signals blocked.
 *
 * Two ways of writing. Mapped: mprotect the DSO's whole text to read-write, write,
 * and back. The whole, because then no mapping is split (vm.max_map_count cannot
 * get in the way) and two calls do for all pages; only pages written to become
 * private. Through /proc/self/mem, where the system forbids pages to become
 * executable again (PR_SET_MDWE, SELinux execmod): the kernel writes for us, and
 * the protection never changes. A page of our own finds out which, because trying
 * it on libc would leave libc unexecutable. /proc comes second as it is not there
 * after a chroot. With SELinux the answer depends on the file's label, so a page
 * of libweft says nothing about libc, and /proc comes first.
 *
 * Rejected: mapping a patched copy over the text (perf and gdb lose the file);
 * one mprotect per page (splits hundreds of mappings for a moment).
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>

#include "interpose/sites.h"
#include "runtime/sys.h"

/* Tests put themselves between this file and the kernel. */
#ifndef WEFT_SITES_SYSCALL
#define WEFT_SITES_SYSCALL weft_sys6
#endif
#define SYSCALL(nr, a, b, c, d)                                                          \
	WEFT_SITES_SYSCALL(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

#define PAGE 4096ul

enum writer { WRITE_MAPPED, WRITE_MEM };

extern uint8_t weft_thunk_area[], weft_thunk_probe[];
extern const uint8_t weft_site_entry[]; /* thunk.S */

_Static_assert(sizeof(struct weft_slot) == WEFT_SLOT_SIZE, "thunk_area.S");
_Static_assert(WEFT_SLOT_COUNT *WEFT_SLOT_SIZE % PAGE == 0, "whole pages");
_Static_assert(offsetof(struct weft_slot, after_syscall) == 120, "CFI in thunk_area.S");

/* What is installed; constant from install to uninstall. */
static struct {
	unsigned count;
	struct weft_dso dso[WEFT_DSO_MAX];
	const struct weft_site_table *table[WEFT_DSO_MAX];
	enum writer writer;
	uint8_t skipped[WEFT_SLOT_COUNT]; /* breakpoint: slot not used */
} installed;

/* The probe page was lost finding out; it is not tried again. */
static int wx_enforced;
/* So were the thunks' pages: there is no third try. */
static int thunks_lost;

/* rep movsb and not a loop: compilers make calls of memcpy from those. */
static void copy(void *to, const void *from, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void fill(void *to, uint8_t byte, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
}

static int same(const uint8_t *a, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* -- the loader's list ----------------------------------------------------------------
 */

static const char *last_component(const char *path)
{
	const char *name = path;

	for (const char *p = path; *p; p++)
		if (*p == '/')
			name = p + 1;
	return name;
}

static int has_prefix(const char *s, const char *prefix)
{
	while (*prefix && *s == *prefix)
		s++, prefix++;
	return !*prefix;
}

static int find_build_id(struct weft_dso *d, const ElfW(Phdr) * note)
{
	uintptr_t p = d->base + note->p_vaddr, end = p + note->p_memsz;

	while (p + sizeof(ElfW(Nhdr)) <= end) {
		const ElfW(Nhdr) *n = (const void *)p;
		uintptr_t desc = p + sizeof(*n) + ((n->n_namesz + 3u) & ~3u);

		if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 &&
			desc + n->n_descsz <= end) {
			d->build_id = (const uint8_t *)desc;
			d->build_id_len = n->n_descsz;
			return 1;
		}
		p = desc + ((n->n_descsz + 3u) & ~3u);
	}
	return 0;
}

static int describe(const struct link_map *l, struct weft_dso *ret)
{
	struct weft_dso d = {.name = last_component(l->l_name), .base = l->l_addr};
	const ElfW(Ehdr) *eh = (const void *)d.base;
	unsigned char resident;
	unsigned texts = 0;

	/* A prelinked DSO's l_addr is not where its headers are. */
	if (!d.base || d.base % PAGE ||
		SYSCALL(SYS_mincore, d.base, PAGE, &resident, 0) != 0 ||
		!same(eh->e_ident, (const uint8_t *)ELFMAG, SELFMAG) ||
		eh->e_machine != EM_X86_64 || eh->e_phentsize != sizeof(ElfW(Phdr)) ||
		eh->e_phoff + eh->e_phnum * sizeof(ElfW(Phdr)) > PAGE)
		return -ENOEXEC;
	const ElfW(Phdr) *ph = (const void *)(d.base + eh->e_phoff);

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_NOTE && !d.build_id)
			find_build_id(&d, &ph[i]);
		if (ph[i].p_type != PT_LOAD || !(ph[i].p_flags & PF_X))
			continue;
		d.text = d.base + ph[i].p_vaddr;
		d.text_end = d.text + ph[i].p_memsz;
		texts++;
		if (ph[i].p_flags & PF_W)
			return -ENOEXEC;
	}
	if (texts != 1)
		return -ENOEXEC;
	copy(ret, &d, sizeof(d)); /* an assignment may become a memcpy */
	return 0;
}

int weft_dso_find(const char *prefix, struct weft_dso *ret)
{
	for (const struct link_map *l = _r_debug.r_map; l; l = l->l_next)
		if (l->l_name && has_prefix(last_component(l->l_name), prefix))
			return describe(l, ret);
	return -ENOENT;
}

const struct weft_site_table *weft_sites_table(const struct weft_dso *dso)
{
	for (unsigned i = 0; i < weft_site_table_count; i++) {
		const struct weft_site_table *t = &weft_site_tables[i];

		if (dso->build_id_len && t->build_id_len == dso->build_id_len &&
			same(t->build_id, dso->build_id, dso->build_id_len))
			return t;
	}
	return NULL;
}

/* -- thunks and spans, as bytes ---------------------------------------------------------
 */

static struct weft_slot *slot(unsigned i)
{
	return (struct weft_slot *)weft_thunk_area + i;
}

static unsigned span_len(const struct weft_site *s)
{
	return 2u + s->before + s->after;
}

static uintptr_t span_of(const struct weft_dso *d, const struct weft_site *s)
{
	return d->base + s->rva - s->before;
}

static int reaches(uintptr_t from, uintptr_t to)
{
	intptr_t d = (intptr_t)(to - from);

	/* 256 bytes of slack: `from` may be any place in the slot or the span */
	return d >= INT32_MIN + 256 && d <= INT32_MAX - 256;
}

static uint8_t *put_rel32(uint8_t *p, uintptr_t at, uintptr_t to)
{
	uint32_t rel = (uint32_t)(to - (at + 4));

	copy(p, &rel, 4);
	return p + 4;
}

/* Moves part of a span; `off` is where in the span it starts. */
static uint8_t *put_moved(uint8_t *p, uintptr_t at, const struct weft_site *s,
	uintptr_t span, unsigned off, unsigned len)
{
	unsigned disp = s->rip_disp - 1u;

	copy(p, s->orig + off, len);
	if (s->rip_disp && disp >= off && disp < off + len) {
		uint32_t v;

		copy(&v, p + disp - off, 4);
		v += (uint32_t)(span + off - at);
		copy(p + disp - off, &v, 4);
	}
	return p + len;
}

/* Writes the image of the slot that will live at `home`. */
static void make_slot(struct weft_slot *image, uintptr_t home, const struct weft_dso *d,
	const struct weft_site_table *t, const struct weft_site *s)
{
	uint8_t *p = image->code;
	uintptr_t span = span_of(d, s);
#define AT(p) (home + (uintptr_t)((p) - (uint8_t *)image))

	fill(image, 0xcc, sizeof(*image));
	p = put_moved(p, AT(p), s, span, 0, s->before);
	uint8_t *raw = p + 7 + 5;

	*p++ = 0x4c; /* lea raw(%rip), %r11 */
	*p++ = 0x8d;
	*p++ = 0x1d;
	p = put_rel32(p, AT(p), AT(raw));
	*p++ = 0xe9;
	p = put_rel32(p, AT(p), (uintptr_t)weft_site_entry);
	*p++ = 0x0f;
	*p++ = 0x05;
	p = put_moved(p, AT(p), s, span, s->before + 2u, s->after);
	*p++ = 0xe9;
	put_rel32(p, AT(p), span + span_len(s));
	image->site = s;
	image->table = t;
	image->after_syscall = d->base + s->rva + 2;
#undef AT
}

/*
 * What replaces a span: the jump, then int3. Where the jump does not reach the
 * syscall instruction that one stays as it is: a signal frame from before the
 * activation that restarts its call comes back to exactly there.
 */
static void make_span(
	uint8_t *image, const struct weft_dso *d, const struct weft_site *s, uintptr_t to)
{
	fill(image, 0xcc, span_len(s));
	if (s->before >= 5)
		copy(image + s->before, s->orig + s->before, 2);
	image[0] = 0xe9;
	put_rel32(image + 1, span_of(d, s) + 1, to);
}

/* -- checks
 * ------------------------------------------------------------------------------ */

/* 1: as the table says. 0: but for breakpoints. -ESTALE: other code. */
static int verify(const struct weft_dso *d, const struct weft_site *s)
{
	const uint8_t *now = (const uint8_t *)span_of(d, s);
	int intact = 1;

	for (unsigned i = 0; i < span_len(s); i++) {
		if (now[i] == s->orig[i])
			continue;
		if (now[i] != 0xcc)
			return -ESTALE;
		intact = 0;
	}
	return intact;
}

static int check_site(const struct weft_dso *d, const struct weft_site *s,
	uintptr_t free_from, unsigned i)
{
	/* A table is data: nothing in it may lead outside of the text or the slot. */
	if (span_len(s) < 5 || span_len(s) > WEFT_SPAN_MAX ||
		s->rip_disp > span_len(s) - 3 || s->orig[s->before] != 0x0f ||
		s->orig[s->before + 1] != 0x05 || span_of(d, s) < free_from ||
		span_of(d, s) + span_len(s) > d->text_end)
		return -ESTALE;
	if (!reaches(span_of(d, s), (uintptr_t)slot(i)))
		return -ERANGE;
	int r = verify(d, s);

	if (r < 0)
		return r;
	installed.skipped[i] = !r;
	/* a rip-relative operand must still reach its data from the slot */
	if (s->rip_disp) {
		int32_t disp;

		copy(&disp, s->orig + s->rip_disp - 1, 4);
		if (!reaches((uintptr_t)slot(i),
			    span_of(d, s) + (uintptr_t)(intptr_t)disp))
			return -ERANGE;
	}
	return 0;
}

static int check_all(const struct weft_dso *const dsos[],
	const struct weft_site_table *const tables[], unsigned n)
{
	unsigned used = 0;

	for (unsigned k = 0; k < n; k++) {
		const struct weft_dso *d = dsos[k];
		const struct weft_site_table *t = tables[k];
		uintptr_t free_from = d->text;

		if (t->count > WEFT_SLOT_COUNT - used)
			return -ENOSPC;
		if (!d->build_id_len || t->build_id_len != d->build_id_len ||
			!same(t->build_id, d->build_id, d->build_id_len))
			return -ESTALE;
		for (unsigned i = 0; i < t->count; i++) {
			int r = check_site(d, &t->site[i], free_from, used + i);

			if (r)
				return r;
			free_from = span_of(d, &t->site[i]) + span_len(&t->site[i]);
		}
		used += t->count;
	}
	return 0;
}

/* -- writing text
 * ------------------------------------------------------------------------- */

static long protect(uintptr_t start, uintptr_t end, int prot)
{
	start &= -PAGE;
	end = (end + PAGE - 1) & -PAGE;
	return SYSCALL(SYS_mprotect, start, end - start, prot, 0);
}

static long protect_text(const struct weft_dso *d, int prot)
{
	return protect(d->text, d->text_end, prot);
}

static long protect_thunks(int prot)
{
	uintptr_t area = (uintptr_t)weft_thunk_area;

	return protect(area, area + WEFT_SLOT_COUNT * WEFT_SLOT_SIZE, prot);
}

static int open_mem(void)
{
	return (int)SYSCALL(
		SYS_openat, AT_FDCWD, "/proc/self/mem", O_RDWR | O_CLOEXEC, 0);
}

/* `mem` < 0: the page is writable. The kernel may drop a write silently: look. */
static int write_text(int mem, uintptr_t to, const void *from, size_t n)
{
	if (mem < 0) {
		copy((void *)to, from, n);
		return 0;
	}
	long r = SYSCALL(SYS_pwrite64, mem, from, n, to);

	if (r != (long)n || !same((const uint8_t *)to, from, n))
		return -EACCES;
	return 0;
}

/* May a page that was written to become executable again? 1, 0 or -EXXX. */
static int probe_mapped(void)
{
	uintptr_t page = (uintptr_t)weft_thunk_probe;
	long r;

	if (wx_enforced)
		return 0;
	r = protect(page, page + PAGE, PROT_READ | PROT_WRITE);
	if (r == 0) {
		*(volatile uint8_t *)page = 0xcc;
		r = protect(page, page + PAGE, PROT_READ | PROT_EXEC);
		if (r)
			protect(page, page + PAGE, PROT_READ);
	}
	if (r == -EACCES || r == -EPERM)
		wx_enforced = 1;
	return wx_enforced ? 0 : r ? (int)r : 1;
}

/* May the kernel write read-only text for us? The descriptor, or -EXXX. */
static int probe_mem(void)
{
	static const uint8_t mark[4] = {0xcc, 0x90, 0xcc, 0x90};
	int mem = open_mem();

	if (mem < 0)
		return -EACCES;
	if (write_text(mem, (uintptr_t)weft_thunk_probe, mark, sizeof(mark))) {
		SYSCALL(SYS_close, mem, 0, 0, 0);
		return -EACCES;
	}
	return mem;
}

static int selinux(void)
{
	long fd = SYSCALL(
		SYS_openat, AT_FDCWD, "/sys/fs/selinux/enforce", O_RDONLY | O_CLOEXEC, 0);

	if (fd >= 0)
		SYSCALL(SYS_close, fd, 0, 0, 0);
	return fd >= 0;
}

/*
 * The processor fetched some of this text before it changed. One thread on one core
 * has to execute something serialising after its writes and before the new code
 * (Intel SDM 3A, 9.1.3: the writes went through another mapping's worth of
 * permissions, or were the kernel's); cpuid is, also in a guest, where it exits.
 * Other cores have never run this process's new text: whoever runs it there first
 * came through a context switch, which serialises.
 */
static void serialize(void)
{
	unsigned a = 0, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* Text that cannot be made executable again: there is nobody to return to. */
static void __attribute__((noreturn)) die(void)
{
	static const char line[] =
		"weft: the system took away the right to execute libc while weft was "
		"patching it; start the program with WEFT=off\n";

	SYSCALL(SYS_write, 2, line, sizeof(line) - 1, 0);
	for (;;) {
		SYSCALL(SYS_kill, SYSCALL(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
		SYSCALL(SYS_exit_group, 127, 0, 0, 0);
	}
}

/* Opens the text of all DSOs for writing, or of none. */
static long open_texts(void)
{
	for (unsigned k = 0; k < installed.count; k++) {
		long r = protect_text(&installed.dso[k], PROT_READ | PROT_WRITE);

		if (!r)
			continue;
		/* the failed one too: mprotect may have come half-way */
		for (unsigned j = 0; j <= k; j++)
			if (protect_text(&installed.dso[j], PROT_READ | PROT_EXEC))
				die();
		return r;
	}
	return 0;
}

/* Makes all executable again. On failure all of them are open for writing. */
static long close_texts(void)
{
	for (unsigned k = 0; k < installed.count; k++) {
		long r = protect_text(&installed.dso[k], PROT_READ | PROT_EXEC);

		if (!r)
			continue;
		for (unsigned j = 0; j <= k; j++)
			if (protect_text(&installed.dso[j], PROT_READ | PROT_WRITE))
				die();
		return r;
	}
	return 0;
}

/* -- all sites at once
 * ------------------------------------------------------------------------ */

enum what { PUT_THUNKS, PUT_JUMPS, PUT_ORIGINALS };

/* Goes over the first `limit` slots; *ret_done says how far it came. */
static int write_all(enum what what, int mem, unsigned limit, unsigned *ret_done)
{
	unsigned used = 0, i = 0;
	int r = 0;

	for (unsigned k = 0; k < installed.count && !r; k++) {
		const struct weft_dso *d = &installed.dso[k];
		const struct weft_site_table *t = installed.table[k];

		for (i = used; i < used + t->count && i < limit && !r; i++) {
			const struct weft_site *s = &t->site[i - used];
			struct weft_slot image;

			if (installed.skipped[i])
				continue;
			if (what == PUT_THUNKS) {
				make_slot(&image, (uintptr_t)slot(i), d, t, s);
				r = write_text(
					mem, (uintptr_t)slot(i), &image, sizeof(image));
			} else if (what == PUT_JUMPS) {
				make_span(image.code, d, s, (uintptr_t)slot(i));
				r = write_text(
					mem, span_of(d, s), image.code, span_len(s));
			} else {
				r = write_text(mem, span_of(d, s), s->orig, span_len(s));
			}
		}
		used += t->count;
	}
	if (ret_done)
		*ret_done = i;
	return r;
}

static int install_mem(int mem)
{
	unsigned done;
	int r = write_all(PUT_THUNKS, mem, WEFT_SLOT_COUNT, NULL);

	if (r)
		return r;
	r = write_all(PUT_JUMPS, mem, WEFT_SLOT_COUNT, &done);
	/* the site it failed at may be half written: put that back as well */
	if (r)
		write_all(PUT_ORIGINALS, mem, done, NULL);
	return r;
}

static long install_mapped(void)
{
	long r = protect_thunks(PROT_READ | PROT_WRITE);

	if (!r)
		write_all(PUT_THUNKS, -1, WEFT_SLOT_COUNT, NULL);
	/* also after a failure: it may have come half-way, and is harmless else */
	long back = protect_thunks(PROT_READ | PROT_EXEC);

	if (back)
		thunks_lost = protect_thunks(PROT_READ | PROT_EXEC) != 0;
	if (r || back)
		return r ? r : back;
	r = open_texts();
	if (r)
		return r;
	write_all(PUT_JUMPS, -1, WEFT_SLOT_COUNT, NULL);
	r = close_texts();
	if (r) {
		write_all(PUT_ORIGINALS, -1, WEFT_SLOT_COUNT, NULL);
		if (close_texts())
			die();
	}
	return r;
}

static long install_by(enum writer writer)
{
	if (thunks_lost)
		return -EACCES;
	installed.writer = writer;
	if (writer == WRITE_MAPPED) {
		int ok = probe_mapped();

		return ok == 1 ? install_mapped() : ok ? ok : -EACCES;
	}
	int mem = probe_mem();

	if (mem < 0)
		return mem;
	int r = install_mem(mem);

	SYSCALL(SYS_close, mem, 0, 0, 0);
	return r;
}

static void report(struct weft_sites_report *ret)
{
	struct weft_sites_report rep;
	unsigned used = 0;

	fill(&rep, 0, sizeof(rep));
	rep.dso_count = installed.count;
	rep.wrote_through_mem = installed.writer == WRITE_MEM;
	for (unsigned k = 0; k < installed.count; k++) {
		const struct weft_site_table *t = installed.table[k];

		rep.dso[k].soname = t->soname;
		rep.dso[k].left = t->left_count;
		for (unsigned i = 0; i < t->count; i++) {
			if (installed.skipped[used + i]) {
				rep.dso[k].left++;
				continue;
			}
			rep.dso[k].patched++;
			rep.no_vector += t->site[i].flags & WEFT_SITE_NO_VECTOR;
		}
		rep.patched += rep.dso[k].patched;
		rep.left += rep.dso[k].left;
		used += t->count;
	}
	copy(ret, &rep, sizeof(rep));
}

int weft_sites_install(const struct weft_dso *const dsos[],
	const struct weft_site_table *const tables[], unsigned n,
	struct weft_sites_report *ret)
{
	if (installed.count)
		return -EBUSY;
	if (n > WEFT_DSO_MAX)
		return -ENOSPC;
	long r = check_all(dsos, tables, n);

	if (r)
		return (int)r;
	for (unsigned k = 0; k < n; k++) {
		copy(&installed.dso[k], dsos[k], sizeof(installed.dso[k]));
		installed.table[k] = tables[k];
	}
	installed.count = n;

	enum writer first = selinux() ? WRITE_MEM : WRITE_MAPPED;

	r = install_by(first);
	if (r == -EACCES || r == -EPERM)
		r = install_by(first == WRITE_MEM ? WRITE_MAPPED : WRITE_MEM);
	serialize();
	if (r) {
		installed.count = 0;
		return (int)r;
	}
	if (ret)
		report(ret);
	return 0;
}

int weft_sites_uninstall(void)
{
	long r;

	if (!installed.count)
		return 0;
	if (installed.writer == WRITE_MEM) {
		int mem = open_mem();

		if (mem < 0)
			return mem;
		r = write_all(PUT_ORIGINALS, mem, WEFT_SLOT_COUNT, NULL);
		if (r)
			write_all(PUT_JUMPS, mem, WEFT_SLOT_COUNT, NULL);
		SYSCALL(SYS_close, mem, 0, 0, 0);
	} else {
		r = open_texts();
		if (!r) {
			write_all(PUT_ORIGINALS, -1, WEFT_SLOT_COUNT, NULL);
			r = close_texts();
			if (r) {
				write_all(PUT_JUMPS, -1, WEFT_SLOT_COUNT, NULL);
				if (close_texts())
					die();
			}
		}
	}
	serialize();
	if (!r)
		installed.count = 0;
	return (int)r;
}

/* -- questions
 * ---------------------------------------------------------------------------------- */

static const char *const reasons[WEFT_SITE_REASON_COUNT] = {
#define WEFT_SITE_REASON(name, text) [WEFT_SITE_##name] = text,
	WEFT_SITE_REASONS(WEFT_SITE_REASON)
#undef WEFT_SITE_REASON
};

int weft_sites_next_left(unsigned *cursor, const char **ret_soname, const char **ret_name,
	const char **ret_reason)
{
	unsigned base = 0, used = 0;

	/* per DSO: the table's own list, then its sites */
	for (unsigned k = 0; k < installed.count; k++) {
		const struct weft_site_table *t = installed.table[k];
		unsigned end = base + t->left_count + t->count;

		for (; *cursor < end; ++*cursor) {
			unsigned i = *cursor - base, why = WEFT_SITE_BREAKPOINT;
			uint32_t name;

			if (i < t->left_count) {
				name = t->left[i].name;
				why = t->left[i].reason;
			} else if (installed.skipped[used + i - t->left_count]) {
				name = t->site[i - t->left_count].name;
			} else {
				continue;
			}
			++*cursor;
			if (ret_soname)
				*ret_soname = t->soname;
			if (ret_name)
				*ret_name = t->names + name;
			if (ret_reason)
				*ret_reason =
					why < WEFT_SITE_REASON_COUNT ? reasons[why] : "?";
			return 1;
		}
		base = end;
		used += t->count;
	}
	return 0;
}

int weft_in_thunk(uintptr_t pc)
{
	return pc - (uintptr_t)weft_thunk_area < WEFT_SLOT_COUNT * WEFT_SLOT_SIZE;
}
