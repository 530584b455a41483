/*
 * modules.c - see modules.h.
 *
 * _dl_find_object (glibc 2.35) takes no lock and may be called anywhere, also while
 * another thread loads or unloads: unwinders use it for every frame of an exception. Its
 * own file in the loader's list, dl_iterate_phdr and dladdr take locks that a fiber may
 * hold while it is parked.
 */
#include "modules.h"

#include <dlfcn.h>
#include <link.h>

#include "real.h"

static int (*find_object)(void *address, struct dl_find_object *ret);
static const char *program_path = "";

bool weft_modules_init(const char *program)
{
	find_object = (int (*)(void *, struct dl_find_object *))weft_real_symbol(
		"libc.so", "_dl_find_object");
	if (program)
		program_path = program;
	return find_object != NULL;
}

bool weft_module_find(uintptr_t address, struct weft_module *ret)
{
	struct dl_find_object o;
	const char *path;

	if (!find_object || find_object((void *)address, &o))
		return false;
	/* The list's first entry is the program, without a name. */
	path = o.dlfo_link_map->l_name;
	ret->path = path && *path ? path : program_path;
	ret->base = o.dlfo_link_map->l_addr;
	ret->from = (uintptr_t)o.dlfo_map_start;
	ret->to = (uintptr_t)o.dlfo_map_end;
	ret->unwind_info = (uintptr_t)o.dlfo_eh_frame;
	return true;
}
