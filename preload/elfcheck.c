/*
 * Reads ELF files and judges whether weft can serve them; see elfcheck.h.
 *
 * Why not mmap: the file may be cut short by somebody else between the check
 * and the access, and a SIGBUS is a crash. Why not libelf: it would be the
 * launcher's only dependency.
 *
 * Only what the kernel and ld.so look at counts: program headers and the
 * dynamic section, addresses translated through PT_LOAD. Section headers, which
 * anybody may strip or forge, serve for two things: a Go build-info section,
 * and the size of .dynsym where the hash tables do not tell it.
 */
#include "elfcheck.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Above any real file's; below what a lying header could make us allocate. */
enum {
	PHDRS_MAX = 65536 / sizeof(Elf64_Phdr), /* the kernel's own limit */
	NOTES_MAX = 64 << 10,
	DYNAMIC_MAX = 1 << 20,
	SHDRS_MAX = 4 << 20,
	STRINGS_MAX = 64 << 20,
	SYMBOLS_MAX = 4 << 20, /* entries; 96 MiB */
	CHAIN_MAX = 1 << 16,   /* symbols in one hash bucket */
	HASH_BUCKETS_MAX = 4 << 20,
	NEEDED_MAX = 4096,
	CACHE_MAX = 64 << 20,
	SMALL_HOST = 1 << 20, /* .NET's hosts have 70 to 150 KiB */
};

/* ---- bounded reading ---- */

struct reader {
	int fd;
	uint64_t size;
	int error; /* -EIO and the like; a range outside the file is no error */
	Elf64_Phdr *ph;
	size_t ph_count;
	Elf64_Shdr *sh;
	size_t sh_count;
};

