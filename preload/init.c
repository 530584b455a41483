/*
 * init.c - becoming part of a process: the constructor inspects, the first
 * pthread_create activates.
 *
 * The constructor changes nothing that anybody could see: no descriptor, no
 * mapping, no signal handler, no thread. What would need a file later (a chroot may
 * hide it) is looked up here. Activation happens on the program's only thread,
 * all or nothing; whatever fails is one line, and the program runs natively.
 *
 * In a fork child the process is native again (weft_fork) and may be activated
 * anew by its first pthread_create; the patches are in place already.
 */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>

#include "../interpose/dispatch.h"
#include "../interpose/enter.h"
#include "../interpose/modules.h"
#include "../interpose/policy.h"
#include "../interpose/real.h"
#include "../interpose/sites.h"
#include "../runtime/arch/x86_64/context.h"
#include "../runtime/io.h"
#include "../runtime/lock.h"
#include "../runtime/native.h"
#include "../runtime/runtime.h"
#include "../runtime/stack.h"
#include "../runtime/stats.h"
#include "../runtime/sys.h"
#include "../runtime/walk.h"
#include "options.h"
#include "report.h"

extern char **environ;
extern void (*weft_activate)(void);

/*
 * asm/hwcap2.h: the kernel keeps what the FSGSBASE instructions write (Linux 5.9).
 * Without it they may well work, but the next context switch undoes them.
 */
enum { HWCAP2_FSGSBASE = 2 };

/*
 * Whose system calls lead to weft. Without the first two there is nothing to do. The
 * others wait in the kernel through instructions of their own; they count when they
 * are there at activation, and what is loaded later blocks its carrier.
 */
enum { NEEDED = 2, DSOS = WEFT_DSO_MAX };
static const char *const dso_names[DSOS] = {
	"libc.so", "ld-linux-x86-64.so", "liburing.so", "libgomp.so"};

static struct {
	struct weft_options options;
	const char *refusal; /* why this process stays native, or NULL */
	struct weft_dso dso[DSOS];
	const struct weft_site_table *table[DSOS];
	struct weft_site_table decoded[DSOS];
	bool wanted[DSOS]; /* loaded */
	char finder[512],
		unwinder[512]; /* libweft-sites.so, libweft-unwind.so beside us */
	bool modules;          /* an address's library can be found */
	bool patched;
	bool given_up;
	struct weft_lock lock;
} state;

/* ---- inspecting (constructor) --------------------------------------------- */

/* nptl_db's descriptors: {bits, elements, byte offset} (nptl_db/structs.def). */
static bool read_descriptor(const char *name, uint32_t *ret_offset)
{
	const uint32_t *d = weft_real_symbol("libc.so", name);

	if (!d)
		return false;
	*ret_offset = d[2];
	return true;
}

/*
 * libc's own offsets into struct pthread, checked against the thread that runs: its
 * tid must stand where the descriptor says.
 */
static const char *check_layout(void)
{
	const uint32_t *size = weft_real_symbol("libc.so", "_thread_db_sizeof_pthread");
	const char *self = (const char *)weft_rdfsbase();

	if (!size || !read_descriptor("_thread_db_pthread_tid", &weft_libc.tid) ||
		!read_descriptor(
			"_thread_db_pthread_cancelhandling", &weft_libc.cancelhandling) ||
		!read_descriptor(
			"_thread_db_pthread_start_routine", &weft_libc.start_routine))
		return "this libc does not describe its threads (_thread_db_*)";
	weft_libc.sizeof_pthread = *size;
	if (weft_libc.tid + 4 > *size || weft_libc.cancelhandling + 4 > *size ||
		weft_libc.start_routine + 8 > *size)
		return "this libc's description of its threads makes no sense";
	if (*(const int *)(self + weft_libc.tid) != (int)weft_sys0(SYS_gettid) ||
		*(const void *const *)(self + 16) != self)
		return "this libc's threads are not laid out as it describes them";
	return NULL;
}

static bool present(const char *symbol)
{
	return dlsym(RTLD_DEFAULT, symbol) != NULL;
}

static bool loaded(const char *prefix)
{
	struct weft_dso dso;

	return weft_dso_find(prefix, &dso) != -ENOENT;
}

/* A Go program marks itself by a section; its segment holds this magic. */
static int find_go(struct dl_phdr_info *info, size_t size, void *arg)
{
	static const char magic[] = "\xff Go buildinf:";

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		const char *start = (const char *)(info->dlpi_addr + p->p_vaddr);

		/* cmd/link puts it at the start of the data segment, 16-aligned. */
		if (p->p_type != PT_LOAD || !(p->p_flags & PF_W) || p->p_filesz < 64)
			continue;
		if (!memcmp(start, magic, sizeof magic - 1))
			*(bool *)arg = true;
	}
	return 1; /* the main program only */
}

