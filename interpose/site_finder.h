/*
 * site_finder.h - which `syscall` instructions of a DSO can be replaced by jumps.
 *
 * Works on an image: the DSO's loadable segments at their places relative to a
 * base, either mapped by the loader or laid out in memory from the file. Uses
 * Zydis and malloc; part of the generator and of libweft-sites.so, never of
 * libweft.so.
 */
#pragma once
#include "interpose/sites.h"

#ifdef __cplusplus
extern "C" {
#endif

struct weft_image {
	const uint8_t *base; /* where the DSO's address 0 is */
	size_t size;         /* highest address of a segment */
	void *owned;         /* what weft_image_unload gives back, or NULL */
};

/* Lays the loadable segments of an ELF file out in memory. 0 or -EXXX. */
int weft_image_load(const char *path, struct weft_image *ret);
/* Describes a DSO the loader has mapped at `base`. 0 or -EXXX. */
int weft_image_mapped(uintptr_t base, struct weft_image *ret);
void weft_image_unload(struct weft_image *img);

/*
 * Decodes the image and fills a table, soname and build-id included. The arrays
 * are malloc'd; give them back with weft_finder_free. 0 or -EXXX.
 */
int weft_finder_run(const struct weft_image *img, struct weft_site_table *ret);
void weft_finder_free(struct weft_site_table *table);

#ifdef __cplusplus
}
#endif
