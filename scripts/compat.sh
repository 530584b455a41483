#!/usr/bin/env bash
# Write the tables of COMPATIBILITY.md from calls.def and syscalls.def.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/compat.sh [-h | --check | --print]

Writes the tables of COMPATIBILITY.md, between its two markers, from
interpose/calls.def, interpose/syscalls.def and the notes in this script.

  --check   change nothing; exit status 1 when the tables are not up to date,
            when a note is about a call that has no row (or a call that parks
            has no note on how), or when no test calls a row of one of the tables
  --print   write the tables to standard output
  -h        this text
END
}

mode='write'
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--check) mode=check ;;
	--print) mode=print ;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C
document=COMPATIBILITY.md
begin='<!-- tables: begin (scripts/compat.sh) -->'
end='<!-- tables: end -->'

# How a call that parks does so, and what else is worth saying of a call. The class
# comes from syscalls.def, as does whether the call restarts. Classes of parking:
#   ring       the ring makes the call itself
#   readiness  the ring waits for the descriptor, then the call is made
#   timer      an entry in the carrier's timers; no system call of its own
#   table      weft's own wait table
#   signal     until a signal for this fiber comes
notes() {
	cat <<'END'
accept|ring|O_NONBLOCK: made at once
accept4|ring|O_NONBLOCK: made at once
connect|ring|O_NONBLOCK: made at once
read|readiness|regular files and block devices: on the carrier what is in memory, else offloaded; files with neither poll nor RWF_NOWAIT: on the carrier, or offloaded if another process or machine answers for them (FUSE, NFS, CIFS, 9p, Ceph, …)
readv|readiness|as read
write|readiness|written in full before it returns; regular files: on the carrier, with O_SYNC, O_DSYNC or O_DIRECT, or on FUSE, NFS and their kind, offloaded
sendfile|readiness|a stream socket gets as much at a time as it has room for; other ends but pipes, and data that is not in memory: offloaded
splice|readiness|as sendfile
tee|readiness|
vmsplice|readiness|
writev|readiness|as write
recvfrom|readiness|MSG_WAITALL and SO_RCVLOWAT on TCP and UNIX streams, too (with SO_PASSCRED, on TLS or other families: offloaded); MSG_WAITALL with MSG_PEEK on TCP: looked at again every 1 to 16 ms
recvmsg|readiness|as recvfrom
recvmmsg|readiness|message by message
sendto|readiness|a datagram socket whose POLLOUT comes to nothing several times: offloaded
sendmsg|readiness|as sendto
sendmmsg|readiness|message by message
io_uring_enter|readiness|waiting for one completion; for more, with a time-out or a mask: offloaded
io_uring_setup||made without IORING_SETUP_SINGLE_ISSUER and DEFER_TASKRUN, as fibers change kernel threads
io_uring_register||ring descriptors cannot be registered: EINVAL, as on older kernels
capset||the fiber is bound to a kernel thread of its own, where the call is made; so for the eleven below
setfsuid||
setfsgid||
seccomp||with TSYNC: the kernel's
landlock_restrict_self||
unshare||
setns||
arch_prctl||FS base is the fiber's; else the kernel's, made on the carrier
personality||to ask: the kernel's
set_mempolicy||
keyctl||of the thread's keyring, or to another session's; others: the kernel's
iopl||
ioperm||
poll|readiness|up to 16,384 descriptors; more: offloaded
ppoll|readiness|as poll; the mask is swapped with the wait
select|readiness|up to 16,384 descriptors; more: offloaded
pselect6|readiness|as select; the mask is swapped with the wait
epoll_wait|readiness|the epoll descriptor itself is waited for
epoll_pwait|readiness|as epoll_wait; the mask is swapped with the wait
epoll_pwait2|readiness|as epoll_pwait
nanosleep|timer|zero: lets others run
clock_nanosleep|timer|a fiber's CPU time: looked at again and again; other CPU-time and alarm clocks: offloaded
futex|table|shared with other processes: in the ring from Linux 6.7, offloaded before, robust mutexes by a proxy; priority inheritance: by weft, in order, between processes by the kernel; of those that wait for a mutex of libc's, nine are woken at once if it is free and the first has waited for 10 ms
rt_sigsuspend|signal|
pause|signal|
rt_sigtimedwait|signal|what comes for the process meanwhile is taken by weft's receiver, one signal for each wait
clone||CLONE_THREAD makes a fiber; a start routine inside libc stays a kernel thread; without CLONE_THREAD: the kernel's
clone3||as clone
fork||the child is an ordinary process until it makes a thread
vfork||the kernel's, with the fiber's own signal mask
exit||ends the fiber
exit_group||the kernel's; writes the statistics first
execve||the kernel's, with the fiber's own signal mask
execveat||as execve
gettid||the main thread's is the process id, others are above 4,194,304
rseq||ENOSYS
signalfd||a signal for a thread is then pending for the process, if all threads block it
signalfd4||as signalfd
prctl||PR_SET_NAME, PR_GET_NAME, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK and PR_GET_TID_ADDRESS are the fiber's; what changes privileges or filters of the thread: as capset; others are the kernel's, made on the carrier
get_robust_list||
sched_getaffinity||the fiber's own once it was set; else the carrier's, all of which are alike
sched_setaffinity||checked by the kernel, kept, read back, inherited; when it differs from what carriers have, the fiber is bound and it takes effect
sched_getscheduler||as sched_getaffinity
sched_getparam||as sched_getaffinity
sched_getattr||as sched_getaffinity
sched_rr_get_interval||of the fiber's policy
sched_setscheduler||as sched_setaffinity
sched_setparam||as sched_setaffinity
sched_setattr||as sched_setaffinity
getpriority||PRIO_PROCESS with 0 or a fiber's id: the fiber's
setpriority||PRIO_PROCESS: as sched_setaffinity; PRIO_PGRP: of this process, its main thread; PRIO_USER: the kernel threads
ioprio_get||as getpriority
ioprio_set||as sched_setaffinity
clock_gettime||of threads' CPU time: the fiber's; others: the kernel's
clock_getres||as clock_gettime
clock_settime||as clock_gettime: EPERM
getrusage||RUSAGE_THREAD: the fiber's times and switches; faults and transfers are 0
prlimit64||a fiber's id stands for the process; so for the five below; RLIMIT_NPROC, once set, limits fibers
kcmp||
getpgid||
getsid||
process_vm_readv||
process_vm_writev||
timer_create||SIGEV_THREAD_ID with a fiber's id, and clocks of a fiber's CPU time: by way of weft; others: the kernel's
timer_settime||
timer_gettime||
timer_getoverrun||
timer_delete||
setuid||on every kernel thread of weft's; so are the six below
mmap||inside pthread_create: a stack from a slab; else the kernel's
mprotect||inside pthread_create: a stack's guard; else the kernel's
munmap||of a whole stack: kept for the next thread; else the kernel's
madvise||of a stack's unused part: mostly left out; else the kernel's
kill||of this process: to a fiber that lets the signal in, the main one first
close||the kernel's; a fiber that waits for this number keeps its file; weft's own descriptors: EBADF
dup2||as close; onto one of weft's own: it moves out of the way
dup3||as dup2
close_range||as close
setsockopt||the kernel's; weft notes that a time-out may exist
fcntl||F_SETLKW and F_OFD_SETLKW that have to wait; others: the kernel's
wait4|ring|before Linux 6.7: offloaded
waitid|ring|as wait4; P_PIDFD: offloaded
mq_timedsend|readiness|
mq_timedreceive|readiness|a waiting reader does not keep mq_notify from telling
semop||only when it has to wait
semtimedop||as semop
flock||only when the lock is held
msgrcv||only when nothing is there
msgsnd||only when the queue is full
open||FIFOs, unless O_NONBLOCK or O_RDWR, and serial lines; others: on the carrier, however long a path's file system takes; /proc/self/task/ID/comm of a fiber: its name, to be read
openat||as open
openat2||as open
creat||as open
ioctl||requests that wait (TCSBRK, TCSETSW, TIOCMIWAIT, FICLONE, BLKFLSBUF, …); others: on the carrier
pread64||only when the data is not in memory, or the file on FUSE, NFS or their kind
pwrite64||only with O_SYNC, O_DSYNC or O_DIRECT, or on FUSE, NFS or their kind
preadv||as pread64
pwritev||as pwrite64
preadv2||as pread64; at the current position: as readv; RWF_NOWAIT: made at once
pwritev2||as pwrite64, and with any flag; at the current position: as writev
END
}

