/*
 * finder_image.c - a DSO in memory, and what its headers, relocations and symbols
 * say. Reads are bounded by the segments: an image may be anything.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/finder_impl.h"

void *weft_finder_push(struct finder *f, struct vec *v, size_t size)
{
	if (v->count == v->room) {
		size_t room = v->room ? v->room * 2 : 64;
		void *p = realloc(v->data, room * size);

		if (!p) {
			f->failed = true;
			return NULL;
		}
		v->data = p;
		v->room = room;
	}
	void *p = (char *)v->data + v->count++ * size;
	memset(p, 0, size);
	return p;
}

/* The bytes of [rva, rva + len), or NULL when no segment holds them all. */
const uint8_t *weft_finder_at(const struct finder *f, uint64_t rva, uint64_t len)
{
	for (unsigned i = 0; i < f->loads; i++)
		if (rva >= f->load[i].start && rva < f->load[i].end &&
			len <= f->load[i].end - rva)
			return f->img->base + rva;
	return NULL;
}

bool weft_finder_read(const struct finder *f, uint64_t rva, void *to, size_t len)
{
	const uint8_t *p = weft_finder_at(f, rva, len);

	if (p)
		memcpy(to, p, len);
	return p != NULL;
}

/* A name: ends within its segment, and could stand in a C string. Or NULL. */
const char *weft_finder_string_at(const struct finder *f, uint64_t rva)
{
	for (uint64_t p = rva;; p++) {
		const uint8_t *c = weft_finder_at(f, p, 1);

		if (!c)
			return NULL;
		if (!*c)
			return (const char *)f->img->base + rva;
		if (*c <= ' ' || *c >= 0x7f || *c == '"' || *c == '\\')
			return NULL;
	}
}

uint64_t weft_finder_take(const struct finder *f, struct cursor *c, unsigned len)
{
	uint64_t v = 0;

	if (c->bad || c->end - c->rva < len || !weft_finder_read(f, c->rva, &v, len)) {
		c->bad = true;
		return 0;
	}
	c->rva += len;
	return v;
}

int64_t weft_finder_take_leb(const struct finder *f, struct cursor *c, bool is_signed)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = (uint8_t)weft_finder_take(f, c, 1);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while (b & 0x80 && !c->bad);
	if (is_signed && b & 0x40 && shift < 64)
		v |= ~(uint64_t)0 << shift;
	return (int64_t)v;
}

/* A pointer as .eh_frame encodes them, as rva. Indirect ones are not followed. */
uint64_t weft_finder_take_encoded(
	const struct finder *f, struct cursor *c, uint8_t enc, uint64_t data)
{
	uint64_t here = c->rva, v;

	if (enc == DW_EH_PE_omit)
		return 0;
	switch (enc & 0x0f) {
	case 0x00: /* absptr */
	case 0x04: /* udata8 */
	case 0x0c: /* sdata8 */
		v = weft_finder_take(f, c, 8);
		break;
	case 0x01:
		v = (uint64_t)weft_finder_take_leb(f, c, false);
		break;
	case 0x09:
		v = (uint64_t)weft_finder_take_leb(f, c, true);
		break;
	case 0x02:
		v = weft_finder_take(f, c, 2);
		break;
	case 0x0a:
		v = (uint64_t)(int64_t)(int16_t)weft_finder_take(f, c, 2);
		break;
	case 0x03:
		v = weft_finder_take(f, c, 4);
		break;
	case 0x0b:
		v = (uint64_t)(int64_t)(int32_t)weft_finder_take(f, c, 4);
		break;
	default:
		c->bad = true;
		return 0;
	}
	if (!v)
		return 0;
	switch (enc & 0x70) {
	case DW_EH_PE_pcrel:
		return v + here;
	case DW_EH_PE_datarel:
		return v + data;
	default:
		return v;
	}
}

