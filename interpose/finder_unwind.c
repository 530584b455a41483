/*
 * finder_unwind.c - functions are what the unwind tables say: ranges of FDEs, the
 * gaps between them, the rows of their tables, their landing pads.
 */
#include <errno.h>
#include <stdlib.h>

#include "interpose/finder_impl.h"

struct cie {
	uint64_t code_align;
	uint64_t init, init_end; /* initial instructions */
	uint8_t fde_enc, lsda_enc;
	bool augmented, signal, ok;
};

static struct cie read_cie(const struct finder *f, uint64_t rva)
{
	struct cie c = {.lsda_enc = DW_EH_PE_omit};
	struct cursor cur = {rva, rva + 4, false};
	uint64_t len = weft_finder_take(f, &cur, 4);
	char aug[8] = "";

	if (!len || len == 0xffffffff)
		return c;
	cur.end = rva + 4 + len;
	uint64_t id = weft_finder_take(f, &cur, 4),
		 version = weft_finder_take(f, &cur, 1);

	if (id != 0 || (version != 1 && version != 3))
		return c;
	for (unsigned i = 0;; i++) {
		if (i == sizeof(aug))
			return c;
		aug[i] = (char)weft_finder_take(f, &cur, 1);
		if (!aug[i])
			break;
	}
	c.code_align = (uint64_t)weft_finder_take_leb(f, &cur, false);
	weft_finder_take_leb(f, &cur, true);
	if (version == 1)
		weft_finder_take(f, &cur, 1);
	else
		weft_finder_take_leb(f, &cur, false);
	c.init_end = cur.end;
	if (aug[0] == 'z') {
		uint64_t n = (uint64_t)weft_finder_take_leb(f, &cur, false);

		c.init = cur.rva + n;
		c.augmented = true;
		for (const char *a = aug + 1; *a; a++) {
			if (*a == 'R') {
				c.fde_enc = (uint8_t)weft_finder_take(f, &cur, 1);
			} else if (*a == 'L') {
				c.lsda_enc = (uint8_t)weft_finder_take(f, &cur, 1);
			} else if (*a == 'P') {
				uint8_t enc = (uint8_t)weft_finder_take(f, &cur, 1);

				weft_finder_take_encoded(f, &cur, enc, 0);
			} else if (*a == 'S') {
				c.signal = true;
			} else if (*a != 'B') {
				return c;
			}
		}
	} else if (aug[0]) {
		return c;
	}
	c.ok = !cur.bad;
	return c;
}

/* Marks where each row of the unwind table begins. False: not understood. */
static bool mark_rows(
	struct finder *f, struct cursor c, const struct cie *cie, uint64_t pc)
{
	while (!c.bad && c.rva < c.end) {
		uint8_t op = (uint8_t)weft_finder_take(f, &c, 1);
		uint64_t step = 0;

		switch (op >> 6) {
		case 1:
			step = op & 0x3f;
			goto advance;
		case 2:
			weft_finder_take_leb(f, &c, false);
			continue;
		case 3:
			continue;
		}
		switch (op) {
		case 0x00: /* nop */
		case 0x0a: /* remember_state */
		case 0x0b: /* restore_state */
		case 0x2d: /* GNU_window_save */
			continue;
		case 0x01: /* set_loc */
			pc = weft_finder_take_encoded(f, &c, cie->fde_enc, 0);
			set_bit(f, f->rows, pc);
			continue;
		case 0x02:
			step = weft_finder_take(f, &c, 1);
			break;
		case 0x03:
			step = weft_finder_take(f, &c, 2);
			break;
		case 0x04:
			step = weft_finder_take(f, &c, 4);
			break;
		case 0x06: /* restore_extended */
		case 0x07: /* undefined */
		case 0x08: /* same_value */
		case 0x0d: /* def_cfa_register */
		case 0x0e: /* def_cfa_offset */
		case 0x13: /* def_cfa_offset_sf */
		case 0x2e: /* GNU_args_size */
			weft_finder_take_leb(f, &c, false);
			continue;
		case 0x05: /* offset_extended */
		case 0x09: /* register */
		case 0x0c: /* def_cfa */
		case 0x11: /* offset_extended_sf */
		case 0x12: /* def_cfa_sf */
		case 0x14: /* val_offset */
		case 0x15: /* val_offset_sf */
		case 0x2f: /* GNU_negative_offset_extended */
			weft_finder_take_leb(f, &c, false);
			weft_finder_take_leb(f, &c, false);
			continue;
		case 0x10: /* expression */
		case 0x16: /* val_expression */
			weft_finder_take_leb(f, &c, false);
			/* fall through */
		case 0x0f: { /* def_cfa_expression */
			uint64_t n = (uint64_t)weft_finder_take_leb(f, &c, false);

			if (c.bad || n > c.end - c.rva)
				return false;
			c.rva += n;
			continue;
		}
		default:
			return false;
		}
	advance:
		pc += step * cie->code_align;
		set_bit(f, f->rows, pc);
	}
	return !c.bad;
}

