/*
 * OpenMP with many more threads than CPUs: barriers, single, ordered, critical, tasks,
 * and nested teams. libgomp waits with system calls of its own.
 */
#include "prog.h"

#include <omp.h>

enum { THREADS = 16, ROUNDS = 50, N = 20000 };

static long barriers(void)
{
	static int cell[THREADS];
	long wrong = 0;

#pragma omp parallel num_threads(THREADS) reduction(+ : wrong)
	{
		int me = omp_get_thread_num();

		for (int r = 0; r < ROUNDS; r++) {
			cell[me] = r;
#pragma omp barrier
			wrong += cell[(me + 1) % THREADS] != r;
#pragma omp barrier
		}
	}
	return wrong;
}

static long fibonacci(int n)
{
	long a, b;

	if (n < 2)
		return n;
#pragma omp task shared(a) if (n > 8)
	a = fibonacci(n - 1);
	b = fibonacci(n - 2);
#pragma omp taskwait
	return a + b;
}

static uint64_t in_order(void)
{
	uint64_t sum = CHECKSUM_INIT;

#pragma omp parallel for ordered schedule(dynamic, 1) num_threads(THREADS)
	for (int i = 0; i < 300; i++) {
#pragma omp ordered
		sum = checksum(sum, &i, sizeof i);
	}
	return sum;
}

static long nested(void)
{
	long n = 0;

	omp_set_max_active_levels(2);
#pragma omp parallel num_threads(4)
#pragma omp parallel num_threads(4)
	{
#pragma omp critical
		n++;
	}
	return n;
}

int main(void)
{
	static double value[N];
	double sum = 0;
	long f = 0;

	say("wrong: %ld", barriers());
	for (int i = 0; i < N; i++)
		value[i] = i;
#pragma omp parallel for num_threads(THREADS) reduction(+ : sum) schedule(guided)
	for (int i = 0; i < N; i++)
		sum += value[i];
	say("sum: %.0f", sum);
#pragma omp parallel num_threads(THREADS)
#pragma omp single
	f = fibonacci(18);
	say("fibonacci: %ld", f);
	say("in order: %llx", (unsigned long long)in_order());
	say("nested: %ld", nested());
	return 0;
}