int weft_finder_read_headers(struct finder *f, struct weft_site_table *t)
{
	const uint8_t *base = f->img->base;
	const ElfW(Ehdr) *eh = (const void *)base;

	if (f->img->size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
		eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64 ||
		eh->e_phentsize != sizeof(ElfW(Phdr)) || eh->e_phoff % 8 ||
		eh->e_phoff > f->img->size ||
		eh->e_phoff + (uint64_t)eh->e_phnum * sizeof(ElfW(Phdr)) > f->img->size)
		return -ENOEXEC;

	const ElfW(Phdr) *ph = (const void *)(base + eh->e_phoff);
	unsigned texts = 0;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_DYNAMIC)
			f->dyn = ph[i].p_vaddr;
		if (ph[i].p_type == PT_GNU_EH_FRAME)
			f->eh_hdr = ph[i].p_vaddr;
		if (ph[i].p_type != PT_LOAD)
			continue;
		if (f->loads == 16 || ph[i].p_vaddr + ph[i].p_memsz > f->img->size)
			return -ENOEXEC;
		f->load[f->loads].start = (uint32_t)ph[i].p_vaddr;
		f->load[f->loads++].end = (uint32_t)(ph[i].p_vaddr + ph[i].p_memsz);
		if (!(ph[i].p_flags & PF_X))
			continue;
		f->text = (uint32_t)ph[i].p_vaddr;
		f->text_end = (uint32_t)(ph[i].p_vaddr + ph[i].p_memsz);
		texts++;
	}
	if (texts != 1 || !f->dyn || !f->eh_hdr)
		return -ENOEXEC;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_NOTE)
			continue;
		uint64_t p = ph[i].p_vaddr, end = p + ph[i].p_memsz;
		ElfW(Nhdr) n;

		while (p + sizeof(n) <= end && weft_finder_read(f, p, &n, sizeof(n))) {
			uint64_t desc = p + sizeof(n) + ((n.n_namesz + 3u) & ~3u);

			if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 &&
				n.n_descsz <= sizeof(t->build_id) &&
				weft_finder_read(f, desc, t->build_id, n.n_descsz))
				t->build_id_len = n.n_descsz;
			p = desc + ((n.n_descsz + 3u) & ~3u);
		}
	}
	return t->build_id_len ? 0 : -ENOEXEC;
}

/* The loader adds the base to some of the dynamic section's pointers, in place. */
static uint64_t unrelocate(const struct finder *f, uint64_t v)
{
	uint64_t base = (uint64_t)(uintptr_t)f->img->base;

	return v >= base && v - base < f->img->size ? v - base : v;
}

/* Anything the dynamic section or a relocation points to can be jumped to. */
int weft_finder_read_dynamic(struct finder *f, struct weft_site_table *t)
{
	uint64_t rela = 0, rela_len = 0, jmprel = 0, jmprel_len = 0, relr = 0,
		 relr_len = 0, soname = 0;
	bool has_soname = false;
	ElfW(Dyn) d;

	for (uint64_t p = f->dyn;; p += sizeof(d)) {
		if (!weft_finder_read(f, p, &d, sizeof(d)))
			return -ENOEXEC;
		uint64_t ptr = unrelocate(f, d.d_un.d_ptr);

		switch (d.d_tag) {
		case DT_STRTAB:
			f->strtab = ptr;
			break;
		case DT_SYMTAB:
			f->symtab = ptr;
			break;
		case DT_GNU_HASH:
			f->gnu_hash = ptr;
			break;
		case DT_HASH:
			f->sysv_hash = ptr;
			break;
		case DT_SONAME:
			soname = d.d_un.d_val;
			has_soname = true;
			break;
		case DT_RELA:
			rela = ptr;
			break;
		case DT_RELASZ:
			rela_len = d.d_un.d_val;
			break;
		case DT_JMPREL:
			jmprel = ptr;
			break;
		case DT_PLTRELSZ:
			jmprel_len = d.d_un.d_val;
			break;
		case DT_RELR:
			relr = ptr;
			break;
		case DT_RELRSZ:
			relr_len = d.d_un.d_val;
			break;
		case DT_INIT:
		case DT_FINI:
			set_bit(f, f->targets, ptr);
			break;
		}
		if (d.d_tag == DT_NULL)
			break;
	}
	const char *name =
		has_soname ? weft_finder_string_at(f, f->strtab + soname) : NULL;

	if (!name || !f->symtab)
		return -ENOEXEC;
	t->soname = strdup(name);
	if (!t->soname)
		return -ENOMEM;

	for (int which = 0; which < 2; which++) {
		uint64_t p = which ? jmprel : rela;
		uint64_t n = (which ? jmprel_len : rela_len) / sizeof(ElfW(Rela));
		ElfW(Rela) r;

		for (uint64_t i = 0; i < n; i++, p += sizeof(r)) {
			if (!weft_finder_read(f, p, &r, sizeof(r)))
				return -ENOEXEC;
			uint64_t type = ELF64_R_TYPE(r.r_info);

			if (type == R_X86_64_RELATIVE || type == R_X86_64_IRELATIVE)
				set_bit(f, f->targets, (uint64_t)r.r_addend);
		}
	}
	/* A packed relocation's addend is the word itself, perhaps relocated by now. */
	uint64_t where = 0, entry, word;

	for (uint64_t i = 0; i < relr_len / 8; i++) {
		if (!weft_finder_read(f, relr + i * 8, &entry, 8))
			return -ENOEXEC;
		if (!(entry & 1)) {
			if (weft_finder_read(f, entry, &word, 8))
				set_bit(f, f->targets, unrelocate(f, word));
			where = entry + 8;
			continue;
		}
		for (unsigned b = 0; b < 63; b++)
			if (entry >> (b + 1) & 1 &&
				weft_finder_read(f, where + b * 8, &word, 8))
				set_bit(f, f->targets, unrelocate(f, word));
		where += 63 * 8;
	}
	return 0;
}