/* Landing pads are reached from the unwinder. False: not understood. */
static bool mark_landing_pads(struct finder *f, uint64_t lsda, uint32_t start)
{
	struct cursor c = {lsda, f->img->size, false};
	uint8_t enc = (uint8_t)weft_finder_take(f, &c, 1);
	uint64_t lpstart =
		enc == DW_EH_PE_omit ? start : weft_finder_take_encoded(f, &c, enc, 0);

	enc = (uint8_t)weft_finder_take(f, &c, 1);
	if (enc != DW_EH_PE_omit)
		weft_finder_take_leb(f, &c, false);
	enc = (uint8_t)weft_finder_take(f, &c, 1);
	uint64_t len = (uint64_t)weft_finder_take_leb(f, &c, false);

	if (c.bad || len > f->img->size - c.rva)
		return false;
	c.end = c.rva + len;
	while (!c.bad && c.rva < c.end) {
		weft_finder_take_encoded(f, &c, enc & 0x0f, 0);
		weft_finder_take_encoded(f, &c, enc & 0x0f, 0);
		uint64_t pad = weft_finder_take_encoded(f, &c, enc & 0x0f, 0);

		weft_finder_take_leb(f, &c, false);
		if (pad)
			set_bit(f, f->targets, lpstart + pad);
	}
	return !c.bad;
}

static int add_fde(struct finder *f, uint64_t rva)
{
	struct cursor c = {rva, rva + 4, false};
	uint64_t len = weft_finder_take(f, &c, 4);

	if (c.bad || !len || len == 0xffffffff)
		return -ENOEXEC;
	c.end = rva + 4 + len;
	uint64_t here = c.rva, delta = weft_finder_take(f, &c, 4);

	if (c.bad || delta > here)
		return -ENOEXEC;
	struct cie cie = read_cie(f, here - delta);

	if (!cie.ok)
		return -ENOEXEC;
	uint64_t start = weft_finder_take_encoded(f, &c, cie.fde_enc, 0);
	uint64_t size = weft_finder_take_encoded(f, &c, cie.fde_enc & 0x0f, 0);
	uint64_t lsda = 0;

	if (cie.augmented) {
		uint64_t n = (uint64_t)weft_finder_take_leb(f, &c, false),
			 next = c.rva + n;

		if (cie.lsda_enc != DW_EH_PE_omit)
			lsda = weft_finder_take_encoded(f, &c, cie.lsda_enc, 0);
		if (cie.lsda_enc & DW_EH_PE_indirect && cie.lsda_enc != DW_EH_PE_omit)
			return -ENOEXEC;
		c.rva = next;
	}
	if (c.bad || c.rva > c.end)
		return -ENOEXEC;
	if (!in_text(f, start) || !size || size > f->text_end - start)
		return start ? -ENOEXEC : 0; /* 0: discarded by the linker */

	struct func *fn = weft_finder_push(f, &f->func, sizeof(*fn));

	if (!fn)
		return -ENOMEM;
	/* A signal frame's FDE begins a byte early, so that pc - 1 finds it too. */
	if (cie.signal && size > 1)
		start++, size--;
	fn->start = (uint32_t)start;
	fn->end = (uint32_t)(start + size);
	set_bit(f, f->targets, start);
	set_bit(f, f->rows, start);
	set_bit(f, f->rows, start + size);
	if (!mark_rows(f, c, &cie, start))
		fn->flags |= FUNC_TAINTED;
	if (lsda && !mark_landing_pads(f, lsda, fn->start))
		fn->flags |= FUNC_TAINTED;
	return 0;
}

static int func_cmp(const void *pa, const void *pb)
{
	const struct func *a = pa, *b = pb;

	return a->start < b->start ? -1 : a->start > b->start;
}

/* Reads all FDEs through the sorted table of .eh_frame_hdr, and fills the gaps. */
int weft_finder_read_functions(struct finder *f)
{
	struct cursor c = {f->eh_hdr, f->img->size, false};
	uint64_t version = weft_finder_take(f, &c, 1);
	uint8_t ptr_enc = (uint8_t)weft_finder_take(f, &c, 1);
	uint8_t count_enc = (uint8_t)weft_finder_take(f, &c, 1);
	uint8_t table_enc = (uint8_t)weft_finder_take(f, &c, 1);

	weft_finder_take_encoded(f, &c, ptr_enc, f->eh_hdr);
	uint64_t n = weft_finder_take_encoded(f, &c, count_enc, f->eh_hdr);

	if (c.bad || version != 1 || !n || table_enc == DW_EH_PE_omit)
		return -ENOEXEC;
	for (uint64_t i = 0; i < n; i++) {
		weft_finder_take_encoded(f, &c, table_enc, f->eh_hdr);
		uint64_t fde = weft_finder_take_encoded(f, &c, table_enc, f->eh_hdr);
		int r = c.bad ? -ENOEXEC : add_fde(f, fde);

		if (r)
			return r;
	}
	if (!f->func.count)
		return -ENOEXEC;
	qsort(f->func.data, f->func.count, sizeof(struct func), func_cmp);

	size_t fdes = f->func.count;
	uint32_t end = f->text;

	for (size_t i = 0; i <= fdes; i++) {
		struct func *fn = f->func.data;
		uint32_t start = i < fdes ? fn[i].start : f->text_end;

		if (start < end) { /* overlapping: neither is what it says */
			fn[i].flags |= FUNC_TAINTED;
			fn[i - 1].flags |= FUNC_TAINTED;
			fn[i - 1].end = start;
		} else if (start > end) {
			struct func *gap = weft_finder_push(f, &f->func, sizeof(*gap));

			if (!gap)
				return -ENOMEM;
			gap->start = end;
			gap->end = start;
			gap->flags = FUNC_GAP;
			fn = f->func.data;
		}
		if (i < fdes && fn[i].end > end)
			end = fn[i].end;
	}
	qsort(f->func.data, f->func.count, sizeof(struct func), func_cmp);
	return 0;
}
