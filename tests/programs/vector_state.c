/*
 * What a thread keeps in its registers across waits: callee-saved ones across libc calls,
 * rounding mode and MXCSR, the x87 control word; with the argument "raw" also the vectors
 * across an inline `syscall`, which clobbers rax, rcx and r11 only.
 */
#include "prog.h"

#include <fenv.h>
#include <sys/syscall.h>

#define THREADS 10
#define ROUNDS  60

static int pairs[THREADS][2];
static bool raw;

/* Fills xmm0-15 and the general registers, makes the system call inside, compares. */
static int across_raw_syscall(long number, long a, long b, long c, unsigned char seed)
{
	unsigned char in[256] __attribute__((aligned(64))),
		out[256] __attribute__((aligned(64)));
	long r;

	for (int i = 0; i < 256; i++)
		in[i] = (unsigned char)(seed + i * 7);
	__asm__ volatile(
		"movdqa 0(%[in]), %%xmm0\n movdqa 16(%[in]), %%xmm1\n"
		"movdqa 32(%[in]), %%xmm2\n movdqa 48(%[in]), %%xmm3\n"
		"movdqa 64(%[in]), %%xmm4\n movdqa 80(%[in]), %%xmm5\n"
		"movdqa 96(%[in]), %%xmm6\n movdqa 112(%[in]), %%xmm7\n"
		"movdqa 128(%[in]), %%xmm8\n movdqa 144(%[in]), %%xmm9\n"
		"movdqa 160(%[in]), %%xmm10\n movdqa 176(%[in]), %%xmm11\n"
		"movdqa 192(%[in]), %%xmm12\n movdqa 208(%[in]), %%xmm13\n"
		"movdqa 224(%[in]), %%xmm14\n movdqa 240(%[in]), %%xmm15\n"
		"syscall\n"
		"movdqa %%xmm0, 0(%[out])\n movdqa %%xmm1, 16(%[out])\n"
		"movdqa %%xmm2, 32(%[out])\n movdqa %%xmm3, 48(%[out])\n"
		"movdqa %%xmm4, 64(%[out])\n movdqa %%xmm5, 80(%[out])\n"
		"movdqa %%xmm6, 96(%[out])\n movdqa %%xmm7, 112(%[out])\n"
		"movdqa %%xmm8, 128(%[out])\n movdqa %%xmm9, 144(%[out])\n"
		"movdqa %%xmm10, 160(%[out])\n movdqa %%xmm11, 176(%[out])\n"
		"movdqa %%xmm12, 192(%[out])\n movdqa %%xmm13, 208(%[out])\n"
		"movdqa %%xmm14, 224(%[out])\n movdqa %%xmm15, 240(%[out])\n"
		: "=&a"(r)
		: "0"(number), "D"(a), "S"(b), "d"(c), [in] "r"(in), [out] "r"(out)
		: "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
		"xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
		"xmm14", "xmm15");
	return r == 1 && memcmp(in, out, 256) == 0;
}

/*
 * The same through libc's syscall(): an ordinary call, so vectors may go, but the
 * callee-saved registers hold and the direction flag is clear.
 */
static int across_libc_call(int fd, unsigned long seed)
{
	register unsigned long b __asm__("rbx") = seed ^ 1;
	register unsigned long r12 __asm__("r12") = seed ^ 2;
	register unsigned long r13 __asm__("r13") = seed ^ 3;
	register unsigned long r14 __asm__("r14") = seed ^ 4;
	register unsigned long r15 __asm__("r15") = seed ^ 5;
	unsigned long flags;
	char c;

	__asm__ volatile("" : "+r"(b), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
	long n = syscall(SYS_read, fd, &c, 1);
	__asm__ volatile("" : "+r"(b), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	return n == 1 && b == (seed ^ 1) && r12 == (seed ^ 2) && r13 == (seed ^ 3) &&
	       r14 == (seed ^ 4) && r15 == (seed ^ 5) && !(flags & 0x400);
}

static void *run(void *arg)
{
	static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
	static const unsigned short x87[] = {0x37f, 0x27f, 0xb7f, 0x77f};
	int id = (int)(intptr_t)arg, fd = pairs[id][0], bad = 0;
	unsigned short cw;
	unsigned mxcsr, mxcsr_now;
	volatile double one = 1, three = 3, expected;
	char c;

	fesetround(modes[id % 4]);
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	mxcsr |= id & 1 ? 0x8040 : 0; /* flush to zero */
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	__asm__ volatile("fldcw %0" : : "m"(x87[id % 4]));
	expected = one / three;
	for (int i = 0; i < ROUNDS; i++) {
		switch (i % 4) {
		case 0:
			bad += !across_libc_call(fd, (unsigned long)id * 0x123456789abcd);
			break;
		case 1:
			usleep(100);
			bad += read(fd, &c, 1) != 1;
			break;
		case 2:
			bad += recv(fd, &c, 1, 0) != 1;
			sched_yield();
			break;
		default:
			if (!raw) {
				struct pollfd p = {fd, POLLIN, 0};

				bad += poll(&p, 1, -1) != 1;
				bad += recv(fd, &c, 1, MSG_WAITALL) != 1;
				break;
			}
			bad += !across_raw_syscall(
				SYS_read, fd, (long)&c, 1, (unsigned char)id);
		}
		__asm__ volatile("stmxcsr %0" : "=m"(mxcsr_now));
		__asm__ volatile("fnstcw %0" : "=m"(cw));
		/* the status bits of the low six belong to the computations */
		bad += (mxcsr_now & ~0x3fu) != (mxcsr & ~0x3fu);
		bad += cw != x87[id % 4];
		bad += one / three != expected;
	}
	return (void *)(intptr_t)bad;
}

static void *inherits(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)fegetround();
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	int bad = 0;

	raw = argc > 1 && strcmp(argv[1], "raw") == 0;
	for (intptr_t i = 0; i < THREADS; i++) {
		unix_pair(pairs[i]);
		threads[i] = start(run, (void *)i);
	}
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < THREADS; i++) {
			send_all(pairs[i][1], "x", 1);
			if (i % 5 == 0)
				usleep(30);
		}
	for (int i = 0; i < THREADS; i++)
		bad += (int)(intptr_t)finish(threads[i]);
	say("%d wrong", bad);
	say("main still rounds to nearest: %d", fegetround() == FE_TONEAREST);
	fesetround(FE_UPWARD);
	say("a new thread inherits: %d",
		(intptr_t)on_thread(inherits, NULL) == FE_UPWARD);
	return 0;
}
