/*
 * What a program file needs, and whether weft can serve it.
 *
 * Files are read with bounded pread()s into memory of our own, never mapped,
 * and every number in them is doubted: a truncated, growing, sparse or hostile
 * file is at worst refused. Nothing of the program is run.
 *
 * The rules are the launcher's (who else refuses a program before it starts);
 * what only shows in the running process is checked again by libweft.so.
 */
#ifndef WEFT_ELFCHECK_H
#define WEFT_ELFCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- one file ---- */

/* All strings are the struct's own and may be NULL, which means: none. */
struct weft_elf {
	unsigned elf_class; /* ELFCLASS… */
	unsigned machine;   /* EM_… */
	unsigned type;      /* ET_… */
	bool dynamic;       /* has PT_DYNAMIC */
	char *interp;
	char *soname;
	char *rpath; /* only where there is no runpath */
	char *runpath;
	char **needed; /* needed_count of them */
	size_t needed_count;
	const char *foreign;      /* static: a runtime that weft does not serve */
	const char *foreign_sign; /* static: how it shows */
	const char *creates;      /* static: the call that makes threads */
};

/*
 * Reads fd. 0; -ENOEXEC if it is not an ELF file; -EBADMSG if it is one whose
 * headers contradict each other or its size; or what read gave. *ret is to be
 * freed in any case. Of another machine's file only the first three fields are
 * filled in.
 */
int weft_elf_read(int fd, struct weft_elf *ret);
void weft_elf_free(struct weft_elf *elf);

/* ---- privileges ---- */

/* Who calls execve(). */
struct weft_caller {
	uid_t uid, euid;
	gid_t gid, egid;
	bool no_new_privs;
};

void weft_caller_self(struct weft_caller *ret);

/*
 * Why the kernel would set AT_SECURE for a file with this state when caller
 * executes it (the loader then ignores LD_PRELOAD), or NULL. nosuid is the
 * mount option; caps the security.capability attribute, caps_len < 0 if there
 * is none.
 */
const char *weft_secure_reason(const struct stat *st, bool nosuid, const void *caps,
	ssize_t caps_len, const struct weft_caller *caller);

/* ---- libraries ---- */

/* The loader's way from a DT_NEEDED name to a file. */
struct weft_libraries;

/* Reads cache_path (NULL: /etc/ld.so.cache). NULL if out of memory. */
struct weft_libraries *weft_libraries_new(
	const char *cache_path, const char *ld_library_path);
void weft_libraries_free(struct weft_libraries *libs);

/*
 * Finds what the loader takes for name, needed by elf, whose path is of_path.
 * 0, or -ENOENT. Not known here: glibc-hwcaps folders outside the cache.
 */
int weft_libraries_find(const struct weft_libraries *libs, const char *name,
	const struct weft_elf *elf, const char *of_path, char *ret_path, size_t size);

/* ---- the whole question ---- */

struct weft_elfcheck {
	bool refused;
	char reason[320];     /* if refused */
	bool creates_threads; /* it or a direct dependency imports the call */
};

/*
 * May path, executed by caller, be started with libweft.so preloaded? note, if
 * given, gets each check with its outcome as it is made: name is static and
 * short, outcome lives until it returns.
 */
void weft_elfcheck(const char *path, const struct weft_caller *caller,
	const struct weft_libraries *libs,
	void (*note)(const char *name, const char *outcome), struct weft_elfcheck *ret);

#ifdef __cplusplus
}
#endif
#endif
