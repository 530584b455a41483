/* raw.h - system calls by an instruction of the program's own, which weft does not see.
 */
#ifndef TESTS_PROGRAMS_RAW_H
#define TESTS_PROGRAMS_RAW_H

#include <sys/syscall.h>

static long inline_syscall(long number, long a, long b, long c)
{
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return r;
}

#endif
