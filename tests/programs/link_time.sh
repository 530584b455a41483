# gcc -flto=2: compiles again while it links, by two jobs at a time.
set -e
for i in 1 2 3 4 5 6; do
	cat >part$i.c <<-END
		int part$i(int n)
		{
			int sum = $i;

			for (int i = 0; i < n; i++)
				sum = sum * 31 + i;
			return sum;
		}
	END
done
cat >main.c <<'END'
#include <stdio.h>

int part1(int), part2(int), part3(int), part4(int), part5(int), part6(int);

int main(void)
{
	unsigned sum = 0;

	for (int i = 0; i < 1000; i++)
		sum += part1(i) + part2(i) + part3(i) + part4(i) + part5(i) + part6(i);
	printf("%u\n", sum);
}
END
gcc -O2 -flto=2 -flto-partition=1to1 -o program main.c part?.c
./program
