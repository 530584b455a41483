/* sites_fault.h - put before sites.c, so that a test can make its calls fail. */
#pragma once
#define WEFT_SITES_SYSCALL sites_test_syscall

#ifdef __cplusplus
extern "C"
#endif
	long
	sites_test_syscall(long nr, long a, long b, long c, long d, long e, long f);