declare -A way=() note=()
while IFS='|' read -r name how text; do
	way[$name]=$how
	note[$name]=$text
done < <(notes)

problems=0
problem() {
	echo "compat: $*" >&2
	problems=$((problems + 1))
}

# rows FILE MACRO: the arguments of each row, as words.
rows() {
	sed -n "s/^$2(\(.*\))\$/\1/p" "$1" | tr -d ' ' | tr , ' '
}
mapfile -t calls < <(rows interpose/calls.def WEFT_CALL)
mapfile -t syscalls < <(rows interpose/syscalls.def WEFT_SYSCALL)
for file in calls syscalls; do
	declare -n list=$file
	if [ "${#list[@]}" -eq 0 ] ||
		[ "${#list[@]}" -ne "$(grep -c '^WEFT_' "interpose/$file.def")" ]; then
		echo "compat: interpose/$file.def has rows that this script cannot read" >&2
		exit 1
	fi
done
unset -n list

declare -A class=()
for row in "${syscalls[@]}"; do
	read -r name kind _ <<<"$row"
	class[$name]=$kind
	case $kind/${way[$name]:-} in
	EMULATED/ | OFFLOADED/ | NATIVE/) ;;
	PARKS/ring | PARKS/readiness | PARKS/timer | PARKS/table | PARKS/signal) ;;
	PARKS/*) problem "$name parks: notes() in this script has to say how" ;;
	*) problem "$name: class '$kind', way '${way[$name]:-}' in notes()" ;;
	esac
done
for name in "${!note[@]}"; do
	[ -n "${class[$name]:-}" ] || problem "notes() has a row for $name; syscalls.def has none"
done

# in_words SYSCALL
in_words() {
	case ${class[$1]:-}/${way[$1]:-} in
	PARKS/ring) echo 'parks in the ring' ;;
	PARKS/readiness) echo 'parks by readiness' ;;
	PARKS/timer) echo 'parks on a timer' ;;
	PARKS/table) echo 'parks in the wait table' ;;
	PARKS/signal) echo 'parks for a signal' ;;
	EMULATED/) echo emulated ;;
	OFFLOADED/) echo offloaded ;;
	NATIVE/) echo 'native, counted' ;;
	*) echo '?' ;; # a problem already
	esac
}

# The system call that decides how a libc function behaves on a fiber.
syscall_of() {
	case $1 in
	__*_chk)
		set -- "${1#__}"
		syscall_of "${1%_chk}"
		;;
	recv) echo recvfrom ;;
	send) echo sendto ;;
	sleep | usleep | nanosleep) echo clock_nanosleep ;;
	pthread_mutex_* | pthread_cond_*) echo futex ;;
	pthread_create | thrd_create) echo clone3 ;;
	closefrom) echo close_range ;;
	signalfd) echo signalfd4 ;;
	pthread_setname_np | pthread_getname_np) echo prctl ;;
	*) echo "$1" ;;
	esac
}

for row in "${calls[@]}"; do
	name=${row%% *}
	case $row in
	*\ THREAD) ;;
	*\ IO | *\ PLAIN | *\ SLEEP | *\ SYNC | *\ IDENT)
		[ -n "${class[$(syscall_of "$name")]:-}" ] ||
			problem "syscall_of() in this script does not know $name"
		;;
	*) problem "calls.def: unknown kind: $row" ;;
	esac
done

# The functions whose wrappers make a first attempt of their own (TRY in io.c).
tries() {
	awk '/^WEFT_EXPORT / { match($0, /[A-Za-z0-9_]+\(/)
		name = substr($0, RSTART, RLENGTH - 1) }
		/^\t+TRY\(/ { print name }
		/^\treturn [a-z]+\(/ || /^\t\treturn [a-z]+\(/ {
			match($0, /return [a-z]+\(/)
			calls[name] = substr($0, RSTART + 7, RLENGTH - 8) }
		END { for (name in calls) print name, calls[name] }' interpose/io.c |
		awk 'NF == 1 { own[$1] = 1; print $1 } NF == 2 { twin[$1] = $2 }
			END { for (name in twin) if (twin[name] in own) print name }'
}
declare -A first_try=()
while read -r name; do
	first_try[$name]=1
done < <(tries)

front_door() {
	local row name kind by first
	echo '| function | first attempt | under weft |'
	echo '|---|---|---|'
	for row in "${calls[@]}"; do
		read -r name _ kind <<<"$row"
		first=
		[ -z "${first_try[$name]:-}" ] || first='at the front door'
		case $kind in
		IO)
			by=$(in_words "$(syscall_of "$name")")
			first=${first:-at the site}
			;;
		PLAIN) by='emulated, at the site' ;;
		SLEEP)
			if [ "$name" = sched_yield ]; then
				by='lets other fibers run'
			else
				by=$(in_words "$(syscall_of "$name")")
			fi
			;;
		SYNC) by="libc's own code; when it has to wait, $(in_words futex)" ;;
		IDENT)
			case $name in
			clock_*) by='CPU time of fibers: kept by weft; other clocks: the vDSO' ;;
			*) by="the fiber's name" ;;
			esac
			;;
		THREAD)
			case $name in
			pthread_create | thrd_create) by='makes a fiber' ;;
			*) by="libc's helper thread stays a kernel thread" ;;
			esac
			;;
		*) by='?' ;; # a problem already
		esac
		echo "| \`$name\` | $first | $by |"
	done
}

back_door() {
	local row name kind again how
	echo '| system call | under weft | restarts | notes |'
	echo '|---|---|---|---|'
	for row in "${syscalls[@]}"; do
		read -r name kind again _ <<<"$row"
		how=$(in_words "$name")
		case $kind/$again in
		EMULATED/* | NATIVE/*) again= ;;
		*/1) again=yes ;;
		*) again=no ;;
		esac
		echo "| \`$name\` | $how | $again | ${note[$name]:-} |"
	done
}