static const char *check_company(void)
{
	bool go = false;

	if (present("__asan_init") || present("__tsan_init") || present("__msan_init"))
		return "the process runs under a sanitizer";
	if (loaded("libjvm.so"))
		return "the process is a Java virtual machine";
	if (loaded("libcoreclr.so"))
		return "the process is a .NET runtime";
	if (loaded("vgpreload_core") || getenv("LD_PRELOAD_VALGRIND"))
		return "the process runs under valgrind";
	dl_iterate_phdr(find_go, &go);
	if (go)
		return "the program is written in Go";
	return NULL;
}

/* Shadow stacks (arch_prctl ARCH_SHSTK_STATUS, Linux 6.6): a switch would fault. */
static bool has_shadow_stack(void)
{
	unsigned long status = 0;

	return weft_sys2(SYS_arch_prctl, 0x5005, &status) == 0 && status & 1;
}

static const char *check_machine(void)
{
	if (has_shadow_stack())
		return "shadow stacks are switched on";
	if (weft_ask_gs())
		return "the program uses the GS segment for itself";
	return NULL;
}

static const char *check_dsos(void)
{
	for (int i = 0; i < NEEDED; i++) {
		if (weft_dso_find(dso_names[i], &state.dso[i]))
			return "libc.so.6 or ld.so is not what weft expects";
		state.wanted[i] = true;
		if (!state.options.sites_decode)
			state.table[i] = weft_sites_table(&state.dso[i]);
	}
	weft_policy_set_libc_text(state.dso[0].text, state.dso[0].text_end);
	weft_policy_set_libc_syscall((uintptr_t)weft_real_symbol("libc.so", "syscall"));
	return NULL;
}

/* "/path/to/libweft.so" -> "/path/to/libweft-sites.so" */
static void find_plugin(const char *name, char *ret, size_t size)
{
	Dl_info self;
	const char *slash;
	size_t dir;

	if (!dladdr(&state, &self) || !self.dli_fname)
		return;
	slash = strrchr(self.dli_fname, '/');
	dir = slash ? (size_t)(slash - self.dli_fname) + 1 : 0;
	if (dir + strlen(name) >= size)
		return;
	memcpy(ret, self.dli_fname, dir);
	strcpy(ret + dir, name);
}

static void complain(const char *line)
{
	size_t n = strlen(line);

	while (n) {
		long w = weft_sys3(SYS_write, 2, (long)line, (long)n);

		if (w <= 0)
			return;
		line += w;
		n -= (size_t)w;
	}
}

static void activate(void);

__attribute__((constructor(101))) static void inspect(void)
{
	const char *why;

	weft_options_parse(environ, getauxval(AT_SECURE) != 0, &state.options, complain);
	if (state.options.off)
		return;
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE && !state.options.bases_by_calls)
		weft_bases_use_instructions();
	else if (!state.options.bases_by_gs)
		weft_bases_use_selectors(); /* or it stays as it is */
	weft_real_init();
	weft_vdso_init(getauxval(AT_SYSINFO_EHDR));
	why = check_machine();
	why = why ? why : check_layout();
	why = why ? why : check_dsos();
	state.refusal = why;
	find_plugin("libweft-sites.so", state.finder, sizeof state.finder);
	find_plugin("libweft-unwind.so", state.unwinder, sizeof state.unwinder);
	state.modules = weft_modules_init((const char *)getauxval(AT_EXECFN));
	weft_walk_set_find(weft_module_find);
	weft_native_set(state.options.native);
	weft_activate = activate;
}

/* ---- activating (first pthread_create) ------------------------------------ */

static void say_native(const char *why)
{
	weft_log_parts("running natively: ", why, NULL);
}

/* The libraries beside libc that are loaded by now. */
static void find_others(void)
{
	for (int i = NEEDED; i < DSOS; i++) {
		state.wanted[i] = !weft_dso_find(dso_names[i], &state.dso[i]);
		if (state.wanted[i] && !state.options.sites_decode)
			state.table[i] = weft_sites_table(&state.dso[i]);
	}
}

