# A shell with children, pipes, traps and jobs. It makes no thread: weft stays asleep.
echo "$((6 * 7))"
(exit 5)
echo $?
for i in 1 2 3; do echo $i; done | sort -r
trap 'echo got USR1' USR1
kill -USR1 $$
(kill -TERM $(sh -c 'echo $PPID'))
echo "killed: $?"
ulimit -n
umask
x=$(printf '%s' abc | wc -c)
echo "$x"
cat < /dev/null
# What the kernel knows about this process: threads, signals, descriptors.
grep -E '^(Sig[A-Z]|Shd|Threads|Seccomp|NoNewPrivs|CoreDump)' /proc/self/status | grep -v SigQ
ls /proc/self/fd /proc/self/task | grep -v '^[0-9]\{2,\}' | wc -l
exit 3