tables() {
	echo "$begin"
	echo
	echo "### Functions that weft exports (${#calls[@]})"
	echo
	front_door
	echo
	echo "### System calls at libc's and ld.so's sites (${#syscalls[@]})"
	echo
	back_door
	echo
	echo "$end"
}

# A test calls the function, makes the system call by number, or has its name as a
# string; comments do not count.
tested() {
	sed -e 's://.*$::' -e '/^[[:space:]]*\/\?\*/d' -e 's/(/(\n/g' "${tests[@]}" |
		grep -oE '(^|[^A-Za-z0-9_.>])[A-Za-z_][A-Za-z0-9_]*\($|"[A-Za-z_][A-Za-z0-9_]*"|SYS_[a-z0-9_]+' |
		grep -oE '[A-Za-z_][A-Za-z0-9_]*' | sed 's/^SYS_//' | sort -u
}

# The libc function that makes a system call of another name.
function_of() {
	case $1 in
	clone3) echo pthread_create ;;
	exit_group) echo _exit ;;
	rt_sigaction) echo sigaction ;;
	rt_sigprocmask) echo pthread_sigmask ;;
	rt_sigpending) echo sigpending ;;
	rt_sigsuspend) echo sigsuspend ;;
	rt_sigtimedwait) echo sigwaitinfo ;;
	rt_sigqueueinfo) echo sigqueue ;;
	rt_tgsigqueueinfo) echo pthread_sigqueue ;;
	signalfd4) echo signalfd ;;
	pselect6) echo pselect ;;
	prlimit64) echo getrlimit ;;
	pread64) echo pread ;;
	pwrite64) echo pwrite ;;
	getdents64) echo readdir ;;
	mq_timedreceive) echo mq_receive ;;
	futex) echo pthread_cond_wait ;;
	openat) echo open ;;
	set_robust_list | rseq) echo pthread_create ;; # by libc, in each new thread
	*) echo "$1" ;;
	esac
}
mapfile -t tests < <(find tests/calls tests/programs -name '*.c' -o -name '*.cc')
if [ "${#tests[@]}" -eq 0 ]; then
	problem 'there are no tests'
else
	while read -r name; do
		problem "no test calls $name (tests/calls, tests/programs)"
	done < <(comm -23 <({
		printf '%s\n' "${calls[@]%% *}"
		for name in "${!class[@]}"; do
			function_of "$name"
		done
	} | sort -u) <(tested))
fi

new=$(tables)
case $mode in
print)
	echo "$new"
	;;
check | write)
	if ! grep -qxF -e "$begin" "$document" || ! grep -qxF -e "$end" "$document"; then
		echo "compat: $document has lost its markers" >&2
		exit 1
	fi
	whole=$(
		sed -n "/^$(sed 's/[]\/*.[]/\\&/g' <<<"$begin")\$/q;p" "$document"
		echo "$new"
		sed "1,/^$(sed 's/[]\/*.[]/\\&/g' <<<"$end")\$/d" "$document"
	)
	if [ "$mode" = write ]; then
		printf '%s\n' "$whole" >"$document"
	elif [ "$whole" != "$(cat "$document")" ]; then
		problem "$document is not what the tables say; run scripts/compat.sh"
	fi
	;;
esac
[ "$problems" -eq 0 ]