/* ---- symbols: only .dynsym, for names --------------------------------------- */

struct symbol {
	uint32_t start, end;
	const char *name;
};

/* "read" is a better name than "__read": fewest underscores, then shortest. */
static int name_cmp(const char *a, const char *b)
{
	size_t ua = strspn(a, "_"), ub = strspn(b, "_");

	if (ua != ub)
		return ua < ub ? -1 : 1;
	if (strlen(a) != strlen(b))
		return strlen(a) < strlen(b) ? -1 : 1;
	return strcmp(a, b);
}

static int symbol_cmp(const void *pa, const void *pb)
{
	const struct symbol *a = pa, *b = pb;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end > b->end ? -1 : 1;
	return name_cmp(a->name, b->name);
}

static uint32_t symbol_count(const struct finder *f)
{
	uint32_t head[4], count = 0, v;

	if (f->sysv_hash && weft_finder_read(f, f->sysv_hash, head, 8))
		return head[1];
	if (!f->gnu_hash || !weft_finder_read(f, f->gnu_hash, head, sizeof(head)))
		return 0;
	uint64_t bucket = f->gnu_hash + 16 + 8ull * head[2];
	uint64_t chain = bucket + 4ull * head[0];

	for (uint32_t i = 0; i < head[0]; i++)
		if (weft_finder_read(f, bucket + 4ull * i, &v, 4) && v > count)
			count = v;
	if (count < head[1])
		return head[1];
	do {
		if (!weft_finder_read(f, chain + 4ull * (count - head[1]), &v, 4))
			return 0;
		count++;
	} while (!(v & 1));
	return count;
}

int weft_finder_read_symbols(struct finder *f)
{
	uint32_t n = symbol_count(f);
	ElfW(Sym) s;

	for (uint32_t i = 0; i < n; i++) {
		if (!weft_finder_read(f, f->symtab + i * sizeof(s), &s, sizeof(s)))
			return -ENOEXEC;
		unsigned type = ELF64_ST_TYPE(s.st_info);

		if (s.st_shndx == SHN_UNDEF || !in_text(f, s.st_value) ||
			(type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE))
			continue;
		set_bit(f, f->targets, s.st_value);
		const char *name = weft_finder_string_at(f, f->strtab + s.st_name);
		struct symbol *sym =
			name ? weft_finder_push(f, &f->sym, sizeof(*sym)) : NULL;

		if (!sym)
			continue;

		sym->start = (uint32_t)s.st_value;
		sym->end = (uint32_t)(s.st_value + s.st_size);
		sym->name = name;
	}
	if (f->sym.count)
		qsort(f->sym.data, f->sym.count, sizeof(struct symbol), symbol_cmp);
	return f->failed ? -ENOMEM : 0;
}