/* Reads exactly len bytes at off. */
static bool read_at(struct reader *r, uint64_t off, void *buf, uint64_t len)
{
	char *p = buf;

	if (off > r->size || len > r->size - off)
		return false;
	while (len > 0) {
		const ssize_t n = pread(r->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && r->error == 0)
			r->error = -errno;
		if (n <= 0)
			return false; /* 0: cut short since fstat() */
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return true;
}

/* The same into new memory, with a '\0' behind it; NULL on any trouble. */
static void *read_new(struct reader *r, uint64_t off, uint64_t len, uint64_t max)
{
	char *buf;

	if (len == 0 || len > max || off > r->size || len > r->size - off)
		return NULL;
	buf = malloc(len + 1);
	if (buf == NULL) {
		r->error = -ENOMEM;
		return NULL;
	}
	if (!read_at(r, off, buf, len)) {
		free(buf);
		return NULL;
	}
	buf[len] = '\0';
	return buf;
}

/*
 * Where address vaddr is in the file, and how many bytes of the file follow it
 * in its segment.
 */
static bool locate(
	const struct reader *r, uint64_t vaddr, uint64_t *ret_off, uint64_t *ret_left)
{
	for (size_t i = 0; i < r->ph_count; i++) {
		const Elf64_Phdr *ph = &r->ph[i];
		const uint64_t into = vaddr - ph->p_vaddr;

		if (ph->p_type != PT_LOAD || vaddr < ph->p_vaddr ||
			into >= ph->p_filesz || ph->p_offset > r->size ||
			into >= r->size - ph->p_offset)
			continue;
		*ret_off = ph->p_offset + into;
		*ret_left = ph->p_filesz - into;
		return true;
	}
	return false;
}

/* len bytes at vaddr, all in one segment. */
static void *read_vaddr(struct reader *r, uint64_t vaddr, uint64_t len, uint64_t max)
{
	uint64_t off, left;

	if (!locate(r, vaddr, &off, &left) || len > left)
		return NULL;
	return read_new(r, off, len, max);
}

static bool copy_vaddr(struct reader *r, uint64_t vaddr, void *buf, uint64_t len)
{
	uint64_t off, left;

	return locate(r, vaddr, &off, &left) && len <= left && read_at(r, off, buf, len);
}

/* ---- runtimes that weft does not serve ---- */

static const char go_runtime[] = "the Go runtime";
static const char dotnet_runtime[] = "the .NET runtime";
static const char mono_runtime[] = "the Mono runtime";
static const char jvm_runtime[] = "a Java virtual machine";
static const char asan_runtime[] = "AddressSanitizer";
static const char hwasan_runtime[] = "HWAddressSanitizer";
static const char lsan_runtime[] = "LeakSanitizer";
static const char msan_runtime[] = "MemorySanitizer";
static const char tsan_runtime[] = "ThreadSanitizer";

/* By the start of a library's name. */
static const struct {
	const char *library, *runtime;
} library_signs[] = {
	{"libjvm.so", jvm_runtime},
	{"libjli.so", jvm_runtime},
	{"libcoreclr.so", dotnet_runtime},
	{"libhostfxr", dotnet_runtime},
	{"libhostpolicy.so", dotnet_runtime},
	{"libmonosgen-2.0.so", mono_runtime},
	{"libmono-2.0.so", mono_runtime},
	{"libcoreclr_", dotnet_runtime},
	{"libasan.so", asan_runtime},
	{"libhwasan.so", hwasan_runtime},
	{"liblsan.so", lsan_runtime},
	{"libmsan.so", msan_runtime},
	{"libtsan.so", tsan_runtime},
	{"libclang_rt.asan", asan_runtime},
	{"libclang_rt.hwasan", hwasan_runtime},
	{"libclang_rt.lsan", lsan_runtime},
	{"libclang_rt.msan", msan_runtime},
	{"libclang_rt.tsan", tsan_runtime},
};

/*
 * By a dynamic symbol. A sanitizer's counts imported or defined (clang links
 * the runtime statically and exports it), a managed runtime's only defined. A
 * weak import only asks whether a sanitizer is there, as allocators do.
 */
static const struct {
	const char *symbol, *runtime;
	bool imported_too;
} symbol_signs[] = {
	{"__asan_init", asan_runtime, true},
	{"__hwasan_init", hwasan_runtime, true},
	{"__lsan_init", lsan_runtime, true},
	{"__msan_init", msan_runtime, true},
	{"__tsan_init", tsan_runtime, true},
	{"DotNetRuntimeInfo", dotnet_runtime, false},        /* single file */
	{"DotNetRuntimeDebugHeader", dotnet_runtime, false}, /* native AOT */
	{"coreclr_initialize", dotnet_runtime, false},
	{"mono_jit_init", mono_runtime, false},
	{"mono_main", mono_runtime, false},
	{"JNI_CreateJavaVM", jvm_runtime, false},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static void mark_foreign(struct weft_elf *elf, const char *runtime, const char *sign)
{
	if (elf->foreign == NULL) {
		elf->foreign = runtime;
		elf->foreign_sign = sign;
	}
}

static void judge_library(struct weft_elf *elf, const char *name)
{
	for (size_t i = 0; i < COUNT(library_signs); i++)
		if (starts_with(name, library_signs[i].library))
			mark_foreign(
				elf, library_signs[i].runtime, library_signs[i].library);
}

static void judge_symbol(struct weft_elf *elf, const char *name, bool imported, bool weak)
{
	for (size_t i = 0; i < COUNT(symbol_signs); i++)
		if ((!imported || (symbol_signs[i].imported_too && !weak)) &&
			strcmp(name, symbol_signs[i].symbol) == 0)
			mark_foreign(
				elf, symbol_signs[i].runtime, symbol_signs[i].symbol);
	if (!imported)
		return;
	if (strcmp(name, "pthread_create") == 0)
		elf->creates = "pthread_create";
	else if (strcmp(name, "thrd_create") == 0 && elf->creates == NULL)
		elf->creates = "thrd_create";
}

/* A Go program has a note named "Go" of type 4, its build id. */
static void judge_notes(struct reader *r, struct weft_elf *elf)
{
	for (size_t i = 0; i < r->ph_count; i++) {
		const Elf64_Phdr *ph = &r->ph[i];
		Elf64_Nhdr nh;
		char *notes;

		if (ph->p_type != PT_NOTE)
			continue;
		notes = read_new(r, ph->p_offset, ph->p_filesz, NOTES_MAX);
		if (notes == NULL)
			continue;
		for (uint64_t at = 0; ph->p_filesz - at >= sizeof(nh);) {
			const char *name = notes + at + sizeof(nh);
			const uint64_t align = ph->p_align == 8 ? 7 : 3;
			uint64_t next;

			memcpy(&nh, notes + at, sizeof(nh));
			next = sizeof(nh) + (((uint64_t)nh.n_namesz + align) & ~align) +
			       (((uint64_t)nh.n_descsz + align) & ~align);
			if (next > ph->p_filesz - at)
				break;
			if (nh.n_namesz == 4 && nh.n_type == 4 &&
				memcmp(name, "Go\0", 4) == 0)
				mark_foreign(elf, go_runtime, "Go build id note");
			at += next;
		}
		free(notes);
	}
}

static void judge_sections(struct reader *r, struct weft_elf *elf, const Elf64_Ehdr *eh)
{
	const Elf64_Shdr *names_sh;
	char *names;

	if (eh->e_shstrndx >= r->sh_count)
		return;
	names_sh = &r->sh[eh->e_shstrndx];
	names = read_new(r, names_sh->sh_offset, names_sh->sh_size, STRINGS_MAX);
	if (names == NULL)
		return;
	for (size_t i = 0; i < r->sh_count; i++)
		if (r->sh[i].sh_name < names_sh->sh_size &&
			strcmp(names + r->sh[i].sh_name, ".go.buildinfo") == 0)
			mark_foreign(elf, go_runtime, ".go.buildinfo section");
	free(names);
}

/*
 * .NET's hosts (`dotnet` and the small program beside each app's .dll) open
 * their runtime by name at run time; the name is all that shows. It is put
 * together here, or this very launcher would be taken for one.
 */
static void judge_dotnet_host(struct reader *r, struct weft_elf *elf)
{
	char name[32];
	char *all;
	int len;

	if (r->size > SMALL_HOST)
		return;
	all = read_new(r, 0, r->size, SMALL_HOST);
	if (all == NULL)
		return;
	len = snprintf(name, sizeof(name), "%s%cso", "libhostfxr", '.');
	if (memmem(all, r->size, name, (size_t)len) != NULL)
		mark_foreign(elf, dotnet_runtime, ".NET host");
	free(all);
}

/* ---- the dynamic section ---- */

struct dynamic {
	uint64_t strtab, strsz, symtab, hash, gnu_hash;
	uint64_t rela, relasz, jmprel, pltrelsz;
	char *strings; /* strsz bytes and a '\0' */
};

/* A copy of the string at off, or NULL. */
static char *string_new(struct reader *r, const struct dynamic *d, uint64_t off)
{
	char *copy;

	if (d->strings == NULL || off >= d->strsz)
		return NULL;
	copy = strdup(d->strings + off);
	if (copy == NULL)
		r->error = -ENOMEM;
	return copy;
}

static void replace(char **where, char *with)
{
	free(*where);
	*where = with;
}

static bool read_strings(struct reader *r, struct weft_elf *elf, const struct dynamic *d,
	const Elf64_Dyn *dyn, size_t count)
{
	size_t needed = 0;

	for (size_t i = 0; i < count && dyn[i].d_tag != DT_NULL; i++)
		needed += dyn[i].d_tag == DT_NEEDED;
	if (needed > NEEDED_MAX)
		return false;
	elf->needed = calloc(needed + 1, sizeof(*elf->needed));
	if (elf->needed == NULL) {
		r->error = -ENOMEM;
		return false;
	}
	for (size_t i = 0; i < count && dyn[i].d_tag != DT_NULL; i++) {
		const uint64_t at = dyn[i].d_un.d_val;
		char *name;

		switch (dyn[i].d_tag) {
		case DT_NEEDED:
			name = string_new(r, d, at);
			if (name == NULL)
				return false;
			elf->needed[elf->needed_count++] = name;
			judge_library(elf, name);
			break;
		case DT_SONAME:
			replace(&elf->soname, string_new(r, d, at));
			break;
		case DT_RPATH:
			replace(&elf->rpath, string_new(r, d, at));
			break;
		case DT_RUNPATH:
			replace(&elf->runpath, string_new(r, d, at));
			break;
		default:
			break;
		}
	}
	if (elf->runpath != NULL)
		replace(&elf->rpath, NULL);
	if (elf->soname != NULL)
		judge_library(elf, elf->soname);
	return true;
}

/* ---- the dynamic symbols ---- */

/* One more than the highest symbol that the relocations at vaddr name. */
static uint64_t symbols_by_relocs(struct reader *r, uint64_t vaddr, uint64_t size)
{
	const size_t count = size / sizeof(Elf64_Rela);
	uint64_t highest = 0;
	Elf64_Rela *rela;

	rela = read_vaddr(r, vaddr, size, STRINGS_MAX);
	if (rela == NULL)
		return 0;
	for (size_t i = 0; i < count; i++)
		if (ELF64_R_SYM(rela[i].r_info) > highest)
			highest = ELF64_R_SYM(rela[i].r_info);
	free(rela);
	return highest + 1;
}

/* The hash table covers symbols from symoffset on; chains end in an odd word. */
static uint64_t symbols_by_gnu_hash(struct reader *r, uint64_t vaddr)
{
	struct {
		uint32_t nbuckets, symoffset, bloom_size, bloom_shift;
	} head;
	uint32_t highest = 0;
	uint32_t *buckets;
	uint64_t chains;

	if (!copy_vaddr(r, vaddr, &head, sizeof(head)) ||
		head.nbuckets > HASH_BUCKETS_MAX)
		return 0;
	vaddr += sizeof(head) + (uint64_t)head.bloom_size * 8;
	chains = vaddr + (uint64_t)head.nbuckets * 4;
	buckets = read_vaddr(
		r, vaddr, (uint64_t)head.nbuckets * 4, (uint64_t)HASH_BUCKETS_MAX * 4);
	if (buckets == NULL)
		return 0;
	for (uint32_t i = 0; i < head.nbuckets; i++)
		if (buckets[i] > highest)
			highest = buckets[i];
	free(buckets);
	if (highest < head.symoffset)
		return head.symoffset;
	chains += (uint64_t)(highest - head.symoffset) * 4;
	for (uint32_t i = 0; i < CHAIN_MAX; i++) {
		uint32_t word;

		if (!copy_vaddr(r, chains + (uint64_t)i * 4, &word, sizeof(word)))
			return 0;
		if (word & 1)
			return (uint64_t)highest + i + 1;
	}
	return 0;
}

/*
 * How many symbols there are, which no dynamic tag says outright. The section
 * header does, if it belongs to this table; so does the old hash table. The new
 * one leaves imports out (and is nearly empty in a program without exports);
 * an import that is used has a relocation.
 */
static uint64_t count_symbols(struct reader *r, const struct dynamic *d)
{
	uint64_t count = 0, more;

	for (size_t i = 0; i < r->sh_count; i++)
		if (r->sh[i].sh_type == SHT_DYNSYM && r->sh[i].sh_addr == d->symtab)
			return r->sh[i].sh_size / sizeof(Elf64_Sym);
	if (d->hash != 0) {
		uint32_t head[2]; /* nbucket, nchain */

		if (copy_vaddr(r, d->hash, head, sizeof(head)))
			return head[1];
	}
	if (d->gnu_hash != 0)
		count = symbols_by_gnu_hash(r, d->gnu_hash);
	more = symbols_by_relocs(r, d->rela, d->relasz);
	count = more > count ? more : count;
	more = symbols_by_relocs(r, d->jmprel, d->pltrelsz);
	return more > count ? more : count;
}

static void judge_symbols(struct reader *r, struct weft_elf *elf, const struct dynamic *d)
{
	uint64_t count = count_symbols(r, d);
	uint64_t off, left;
	Elf64_Sym *syms;

	if (d->strings == NULL || !locate(r, d->symtab, &off, &left))
		return;
	if (count > left / sizeof(*syms))
		count = left / sizeof(*syms); /* an exaggeration */
	syms = read_new(
		r, off, count * sizeof(*syms), (uint64_t)SYMBOLS_MAX * sizeof(*syms));
	if (syms == NULL)
		return;
	for (uint64_t i = 1; i < count; i++)
		if (syms[i].st_name < d->strsz)
			judge_symbol(elf, d->strings + syms[i].st_name,
				syms[i].st_shndx == SHN_UNDEF,
				ELF64_ST_BIND(syms[i].st_info) == STB_WEAK);
	free(syms);
}

/* ---- the file ---- */

static bool read_dynamic(struct reader *r, struct weft_elf *elf, const Elf64_Phdr *ph)
{
	struct dynamic d = {0};
	const size_t count = ph->p_filesz / sizeof(Elf64_Dyn);
	Elf64_Dyn *dyn;
	bool ok;

	/* By address, as ld.so does; the offset is only the linker's word. */
	dyn = read_vaddr(r, ph->p_vaddr, ph->p_filesz, DYNAMIC_MAX);
	if (dyn == NULL)
		return false;
	for (size_t i = 0; i < count && dyn[i].d_tag != DT_NULL; i++) {
		const uint64_t val = dyn[i].d_un.d_val;

		switch (dyn[i].d_tag) {
		case DT_STRTAB:
			d.strtab = val;
			break;
		case DT_STRSZ:
			d.strsz = val;
			break;
		case DT_SYMTAB:
			d.symtab = val;
			break;
		case DT_HASH:
			d.hash = val;
			break;
		case DT_GNU_HASH:
			d.gnu_hash = val;
			break;
		case DT_RELA:
			d.rela = val;
			break;
		case DT_RELASZ:
			d.relasz = val;
			break;
		case DT_JMPREL:
			d.jmprel = val;
			break;
		case DT_PLTRELSZ:
			d.pltrelsz = val;
			break;
		default:
			break;
		}
	}
	d.strings = read_vaddr(r, d.strtab, d.strsz, STRINGS_MAX);
	ok = read_strings(r, elf, &d, dyn, count);
	if (ok)
		judge_symbols(r, elf, &d);
	free(d.strings);
	free(dyn);
	return ok;
}

static bool read_headers(struct reader *r, const Elf64_Ehdr *eh)
{
	const uint64_t ph_size = (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr);

	if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phnum == 0 ||
		eh->e_phnum > PHDRS_MAX)
		return false;
	r->ph = read_new(r, eh->e_phoff, ph_size, ph_size);
	if (r->ph == NULL)
		return false;
	r->ph_count = eh->e_phnum;
	/* Sections may be missing or broken; the loader would not mind. */
	if (eh->e_shentsize == sizeof(Elf64_Shdr) && eh->e_shnum != 0) {
		r->sh = read_new(r, eh->e_shoff,
			(uint64_t)eh->e_shnum * sizeof(Elf64_Shdr), SHDRS_MAX);
		r->sh_count = r->sh != NULL ? eh->e_shnum : 0;
	}
	return true;
}

static bool read_interp(struct reader *r, struct weft_elf *elf, const Elf64_Phdr *ph)
{
	if (elf->interp != NULL)
		return true; /* the kernel takes the first */
	elf->interp = read_new(r, ph->p_offset, ph->p_filesz, PATH_MAX);
	return elf->interp != NULL && ph->p_filesz >= 2 &&
	       elf->interp[ph->p_filesz - 1] == '\0';
}

static bool read_body(struct reader *r, struct weft_elf *elf, const Elf64_Ehdr *eh)
{
	if (!read_headers(r, eh))
		return false;
	for (size_t i = 0; i < r->ph_count; i++) {
		if (r->ph[i].p_type == PT_INTERP && !read_interp(r, elf, &r->ph[i]))
			return false;
		if (r->ph[i].p_type == PT_DYNAMIC && !elf->dynamic) {
			elf->dynamic = true;
			if (!read_dynamic(r, elf, &r->ph[i]))
				return false;
		}
	}
	judge_notes(r, elf);
	judge_sections(r, elf, eh);
	judge_dotnet_host(r, elf);
	return true;
}

int weft_elf_read(int fd, struct weft_elf *ret)
{
	struct reader r = {.fd = fd};
	Elf64_Ehdr eh = {0};
	struct stat st;
	bool ok;

	memset(ret, 0, sizeof(*ret));
	if (fstat(fd, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENOEXEC;
	r.size = (uint64_t)st.st_size;

	/* The first 20 bytes are the same in every class. */
	if (!read_at(&r, 0, &eh, offsetof(Elf64_Ehdr, e_version)) ||
		memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return r.error != 0 ? r.error : -ENOEXEC;
	ret->elf_class = eh.e_ident[EI_CLASS];
	if (eh.e_ident[EI_DATA] == ELFDATA2MSB) {
		ret->machine = (unsigned)__builtin_bswap16(eh.e_machine);
		ret->type = (unsigned)__builtin_bswap16(eh.e_type);
		return 0;
	}
	ret->machine = eh.e_machine;
	ret->type = eh.e_type;
	if (ret->elf_class != ELFCLASS64 || ret->machine != EM_X86_64)
		return 0;

	ok = read_at(&r, 0, &eh, sizeof(eh)) && read_body(&r, ret, &eh);
	free(r.ph);
	free(r.sh);
	if (r.error != 0)
		return r.error;
	return ok ? 0 : -EBADMSG;
}

void weft_elf_free(struct weft_elf *elf)
{
	for (size_t i = 0; i < elf->needed_count; i++)
		free(elf->needed[i]);
	free(elf->needed);
	free(elf->interp);
	free(elf->soname);
	free(elf->rpath);
	free(elf->runpath);
	memset(elf, 0, sizeof(*elf));
}

/* ---- privileges ---- */

void weft_caller_self(struct weft_caller *ret)
{
	ret->uid = getuid();
	ret->euid = geteuid();
	ret->gid = getgid();
	ret->egid = getegid();
	ret->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

/*
 * Whether a security.capability value (struct vfs_cap_data of linux/capability.h:
 * a word of revision and flags, then pairs of permitted and inheritable words,
 * all little-endian) gives anything: the effective flag, or a permitted bit.
 */
static bool caps_give(const void *caps, ssize_t len)
{
	uint32_t word[6];

	if (len < (ssize_t)(3 * sizeof(word[0])))
		return false;
	memset(word, 0, sizeof(word));
	memcpy(word, caps, (size_t)len < sizeof(word) ? (size_t)len : sizeof(word));
	return (word[0] & 1) != 0 || word[1] != 0 ||
	       (len >= (ssize_t)(5 * sizeof(word[0])) && word[3] != 0);
}

/*
 * The kernel's rule (cap_bprm_creds_from_file() in security/commoncap.c): the
 * new effective ids are compared with the caller's *real* ones, and file
 * capabilities count unless the real user is root. So a setuid file of the
 * caller's own is no change, and a caller whose ids already differ gets
 * AT_SECURE with any file.
 */
const char *weft_secure_reason(const struct stat *st, bool nosuid, const void *caps,
	ssize_t caps_len, const struct weft_caller *caller)
{
	const bool honoured = !nosuid && !caller->no_new_privs;
	/* without the group's execute bit, setgid once meant mandatory locks */
	const mode_t setgid = S_ISGID | S_IXGRP;

	if (honoured && (st->st_mode & S_ISUID) != 0) {
		if (st->st_uid != caller->uid)
			return "it is set-user-ID";
	} else if (caller->euid != caller->uid) {
		return "its real and effective user would differ";
	}
	if (honoured && (st->st_mode & setgid) == setgid) {
		if (st->st_gid != caller->gid)
			return "it is set-group-ID";
	} else if (caller->egid != caller->gid) {
		return "its real and effective group would differ";
	}
	if (!nosuid && caller->uid != 0 && caps_give(caps, caps_len))
		return "it has file capabilities";
	return NULL;
}

/* ---- libraries ---- */

/* /etc/ld.so.cache as glibc writes it since 2.32 (sysdeps/generic/dl-cache.h). */
struct cache_head {
	char magic[20]; /* "glibc-ld.so.cache1.1" */
	uint32_t count, strings_size;
	uint8_t flags, pad[3];
	uint32_t extensions, unused[3];
};

struct cache_entry {
	int32_t flags;
	uint32_t name, path; /* from the start of the file */
	uint32_t os_version;
	uint64_t hwcap;
};

_Static_assert(sizeof(struct cache_head) == 48, "as in the file");
_Static_assert(sizeof(struct cache_entry) == 24, "as in the file");

enum { CACHE_LIBC6_X86_64 = 0x0303 };

struct weft_libraries {
	char *cache;
	uint64_t cache_size;
	size_t cache_count;
	char *ld_library_path;
};

static void read_cache(struct weft_libraries *libs, const char *path)
{
	struct reader r = {0};
	const struct cache_head *head;
	struct stat st;

	r.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (r.fd < 0)
		return; /* then the loader has none either */
	if (fstat(r.fd, &st) == 0 && S_ISREG(st.st_mode) &&
		st.st_size >= (off_t)sizeof(*head)) {
		r.size = (uint64_t)st.st_size;
		libs->cache = read_new(&r, 0, r.size, CACHE_MAX);
	}
	close(r.fd);
	if (libs->cache == NULL)
		return;
	head = (const struct cache_head *)libs->cache;
	libs->cache_size = r.size;
	if (memcmp(head->magic, "glibc-ld.so.cache1.1", 20) == 0)
		libs->cache_count = head->count;
	if (libs->cache_count > (r.size - sizeof(*head)) / sizeof(struct cache_entry))
		libs->cache_count = 0;
}

struct weft_libraries *weft_libraries_new(
	const char *cache_path, const char *ld_library_path)
{
	struct weft_libraries *libs = calloc(1, sizeof(*libs));

	if (libs == NULL)
		return NULL;
	if (ld_library_path != NULL) {
		libs->ld_library_path = strdup(ld_library_path);
		if (libs->ld_library_path == NULL) {
			free(libs);
			return NULL;
		}
	}
	read_cache(libs, cache_path != NULL ? cache_path : "/etc/ld.so.cache");
	return libs;
}

void weft_libraries_free(struct weft_libraries *libs)
{
	if (libs == NULL)
		return;
	free(libs->cache);
	free(libs->ld_library_path);
	free(libs);
}

/* The loader skips files of another class or machine while it searches. */
static bool is_library(const char *path)
{
	unsigned char head[20];
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return false;
	n = pread(fd, head, sizeof(head), 0);
	close(fd);
	return n == (ssize_t)sizeof(head) && memcmp(head, ELFMAG, SELFMAG) == 0 &&
	       head[EI_CLASS] == ELFCLASS64 &&
	       head[offsetof(Elf64_Ehdr, e_machine)] == EM_X86_64;
}

/* snprintf() into ret_path and a look whether that is a library. */
static bool try_path(char *ret_path, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static bool try_path(char *ret_path, size_t size, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(ret_path, size, format, ap);
	va_end(ap);
	return n >= 0 && (size_t)n < size && is_library(ret_path);
}

/*
 * One element of a search path, len bytes at dir. $ORIGIN is the folder of the
 * file that has the path; the other tokens depend on how ld.so was built, and
 * elements with them are passed over.
 */
static bool try_dir(const char *dir, size_t len, const char *origin_of, const char *name,
	char *ret_path, size_t size)
{
	static const char *const tokens[] = {"$ORIGIN", "${ORIGIN}"};
	const char *slash;

	if (len == 0)
		return try_path(ret_path, size, "./%s", name);
	if (memchr(dir, '$', len) == NULL)
		return try_path(ret_path, size, "%.*s/%s", (int)len, dir, name);
	slash = origin_of != NULL ? strrchr(origin_of, '/') : NULL;
	if (slash == NULL)
		return false;
	for (size_t i = 0; i < COUNT(tokens); i++) {
		const size_t n = strlen(tokens[i]);

		if (len >= n && memcmp(dir, tokens[i], n) == 0 &&
			memchr(dir + n, '$', len - n) == NULL)
			return try_path(ret_path, size, "%.*s%.*s/%s",
				(int)(slash - origin_of), origin_of, (int)(len - n),
				dir + n, name);
	}
	return false;
}

static bool try_dirs(const char *dirs, const char *separators, const char *origin_of,
	const char *name, char *ret_path, size_t size)
{
	while (dirs != NULL) {
		const size_t len = strcspn(dirs, separators);

		if (len < PATH_MAX && try_dir(dirs, len, origin_of, name, ret_path, size))
			return true;
		dirs = dirs[len] != '\0' ? dirs + len + 1 : NULL;
	}
	return false;
}

static bool try_cache(
	const struct weft_libraries *libs, const char *name, char *ret_path, size_t size)
{
	const struct cache_entry *entry;

	if (libs->cache_count == 0)
		return false;
	entry = (const struct cache_entry *)(libs->cache + sizeof(struct cache_head));
	for (size_t i = 0; i < libs->cache_count; i++, entry++)
		if (entry->flags == CACHE_LIBC6_X86_64 && entry->hwcap == 0 &&
			entry->name < libs->cache_size &&
			entry->path < libs->cache_size &&
			strcmp(libs->cache + entry->name, name) == 0 &&
			try_path(ret_path, size, "%s", libs->cache + entry->path))
			return true;
	return false;
}

int weft_libraries_find(const struct weft_libraries *libs, const char *name,
	const struct weft_elf *elf, const char *of_path, char *ret_path, size_t size)
{
	/* Debian's and Fedora's built-in order; the rest is in the cache. */
	static const char standard[] = "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:"
				       "/lib64:/usr/lib64:/lib:/usr/lib";
	char path[PATH_MAX];
	bool found;

	if (strchr(name, '/') != NULL)
		found = try_path(path, sizeof(path), "%s", name);
	else
		found = try_dirs(elf->rpath, ":", of_path, name, path, sizeof(path)) ||
			try_dirs(libs->ld_library_path, ":;", of_path, name, path,
				sizeof(path)) ||
			try_dirs(elf->runpath, ":", of_path, name, path, sizeof(path)) ||
			try_cache(libs, name, path, sizeof(path)) ||
			try_dirs(standard, ":", NULL, name, path, sizeof(path));
	if (!found || strlen(path) >= size)
		return -ENOENT;
	memcpy(ret_path, path, strlen(path) + 1);
	return 0;
}

/* ---- the whole question ---- */

struct check {
	const char *path;
	const struct weft_caller *caller;
	const struct weft_libraries *libs;
	void (*note)(const char *name, const char *outcome);
	struct weft_elfcheck *ret;
};

static void note(const struct check *c, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void note(const struct check *c, const char *name, const char *format, ...)
{
	char outcome[PATH_MAX + 256];
	va_list ap;

	if (c->note == NULL)
		return;
	va_start(ap, format);
	(void)vsnprintf(outcome, sizeof(outcome), format, ap);
	va_end(ap);
	c->note(name, outcome);
}

/* The first reason stays. Always false, to be returned. */
static bool refuse(const struct check *c, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static bool refuse(const struct check *c, const char *format, ...)
{
	va_list ap;

	if (c->ret->refused)
		return false;
	c->ret->refused = true;
	va_start(ap, format);
	(void)vsnprintf(c->ret->reason, sizeof(c->ret->reason), format, ap);
	va_end(ap);
	return false;
}

static const char *machine_name(const struct weft_elf *elf)
{
	switch (elf->machine) {
	case EM_386:
		return "i386";
	case EM_X86_64:
		return "x32";
	case EM_ARM:
		return "32-bit ARM";
	case EM_AARCH64:
		return "aarch64";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC64:
		return "POWER";
	case EM_S390:
		return "s390";
	default:
		return "another machine";
	}
}

static bool check_format(const struct check *c, const struct weft_elf *elf)
{
	if (elf->machine != EM_X86_64 || elf->elf_class != ELFCLASS64) {
		note(c, "format", "ELF for %s", machine_name(elf));
		return refuse(c,
			"it is a program for %s, and weft serves"
			" x86-64 only",
			machine_name(elf));
	}
	if (elf->type != ET_EXEC && elf->type != ET_DYN) {
		note(c, "format", "ELF for x86-64, no program");
		return refuse(c, "it is an object or core file, not a program");
	}
	note(c, "format", "ELF for x86-64, %s",
		elf->interp != NULL ? "dynamically linked" : "without a loader");
	return true;
}

static bool check_loader(const struct check *c, const struct weft_elf *elf)
{
	static const char glibc_loader[] = "ld-linux-x86-64.so.2";
	const char *base;

	if (elf->interp == NULL) {
		if (elf->soname != NULL && strcmp(elf->soname, glibc_loader) == 0)
			return refuse(c, "it is the loader itself; name the"
					 " program instead");
		if (elf->soname != NULL)
			return refuse(c, "it is a shared library, not a"
					 " program");
		if (elf->foreign == go_runtime)
			return refuse(c, "it is a statically linked Go program;"
					 " nothing can be preloaded into it");
		return refuse(c, "it is statically linked; nothing can be"
				 " preloaded into it");
	}
	base = strrchr(elf->interp, '/');
	base = base != NULL ? base + 1 : elf->interp;
	if (strcmp(base, glibc_loader) != 0) {
		note(c, "loader", "%s, not glibc's", elf->interp);
		return refuse(c, "its loader %s is not glibc's %s (%s)", elf->interp,
			glibc_loader,
			starts_with(base, "ld-musl-") ? "it was built for musl"
						      : "it was built for another libc");
	}
	if (access(elf->interp, F_OK) != 0) {
		note(c, "loader", "%s: %s", elf->interp, strerror(errno));
		return refuse(c, "its loader %s: %s", elf->interp, strerror(errno));
	}
	note(c, "loader", "%s (glibc)", elf->interp);
	return true;
}

static bool check_privileges(const struct check *c, int fd)
{
	struct stat st;
	struct statvfs fs;
	unsigned char caps[64];
	ssize_t caps_len;
	const char *why;

	if (fstat(fd, &st) != 0 || fstatvfs(fd, &fs) != 0)
		return refuse(c, "%s", strerror(errno));
	caps_len = fgetxattr(fd, "security.capability", caps, sizeof(caps));
	why = weft_secure_reason(
		&st, (fs.f_flag & ST_NOSUID) != 0, caps, caps_len, c->caller);
	note(c, "privileges", "%s", why != NULL ? why : "no change");
	return why == NULL || refuse(c, "%s, so the loader ignores LD_PRELOAD", why);
}

/*
 * A direct dependency: what it brings along, and whether it makes threads. One
 * that is missing or odd is the loader's business, which will say so.
 */
static bool check_library(
	const struct check *c, const struct weft_elf *elf, const char *name)
{
	char path[PATH_MAX];
	struct weft_elf lib = {0};
	bool ok = true;
	int fd;

	if (weft_libraries_find(c->libs, name, elf, c->path, path, sizeof(path)) != 0) {
		note(c, "library", "%s: not found", name);
		return true;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || weft_elf_read(fd, &lib) != 0)
		note(c, "library", "%s: %s cannot be read", name, path);
	else
		note(c, "library", "%s: %s%s", name, path,
			lib.creates != NULL ? ", creates threads" : "");
	if (lib.creates != NULL)
		c->ret->creates_threads = true;
	if (lib.foreign != NULL)
		ok = refuse(c,
			"its library %s contains %s (%s), which weft"
			" does not serve",
			name, lib.foreign, lib.foreign_sign);
	weft_elf_free(&lib);
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool check_contents(const struct check *c, const struct weft_elf *elf)
{
	bool ok = true;

	if (elf->foreign != NULL) {
		note(c, "runtime", "%s (%s)", elf->foreign, elf->foreign_sign);
		return refuse(c,
			"it contains or starts %s (%s), which weft does"
			" not serve",
			elf->foreign, elf->foreign_sign);
	}
	note(c, "runtime", "no Go, Java, .NET, Mono or sanitizer");
	c->ret->creates_threads = elf->creates != NULL;
	for (size_t i = 0; i < elf->needed_count; i++)
		ok = check_library(c, elf, elf->needed[i]) && ok;
	if (elf->creates != NULL)
		note(c, "threads", "the program calls %s", elf->creates);
	else if (c->ret->creates_threads)
		note(c, "threads", "a direct dependency creates them");
	else
		note(c, "threads",
			"neither the program nor a direct dependency"
			" creates any");
	return ok;
}

static void check_file(const struct check *c, int fd)
{
	struct weft_elf elf;
	const int err = weft_elf_read(fd, &elf);

	if (err == -ENOEXEC) {
		note(c, "format", "not ELF");
		(void)refuse(c, "it is neither an ELF program nor a script"
				" that names its interpreter");
	} else if (err == -EBADMSG) {
		note(c, "format", "damaged ELF");
		(void)refuse(c, "its ELF headers are damaged");
	} else if (err != 0) {
		(void)refuse(c, "reading it failed: %s", strerror(-err));
	} else {
		(void)(check_format(c, &elf) && check_loader(c, &elf) &&
			check_privileges(c, fd) && check_contents(c, &elf));
	}
	weft_elf_free(&elf);
}

void weft_elfcheck(const char *path, const struct weft_caller *caller,
	const struct weft_libraries *libs,
	void (*note_)(const char *name, const char *outcome), struct weft_elfcheck *ret)
{
	const struct check c = {path, caller, libs, note_, ret};
	int fd;

	memset(ret, 0, sizeof(*ret));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		(void)refuse(&c,
			"it cannot be read (%s), so weft cannot tell"
			" whether it can be served",
			strerror(errno));
		return;
	}
	check_file(&c, fd);
	close(fd);
}