/* A libc that was not there when weft was built is decoded now (about 0.1 s). */
static const char *decode_sites(void)
{
	weft_sites_decode_fn *decode;
	bool missing = false;
	void *plugin;

	for (int i = 0; i < DSOS; i++)
		missing |= state.wanted[i] && !state.table[i];
	if (!missing)
		return NULL;
	plugin = state.finder[0] ? dlopen(state.finder, RTLD_NOW | RTLD_LOCAL) : NULL;
	if (!plugin && state.table[0] && state.table[1])
		return NULL;
	if (!plugin)
		return "libc.so.6 is another build than weft was made for, and libweft-sites.so, "
		       "which could read it, cannot be loaded";
	decode = (weft_sites_decode_fn *)dlsym(plugin, WEFT_SITES_DECODE_NAME);
	for (int i = 0; decode && i < DSOS; i++) {
		if (state.wanted[i] && !state.table[i] &&
			decode(&state.dso[i], &state.decoded[i]) == 0)
			state.table[i] = &state.decoded[i];
	}
	dlclose(plugin);
	return state.table[0] && state.table[1]
		       ? NULL
		       : "libc.so.6's system calls could not be found";
}

/* Is one of the built-in native libraries here already? */
static bool has_native(void)
{
	bool any = false;

	for (const struct link_map *m = _r_debug.r_map; m; m = m->l_next) {
		const char *slash = m->l_name ? strrchr(m->l_name, '/') : NULL;

		any |= slash && weft_native_match(slash + 1) >= 0;
	}
	return any;
}

/*
 * The unwinder is opened now or never: there may be no file later. Who asked for it
 * relies on it, so without it there are no fibers. It is never closed.
 */
static const char *open_unwinder(void)
{
	weft_unwind_open_fn *open;
	void *plugin;

	if (weft_walk_ready() || (!state.options.native && !has_native()))
		return NULL;
	weft_native_expect();
	if (!state.modules)
		return "native libraries can be told apart with glibc 2.35 and later only";
	plugin = state.unwinder[0] ? dlopen(state.unwinder, RTLD_NOW | RTLD_LOCAL) : NULL;
	if (!plugin)
		return "libweft-unwind.so, which finds the calls of native libraries, cannot be "
		       "loaded";
	open = (weft_unwind_open_fn *)dlsym(plugin, WEFT_UNWIND_OPEN_NAME);
	if (!open || !weft_walk_open(open))
		return "libunwind does not work here";
	weft_native_watch();
	return NULL;
}

static const char *patch(void)
{
	const struct weft_site_table *tables[DSOS];
	const struct weft_dso *dsos[DSOS];
	struct weft_sites_report report;
	unsigned cursor = 0, n = 0;
	const char *soname, *name, *reason;
	int err;

	if (state.patched)
		return NULL;
	for (int i = 0; i < DSOS; i++) {
		if (state.table[i]) {
			dsos[n] = &state.dso[i];
			tables[n++] = state.table[i];
		} else if (state.wanted[i]) {
			weft_log_parts(dso_names[i],
				": its system calls could not be found and block others",
				NULL);
		}
	}
	err = weft_sites_install(dsos, tables, n, &report);
	/* One of the others may be too far away, or changed by somebody. */
	if (err && n > NEEDED)
		err = weft_sites_install(dsos, tables, NEEDED, &report);
	switch (err) {
	case 0:
		break;
	case -EACCES:
		return "the system forbids changing libc's text, also through /proc/self/mem";
	case -ESTALE:
		return "libc.so.6's text in memory is not what its file says";
	case -ERANGE:
		return "libweft.so was loaded too far away from libc.so.6";
	default:
		return "libc.so.6's text could not be changed";
	}
	state.patched = true;
	if (state.options.verbose) {
		char a[21], b[21];

		weft_log_parts("active: ", weft_format_u64(a, report.patched),
			" system call sites lead to weft, ",
			weft_format_u64(b, report.left), " do not", NULL);
		while (weft_sites_next_left(&cursor, &soname, &name, &reason))
			weft_log_parts(
				"left alone in ", soname, ": ", name, ": ", reason, NULL);
	}
	return NULL;
}

static const char *error_text(int err)
{
	switch (err) {
	case -EPERM:
		return " (EPERM: forbidden here, e.g. by kernel.io_uring_disabled or a "
		       "container's seccomp profile)";
	case -ENOSYS:
		return " (ENOSYS: this kernel does not have it, or a seccomp profile hides it)";
	case -EMFILE:
	case -ENFILE:
		return " (no descriptor is left)";
	case -ENOMEM:
		return " (no memory is left)";
	case -EAGAIN:
		return " (no thread may be made)";
	case -EKEYREJECTED:
		return " (a seccomp profile ends whoever asks for it)";
	default:
		return "";
	}
}