uint32_t weft_finder_name_of(struct finder *f, uint32_t rva)
{
	const struct symbol *s = f->sym.data, *best = NULL, *before = NULL;
	char buf[256];

	for (size_t i = 0; i < f->sym.count && s[i].start <= rva; i++) {
		if (rva < s[i].end && (!best || s[i].start > best->start))
			best = &s[i];
		if (!before || s[i].start > before->start)
			before = &s[i];
	}
	if (best)
		snprintf(buf, sizeof(buf), "%s", best->name);
	else if (before)
		snprintf(buf, sizeof(buf), "%s+0x%x", before->name, rva - before->start);
	else
		snprintf(buf, sizeof(buf), "0x%x", rva);

	const char *pool = f->names.data;

	for (size_t i = 0; i < f->names.count; i += strlen(pool + i) + 1)
		if (!strcmp(pool + i, buf))
			return (uint32_t)i;
	uint32_t at = (uint32_t)f->names.count;

	for (const char *c = buf;; c++) {
		char *to = weft_finder_push(f, &f->names, 1);

		if (to)
			*to = *c;
		if (!*c)
			break;
	}
	return at;
}

/* ---- images --------------------------------------------------------------- */

static int measure(const ElfW(Ehdr) * eh, const ElfW(Phdr) * ph, size_t *ret)
{
	uint64_t end = 0;

	if (memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_type != ET_DYN)
		return -ENOEXEC;
	for (unsigned i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD) {
			if (ph[i].p_vaddr > 1u << 30 || ph[i].p_memsz > 1u << 30)
				return -ENOEXEC;
			if (ph[i].p_vaddr + ph[i].p_memsz > end)
				end = ph[i].p_vaddr + ph[i].p_memsz;
		}
	if (!end || end > 1u << 30)
		return -ENOEXEC;
	*ret = end;
	return 0;
}

int weft_image_load(const char *path, struct weft_image *ret)
{
	struct stat st;
	uint8_t *file = MAP_FAILED, *mem;
	size_t size, len = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = -ENOEXEC;
	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(ElfW(Ehdr)))
		goto out_close;
	len = (size_t)st.st_size;
	r = -ENOMEM;
	file = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED)
		goto out_close;
	const ElfW(Ehdr) *eh = (const void *)file;

	r = -ENOEXEC;
	if (eh->e_phentsize != sizeof(ElfW(Phdr)) || eh->e_phoff > len ||
		eh->e_phoff % 8 || eh->e_phnum * sizeof(ElfW(Phdr)) > len - eh->e_phoff)
		goto out_unmap;
	const ElfW(Phdr) *ph = (const void *)(file + eh->e_phoff);

	if ((r = measure(eh, ph, &size)))
		goto out_unmap;
	r = -ENOMEM;
	mem = calloc(1, size);
	if (!mem)
		goto out_unmap;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		if (ph[i].p_offset > len || ph[i].p_filesz > len - ph[i].p_offset ||
			ph[i].p_filesz > ph[i].p_memsz) {
			free(mem);
			r = -ENOEXEC;
			goto out_unmap;
		}
		memcpy(mem + ph[i].p_vaddr, file + ph[i].p_offset, ph[i].p_filesz);
	}
	*ret = (struct weft_image){mem, size, mem};
	r = 0;
out_unmap:
	munmap(file, len);
out_close:
	close(fd);
	return r;
}

int weft_image_mapped(uintptr_t base, struct weft_image *ret)
{
	const ElfW(Ehdr) *eh = (const void *)base;
	size_t size;
	int r = measure(eh, (const void *)(base + eh->e_phoff), &size);

	if (!r)
		*ret = (struct weft_image){(const uint8_t *)base, size, NULL};
	return r;
}

void weft_image_unload(struct weft_image *img)
{
	free(img->owned);
	img->owned = NULL;
}
