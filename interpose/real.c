/*
 * real.c - looks libc's functions up in its own symbol table; see real.h.
 *
 * The loader's list (_r_debug) is complete before the first constructor of any
 * library runs, and relocation of all libraries precedes it, so this works from
 * the first call on.
 */
#include "real.h"

#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>

#include "../runtime/sys.h"

struct weft_real weft_real;

static bool starts_with(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return false;
	return true;
}

static const char *base_name(const char *path)
{
	const char *base = path;

	for (; *path; path++)
		if (*path == '/')
			base = path + 1;
	return base;
}

struct symbols {
	uintptr_t base;
	const Elf64_Sym *sym;
	const char *str;
	const uint32_t *gnu_hash;
	const uint16_t *versym;
	const Elf64_Verdef *verdef;
	size_t verdefs;
};

static bool read_dynamic(const char *dso_prefix, struct symbols *ret)
{
	for (struct link_map *m = _r_debug.r_map; m; m = m->l_next) {
		struct symbols s = {.base = m->l_addr};

		if (!m->l_name || !starts_with(base_name(m->l_name), dso_prefix))
			continue;
		for (const Elf64_Dyn *d = m->l_ld; d->d_tag != DT_NULL; d++) {
			const void *p = (const void *)d->d_un.d_ptr;

			switch (d->d_tag) {
			case DT_SYMTAB:
				s.sym = p;
				break;
			case DT_STRTAB:
				s.str = p;
				break;
			case DT_GNU_HASH:
				s.gnu_hash = p;
				break;
			case DT_VERSYM:
				s.versym = p;
				break;
			case DT_VERDEF:
				s.verdef = p;
				break;
			case DT_VERDEFNUM:
				s.verdefs = d->d_un.d_val;
				break;
			}
		}
		if (!s.sym || !s.str || !s.gnu_hash)
			return false;
		*ret = s;
		return true;
	}
	return false;
}

static bool has_version(const struct symbols *s, uint16_t index, const char *version)
{
	const char *def = (const char *)s->verdef;

	for (size_t i = 0; def && i < s->verdefs; i++) {
		const Elf64_Verdef *v = (const Elf64_Verdef *)def;
		const Elf64_Verdaux *aux = (const Elf64_Verdaux *)(def + v->vd_aux);

		if (v->vd_ndx == index)
			return weft_same_text(s->str + aux->vda_name, version);
		def += v->vd_next;
	}
	return false;
}

static void *resolve(const struct symbols *s, const Elf64_Sym *sym)
{
	void *p = (void *)(s->base + sym->st_value);

	if (ELF64_ST_TYPE(sym->st_info) == STT_GNU_IFUNC)
		p = ((void *(*)(void))p)();
	return p;
}

/* glibc's own hash layout: nbuckets, symoffset, bloom size, bloom shift, bloom… */
static void *find(const struct symbols *s, const char *name, const char *version)
{
	uint32_t h = 5381, buckets = s->gnu_hash[0], offset = s->gnu_hash[1];
	uint32_t bloom = s->gnu_hash[2];
	const uint32_t *bucket = s->gnu_hash + 4 + bloom * 2;
	const uint32_t *chain = bucket + buckets;

	for (const char *c = name; *c; c++)
		h = h * 33 + (unsigned char)*c;
	uint32_t i = bucket[h % buckets];

	if (!i)
		return NULL;
	for (;; i++) {
		uint32_t ch = chain[i - offset];

		if ((ch | 1) == (h | 1) &&
			weft_same_text(s->str + s->sym[i].st_name, name) &&
			s->sym[i].st_shndx != SHN_UNDEF) {
			uint16_t v = s->versym ? s->versym[i] : 1;

			/* The hidden bit marks versions that are not the default. */
			if (version ? has_version(s, v & 0x7fff, version) : !(v & 0x8000))
				return resolve(s, &s->sym[i]);
		}
		if (ch & 1)
			return NULL;
	}
}

void *weft_real_symbol(const char *dso_prefix, const char *name)
{
	struct symbols s;

	return read_dynamic(dso_prefix, &s) ? find(&s, name, NULL) : NULL;
}

void weft_real_init(void)
{
	struct symbols s;

	if (!read_dynamic("libc.so", &s))
		weft_bug("no libc.so in the loader's list");
		/* Two threads would store the same values. */
#define WEFT_CALL(name, version, kind)                                                   \
	__atomic_store_n(&weft_real.name,                                                \
		(__typeof__(weft_real.name))find(&s, #name, version), __ATOMIC_RELAXED);
#include "calls.def"
#undef WEFT_CALL
}
