// runtime/arch/x86_64/context.c and switch.S: first stacks, switching, vector registers.
#include "on_fibers.h"

#include <cpuid.h>
#include <immintrin.h>

namespace
{

// Everything that a site must preserve of the vector unit, as the CPU holds it.
struct State {
	alignas(64) unsigned char ymm[16][32];
	unsigned char xmm[16][16];
	uint32_t mxcsr;
	unsigned char x87[108];
};

bool has_avx()
{
	return __builtin_cpu_supports("avx");
}

#define EACH(op)                                                                         \
	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) \
		op(13) op(14) op(15)
#define CLOBBERS                                                                         \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
		"xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory"

#define LOAD_XMM(n)  "movups 16*" #n "(%0), %%xmm" #n "\n\t"
#define STORE_XMM(n) "movups %%xmm" #n ", 16*" #n "(%0)\n\t"
#define LOAD_YMM(n)  "vmovups 32*" #n "(%0), %%ymm" #n "\n\t"
#define STORE_YMM(n) "vmovups %%ymm" #n ", 32*" #n "(%0)\n\t"

void fill(unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)(seed * 131 + i * 7 + (i >> 4));
}

/*
 * One test of a pattern must be one piece of assembly from the load of the registers
 * to their store: any C in between may use them. `fn` is a C function that obeys the
 * ABI, or saves and restores, with one argument.
 */
