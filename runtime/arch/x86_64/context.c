/*
 * context.c - first stacks, and the vector state of fibers stopped at a site.
 */
#include "context.h"

#include <cpuid.h>

#include "../../sys.h"

extern void weft_context_start(void);
extern void weft_context_start_clone(void);

struct frame {
	uint32_t mxcsr;
	uint16_t fcw, pad;
	uint64_t r15, r14, r13, r12, rbx, rbp, ret;
};
_Static_assert(sizeof(struct frame) == WEFT_CTX_SIZE, "frame");

static void init_frame(struct frame *f)
{
	/* A new thread inherits the floating-point modes of its creator. */
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(f->mxcsr), "=m"(f->fcw));
	f->pad = 0;
	f->r15 = f->r14 = f->r13 = f->r12 = f->rbx = f->rbp = 0;
}

void *weft_context_make(void *stack_top, void (*fn)(void *), void *arg)
{
	uintptr_t top = (uintptr_t)stack_top & ~15ul;
	struct frame *f = (struct frame *)(top - sizeof *f);

	init_frame(f);
	f->r12 = (uint64_t)fn;
	f->r13 = (uint64_t)arg;
	f->ret = (uint64_t)weft_context_start;
	return f;
}

void *weft_context_make_clone(void *stack_top, const struct weft_regs *regs)
{
	uintptr_t top = (uintptr_t)stack_top;
	struct weft_regs *r =
		(struct weft_regs *)((top - WEFT_RED_ZONE - sizeof *r) & ~15ul);
	struct frame *f = (struct frame *)r - 1;

	weft_memcpy(r, regs, sizeof *r);
	r->rsp = top;
	init_frame(f);
	f->ret = (uint64_t)weft_context_start_clone;
	return f;
}

/* ---- vector registers ----------------------------------------------------- */

/*
 * struct vector_area: `simple` says which way it was saved.
 * XINUSE (XGETBV with ecx = 1) tells which components differ from their initial
 * state; asking costs 16 ns here, sixteen MOVUPS each way 10 ns, an XSAVEC and
 * XRSTOR pair 134 ns.
 */
struct vector_area {
	uint64_t simple;
	uint64_t pad[7];
	unsigned char bytes[];
};

enum {
	X87 = 1,
	SSE = 2,
	AVX = 4,
	AVX512 = 0xe0,
};

static uint64_t managed;    /* components a fiber keeps: XCR0 without PKRU */
static int has_xinuse;      /* XGETBV(1) exists */
static uint32_t area_bytes; /* XSAVEC of all managed components */

/* An XSAVE header that puts every requested component into its initial state. */
static const struct {
	unsigned char legacy[512];
	uint64_t xstate_bv, xcomp_bv, rest[6];
} initial_state __attribute__((aligned(64))) = {.xcomp_bv = 1ull << 63};

static inline uint64_t xgetbv(uint32_t reg)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(reg));
	return (uint64_t)hi << 32 | lo;
}

static inline void xrstor(const void *p, uint64_t mask)
{
	__asm__ volatile("xrstor64 (%0)"
			 :
			 : "r"(p), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
			 : "memory");
}

void weft_vector_init(void)
{
	uint32_t a, b, c, d;
	uint64_t xcr0 = xgetbv(0);

	managed = xcr0 & (X87 | SSE | AVX | AVX512);
	__cpuid_count(0xd, 1, a, b, c, d);
	has_xinuse = (a & 6) == 6; /* XSAVEC and XGETBV(1) */
	area_bytes = 512 + 64;
	for (int i = 2; i < 8; i++) {
		if (!(managed >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		if (!has_xinuse) { /* standard format: fixed offsets */
			if (b + a > area_bytes)
				area_bytes = b + a;
			continue;
		}
		if (c & 2)
			area_bytes = (area_bytes + 63) & ~63u;
		area_bytes += a;
	}
}

size_t weft_vector_size(void)
{
	return sizeof(struct vector_area) + area_bytes;
}

#define EACH_XMM(op)                                                                     \
	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) \
		op(13) op(14) op(15)
#define STORE(n) "movups %%xmm" #n ", 16*" #n "(%0)\n\t"
#define LOAD(n)  "movups 16*" #n "(%0), %%xmm" #n "\n\t"

void weft_vector_save(void *area)
{
	struct vector_area *v = area;
	uint32_t lo = (uint32_t)managed, hi = 0;

	v->simple = has_xinuse && !(xgetbv(1) & managed & ~(uint64_t)SSE);
	if (v->simple)
		__asm__ volatile(EACH_XMM(STORE) : : "r"(v->bytes) : "memory");
	else {
		/* XRSTOR wants zeros in the part of the header that XSAVE does not write.
		 */
		weft_memset(v->bytes + 512, 0, 64);
		if (has_xinuse)
			__asm__ volatile("xsavec64 (%0)"
					 :
					 : "r"(v->bytes), "a"(lo), "d"(hi)
					 : "memory");
		else
			__asm__ volatile("xsave64 (%0)"
					 :
					 : "r"(v->bytes), "a"(lo), "d"(hi)
					 : "memory");
	}
}

void weft_vector_restore(const void *area)
{
	const struct vector_area *v = area;

	if (!v->simple) {
		xrstor(v->bytes, managed);
		return;
	}
	/*
	 * Others ran meanwhile. What they left in use was in its initial state
	 * here, and code may rely on that: upper halves known to be zero, an
	 * empty x87 stack.
	 */
	uint64_t dirty = xgetbv(1) & managed & ~(uint64_t)SSE;

	if (dirty)
		xrstor(&initial_state, dirty);
	__asm__ volatile(EACH_XMM(LOAD) : : "r"(v->bytes) : "memory");
}
