/*
 * sites_plugin.c - libweft-sites.so: the finder, for a libc weft was not built with.
 *
 * Loaded at activation when no compiled-in table has the running libc's build-id,
 * and closed again at once; Zydis stays out of the process otherwise. Decodes the
 * mapped image, so it needs no file (there may be none after a chroot, or the
 * package was upgraded under a running process). What it returns outlives it:
 * one mapping per table, made read-only, never freed.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "interpose/site_finder.h"

__attribute__((visibility("default"))) weft_sites_decode_fn weft_sites_decode;

static void *place(char **p, const void *from, size_t n)
{
	void *to = *p;

	memcpy(to, from, n);
	*p += (n + 15) & ~(size_t)15;
	return to;
}

int weft_sites_decode(const struct weft_dso *dso, struct weft_site_table *ret)
{
	struct weft_image img;
	struct weft_site_table t;
	int r = weft_image_mapped(dso->base, &img);

	if (r)
		return r;
	r = weft_finder_run(&img, &t);
	if (r)
		return r;
	size_t soname = strlen(t.soname) + 1;
	size_t site = t.count * sizeof(*t.site), left = t.left_count * sizeof(*t.left);
	size_t len = soname + site + left + t.names_len + 4 * 16;
	char *mem = mmap(
		NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED) {
		weft_finder_free(&t);
		return -ENOMEM;
	}
	char *p = mem;
	struct weft_site_table copy = t;

	copy.soname = place(&p, t.soname, soname);
	copy.site = place(&p, t.site, site);
	copy.left = place(&p, t.left, left);
	copy.names = place(&p, t.names, t.names_len);
	weft_finder_free(&t);
	mprotect(mem, len, PROT_READ);
	*ret = copy;
	return 0;
}
