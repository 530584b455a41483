// A SIGTRAP after each instruction of the calling thread.
#pragma once

const long TRAP_FLAG = 0x100;

__attribute__((always_inline)) inline void single_steps(bool on)
{
	// Not where the compiler keeps things below the stack pointer.
	if (on)
		__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq;"
				 "orl %0, (%%rsp); popfq;"
				 "lea 128(%%rsp), %%rsp" ::"i"(TRAP_FLAG)
				 : "cc", "memory");
	else
		__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq;"
				 "andl %0, (%%rsp); popfq;"
				 "lea 128(%%rsp), %%rsp" ::"i"(~TRAP_FLAG)
				 : "cc", "memory");
}