#define RUN_WITH(load, store, regs, init, fn, arg)                                       \
	__asm__ volatile("mov %%rsp, %%rbx\n\t"                                          \
			 "sub $256, %%rsp\n\t"                                           \
			 "and $-64, %%rsp\n\t" init EACH(                                \
				 load) "mov %2, %%rdi\n\t"                               \
				       "call *%1\n\t" EACH(store) "mov %%rbx, %%rsp\n\t" \
			 : "+r"(regs)                                                    \
			 : "r"(fn), "r"(arg)                                             \
			 : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10",  \
			 "r11", "cc", CLOBBERS)

// Dirties all of it, as another fiber might.
__attribute__((noinline)) void dirty_everything()
{
	alignas(32) unsigned char junk[16][32];
	unsigned char *p = &junk[0][0];

	fill(p, sizeof junk, 99);
	if (has_avx())
		__asm__ volatile(EACH(LOAD_YMM) : : "r"(p) : CLOBBERS);
	else
		__asm__ volatile(EACH(LOAD_XMM) : : "r"(p) : CLOBBERS);
	__asm__ volatile("fldpi; fldpi; fldln2" : : : "st", "st(1)", "st(2)");
}

void clean_everything()
{
	__asm__ volatile("fninit" : : : "memory");
	if (has_avx())
		__asm__ volatile("vzeroall" : : : CLOBBERS);
}

void *new_area(int byte)
{
	void *p = aligned_alloc(64, (weft_vector_size() + 63) & ~(size_t)63);

	CHECK(p);
	memset(p, byte, weft_vector_size());
	return p;
}

void save_dirty_restore(void *area)
{
	weft_vector_save(area);
	dirty_everything();
	weft_vector_restore(area);
}

TEST(Vector, KeepsXmmRegisters)
{
	weft_vector_init();
	void *area = new_area(0);
	unsigned char in[16][16], *p = &in[0][0], before[16][16];

	clean_everything();
	fill(p, sizeof in, 1);
	memcpy(before, in, sizeof in);
	RUN_WITH(LOAD_XMM, STORE_XMM, p, "", save_dirty_restore, area);
	EXPECT_EQ(memcmp(before, in, sizeof in), 0);
	free(area);
}

TEST(Vector, KeepsUpperHalvesOfYmmRegisters)
{
	if (!has_avx())
		GTEST_SKIP() << "the CPU has no AVX";
	weft_vector_init();
	void *area = new_area(0);
	alignas(32) unsigned char in[16][32], before[16][32];
	unsigned char *p = &in[0][0];

	fill(p, sizeof in, 2);
	memcpy(before, in, sizeof in);
	RUN_WITH(LOAD_YMM, STORE_YMM, p, "", save_dirty_restore, area);
	EXPECT_EQ(memcmp(before, in, sizeof in), 0);
	free(area);
}

// Pools and stacks hand out used memory.
TEST(Vector, AreaMayHoldAnythingBefore)
{
	if (!has_avx())
		GTEST_SKIP() << "the CPU has no AVX";
	in_child([] {
		weft_vector_init();
		void *area = new_area(0xff);
		alignas(32) unsigned char in[16][32], before[16][32];
		unsigned char *p = &in[0][0];

		fill(p, sizeof in, 3);
		memcpy(before, in, sizeof in);
		RUN_WITH(LOAD_YMM, STORE_YMM, p, "", save_dirty_restore, area);
		EXPECT_EQ(memcmp(before, in, sizeof in), 0);
	});
}

// Code that knows its upper halves to be zero (after vzeroupper) may rely on it.
TEST(Vector, UpperHalvesThatWereZeroAreZeroAgain)
{
	if (!has_avx())
		GTEST_SKIP() << "the CPU has no AVX";
	weft_vector_init();
	void *area = new_area(0);
	alignas(32) unsigned char in[16][32], out[16][32];
	unsigned char *p = &out[0][0];

	clean_everything();
	fill(&in[0][0], sizeof in, 4);
	for (int i = 0; i < 16; i++)
		memset(in[i] + 16, 0, 16);
	memcpy(out, in, sizeof in);
#define LOAD_LOW(n) "vmovups 32*" #n "(%0), %%xmm" #n "\n\t"
	RUN_WITH(LOAD_LOW, STORE_YMM, p, "vzeroupper\n\t", save_dirty_restore, area);
	EXPECT_EQ(memcmp(in, out, sizeof in), 0);
	free(area);
}

TEST(Vector, KeepsTheX87StackInUse)
{
	weft_vector_init();
	void *area = new_area(0);
	long double deep = 1.25L, top = -3.5L, got_top, got_deep;

	clean_everything();
	__asm__ volatile("fldt %2\n\t"
			 "fldt %3\n\t"
			 "mov %%rsp, %%rbx\n\t"
			 "sub $256, %%rsp\n\t"
			 "and $-64, %%rsp\n\t"
			 "call *%5\n\t"
			 "mov %%rbx, %%rsp\n\t"
			 "fstpt %0\n\t"
			 "fstpt %1\n\t"
			 : "=m"(got_top), "=m"(got_deep)
			 : "m"(deep), "m"(top), "D"(area), "r"(save_dirty_restore)
			 : "rbx", "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11",
			 "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)",
			 "st(7)", CLOBBERS);
	EXPECT_EQ(got_top, top);
	EXPECT_EQ(got_deep, deep);
	free(area);
}

TEST(Vector, AnEmptyX87StackIsEmptyAgain)
{
	weft_vector_init();
	void *area = new_area(0);
	struct {
		uint32_t control, status, tag, rest[4];
	} env;

	clean_everything();
	save_dirty_restore(area);
	__asm__ volatile("fnstenv %0; fninit" : "=m"(env));
	EXPECT_EQ(env.tag & 0xffff, 0xffffu) << "all eight registers are empty";
	free(area);
}

// ---- switching

uint32_t get_mxcsr()
{
	return _mm_getcsr();
}

uint16_t get_fcw()
{
	uint16_t w;

	__asm__ volatile("fnstcw %0" : "=m"(w));
	return w;
}

void set_fcw(uint16_t w)
{
	__asm__ volatile("fldcw %0" : : "m"(w));
}

TEST(Switch, KeepsFloatingPointModesOfEachFiber)
{
	on_runtime({1}, [] {
		Fibers fibers;

		for (int i = 0; i < 8; i++)
			fibers.start([i] {
				uint32_t mxcsr = 0x1f80u | (uint32_t)(i % 4) << 13;
				uint16_t fcw = (uint16_t)(0x37f | (i % 4) << 10);

				_mm_setcsr(mxcsr);
				set_fcw(fcw);
				for (int k = 0; k < 100; k++) {
					weft_yield();
					ASSERT_EQ(get_mxcsr() & 0xffc0, mxcsr & 0xffc0);
					ASSERT_EQ(get_fcw(), fcw);
				}
			});
		fibers.join();
		EXPECT_EQ(get_fcw(), 0x37f);
		EXPECT_EQ(get_mxcsr() & 0xffc0, 0x1f80u);
	});
}

TEST(Switch, ANewFiberInheritsItsCreatorsModes)
{
	on_runtime({1}, [] {
		Fibers fibers;

		_mm_setcsr(0x1f80 | 3 << 13);
		set_fcw(0x37f | 3 << 10);
		fibers.start([] {
			EXPECT_EQ(get_mxcsr() & 0xe000, 3u << 13);
			EXPECT_EQ(get_fcw(), 0x37f | 3 << 10);
		});
		_mm_setcsr(0x1f80);
		set_fcw(0x37f);
		fibers.join();
	});
}

// Puts numbers made from `seed` into all callee-saved registers, calls fn, and returns
// the bits in which one of them came back different.
extern "C" uint64_t check_callee_saved(uint64_t seed, void (*fn)());
__asm__(".text\n"
	".type check_callee_saved, @function\n"
	"check_callee_saved:\n"
	"	push %rbp\n	push %rbx\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rdi, %rbx\n	lea 1(%rdi), %r12\n	lea 2(%rdi), %r13\n"
	"	lea 3(%rdi), %r14\n	lea 4(%rdi), %r15\n	lea 5(%rdi), %rbp\n"
	"	push %rdi\n"
	"	call *%rsi\n"
	"	pop %rdi\n"
	"	mov %rdi, %rax\n	xor %rbx, %rax\n"
	"	lea 1(%rdi), %rcx\n	xor %r12, %rcx\n	or %rcx, %rax\n"
	"	lea 2(%rdi), %rcx\n	xor %r13, %rcx\n	or %rcx, %rax\n"
	"	lea 3(%rdi), %rcx\n	xor %r14, %rcx\n	or %rcx, %rax\n"
	"	lea 4(%rdi), %rcx\n	xor %r15, %rcx\n	or %rcx, %rax\n"
	"	lea 5(%rdi), %rcx\n	xor %rbp, %rcx\n	or %rcx, %rax\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n"
	"	pop %r12\n	pop %rbx\n	pop %rbp\n"
	"	ret\n"
	".size check_callee_saved, . - check_callee_saved\n");

TEST(Switch, KeepsCalleeSavedRegisters)
{
	on_runtime({2, true}, [] {
		Fibers fibers;

		for (uint64_t i = 0; i < 8; i++)
			fibers.start([i] {
				for (int k = 0; k < 200; k++)
					ASSERT_EQ(check_callee_saved(
							  i << 32 | 77, weft_yield),
						0u);
			});
	});
}

TEST(Switch, StackIsAlignedAtTheFirstInstruction)
{
	on_runtime({1}, [] {
		static uintptr_t frame;

		for (int skew = 0; skew < 16; skew++) {
			alignas(16) static char stack[64 << 10];
			int alive = 1;
			struct fiber *f = weft_fiber_new(
				stack + sizeof stack - skew, weft_rdfsbase(),
				[](void *) {
					frame = (uintptr_t)__builtin_frame_address(0);
					weft_fiber_exit();
				},
				nullptr);

			weft_fiber_in_weft(f, true);
			weft_fiber_set_clear_tid(f, &alive);
			weft_fiber_start(f);
			until([&] { return !load_acquire(&alive); });
			EXPECT_EQ(frame % 16, 0u)
				<< "rbp of a first frame, skew " << skew;
		}
	});
}

// ---- parks at a site

// Stands for a system call at a site: whatever runs meanwhile, nothing changes.
void park_with_vectors(void *)
{
	weft_fiber_set_vector_live(weft_fiber_self(), true);
	weft_yield();
	weft_fiber_set_vector_live(weft_fiber_self(), false);
}

void patterns_across_parks(const Config &config, bool wide)
{
	on_runtime(config, [wide] {
		Fibers fibers;
		std::atomic<bool> stop{false};
		Count done;

		for (int i = 0; i < 2; i++)
			fibers.start([&] {
				while (!stop) {
					dirty_everything();
					weft_yield();
					clean_everything();
					weft_yield();
				}
			});
		for (unsigned i = 0; i < 8; i++)
			fibers.start([&, i] {
				alignas(32) unsigned char in[16][32], before[16][32];
				unsigned char *p = &in[0][0];

				for (unsigned k = 0; k < 300; k++) {
					clean_everything();
					fill(p, sizeof in, i * 1000 + k);
					memcpy(before, in, sizeof in);
					if (wide)
						RUN_WITH(LOAD_YMM, STORE_YMM, p, "",
							park_with_vectors, nullptr);
					else
						RUN_WITH(LOAD_XMM, STORE_XMM, p, "",
							park_with_vectors, nullptr);
					ASSERT_EQ(memcmp(before, in, sizeof in), 0);
				}
				done.add();
			});
		done.await(8);
		stop = true;
		fibers.join();
		EXPECT_GT(counted(WEFT_COUNTER_VECTOR_SAVES), 100u);
	});
}

TEST(VectorLive, XmmSurvivesAParkWhileOthersDirtyEverything)
{
	patterns_across_parks({1}, false);
}

TEST(VectorLive, YmmSurvivesAParkWhileOthersDirtyEverything)
{
	if (!has_avx())
		GTEST_SKIP() << "the CPU has no AVX";
	patterns_across_parks({1}, true);
}

TEST(VectorLive, YmmSurvivesMigration)
{
	if (!has_avx())
		GTEST_SKIP() << "the CPU has no AVX";
	patterns_across_parks({3, true}, true);
}

} // namespace