/* The area that libc registered for restartable sequences on its first thread. */
static void drop_rseq(void)
{
	const ptrdiff_t *offset = weft_real_symbol("ld-linux-x86-64.so", "__rseq_offset");
	const unsigned *size = weft_real_symbol("ld-linux-x86-64.so", "__rseq_size");

	if (!offset || !size || !*size)
		return;
	/*
	 * Every fiber has an area of its own, a kernel thread one registration:
	 * with none, libc never registers again (sysdeps/unix/sysv/linux/rseq.h).
	 */
	weft_sys4(SYS_rseq, (long)((char *)weft_rdfsbase() + *offset), 32,
		1 /* UNREGISTER */, 0x53053053);
}

static const char *start_runtime(uint64_t mask)
{
	const struct weft_options *o = &state.options;
	const struct weft_config config = {
		.carriers = o->carriers,
		.carriers_cap = o->carriers_cap,
		.engine = (enum weft_engine)o->engine,
		.uring_without = o->uring_without,
		.stress_migrate = o->stress_migrate,
		.stress_wouldblock = o->stress_wouldblock,
		.stress_shuffle = o->stress_shuffle,
		.lend_fs = o->bases_lent ||
			   (weft_bases != WEFT_BASES_INSTRUCTIONS && !o->bases_by_calls),
		.trace_pins = o->trace_pins,
		.seed = o->seed,
		.fs_template = weft_rdfsbase(),
		.initial_mask = mask,
	};
	static char text[160];
	const char *what, *because;
	char name[16];
	int err;

	weft_stack_set_clear_top(weft_libc.sizeof_pthread + 64);
	weft_io_scan_descriptors();
	_Static_assert((int)WEFT_OPTION_ENGINE_EPOLL == (int)WEFT_ENGINE_EPOLL, "same");
	err = weft_runtime_start(&config, &what);
	if (!err) {
		if (o->verbose)
			weft_log_parts("fibers wait with ", weft_engine_name(), " (",
				weft_engine_reason(), ")", NULL);
		struct fiber *f = weft_fiber_main();

		if (weft_sys2(SYS_prctl, PR_GET_NAME, name) == 0)
			weft_fiber_set_name(f, name);
		/* Where libc had the kernel clear it when the thread ends: joiners wait
		 * there. */
		weft_fiber_set_clear_tid(f, (int *)(weft_rdfsbase() + weft_libc.tid));
		return NULL;
	}
	because = error_text(err);
	strncpy(text, what, sizeof text - 1);
	strncat(text, " is not to be had", sizeof text - strlen(text) - 1);
	strncat(text, because, sizeof text - strlen(text) - 1);
	return text;
}

static const char *try_activate(void)
{
	uint64_t all = ~0ull, mask;
	const int *threads = weft_real_symbol("libc.so", "__nptl_nthreads");
	const char *why = state.refusal;

	/*
	 * In a fork child the answer is known, and the loader's lock may be a thread's
	 * that stayed behind: libc's fork does not reset dl_load_write_lock.
	 */
	if (!why && !state.patched)
		why = check_company();
	if (why)
		return why;
	if (!threads || *threads != 1)
		return "the process made threads before weft could see them";
	if (!state.patched)
		find_others();
	why = decode_sites();
	why = why ? why : open_unwinder();
	if (why)
		return why;
	if (state.options.fault_mmap)
		weft_fault_arm(WEFT_FAULT_MMAP, state.options.fault_mmap);
	if (state.options.fault_io_uring_setup)
		weft_fault_arm(
			WEFT_FAULT_IO_URING_SETUP, state.options.fault_io_uring_setup);
	if (state.options.fault_io_uring_enter)
		weft_fault_arm(
			WEFT_FAULT_IO_URING_ENTER, state.options.fault_io_uring_enter);
	if (state.options.fault_clone)
		weft_fault_arm(WEFT_FAULT_CLONE, state.options.fault_clone);

	/* From here on libc's text changes under our feet: no handler may run. */
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, 8);
	why = patch();
	why = why ? why : start_runtime(mask);
	if (why) {
		if (state.patched && !weft_sites_uninstall())
			state.patched = false;
		weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
		return why;
	}
	drop_rseq();
	return NULL;
}

static void activate(void)
{
	const char *why;

	if (weft_runtime_running() || state.given_up)
		return;
	weft_stats_call_name = weft_syscall_name;
	why = try_activate();
	if (why) {
		state.given_up = true;
		say_native(why);
		return;
	}
	weft_report_start(&state.options);
}
