#!/usr/bin/env bash
# Other people's test suites, natively and under weft, test by test.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'END'
usage: scripts/conformance.sh [OPTION]...

Runs every test of these suites natively and, if it passes, under weft:

  posix      the Open POSIX Test Suite (Debian's posixtestsuite): threads,
             semaphores, signals, timers, clocks, scheduling, fork; the functional
             tests and the stress programs for threads and semaphores
  glib       GLib's installed tests (libglib2.0-tests) of what uses threads
  stress-ng  stress-ng --verify: pthread, mutex, sem, futex, fork, signal, timer …

in these configurations, each compared with the native run on as many CPUs:

  default    weft as it comes
  cpu0       everything on one CPU
  migrate    every park ends on another carrier (WEFT_STRESS=migrate)

A test that passes natively and fails, hangs, crashes or is skipped under weft is
run again both ways, to tell what is flaky natively from what is weft's. What is not
there is installed or fetched first (scripts/setup.sh --suites, apt-get source).

  --suite LIST    only these, with commas between
  --config LIST   only these, with commas between
  --only REGEX    only tests whose name (posix/sem_wait/1-1) matches
  --jobs N        tests at once (number of CPUs)
  --retries N     how often to repeat what failed (3)
  --limit S       the longest a test may take (60)
  --build-dir DIR use what is built there; build nothing
  --no-setup      install nothing
  --list          print the names of the tests, and run nothing
  -h              this text

Every test has a hard time limit; none leaves a process behind, nor does this script,
however it ends. Run by root, tests run as user nobody. Results and the output of what
failed are kept in build/conformance. All of it takes about an hour on two CPUs.
Exit status: 0 when there is no regression, 1 otherwise.
END
}

suites=(posix glib stress-ng)
configs=(default cpu0 migrate)
only=
jobs=$(nproc)
retries=3
limit=60
build_dir=
setup=true
list_only=false

# choose NAME VALUE ALL...: the comma-separated VALUE into $chosen.
chosen=()
choose() {
	local name=$1 value=$2 one
	shift 2
	IFS=, read -r -a chosen <<<"$value"
	[ ${#chosen[@]} -gt 0 ] || fail "$name needs a value"
	for one in "${chosen[@]}"; do
		[[ " $* " == *" $one "* ]] || fail "$name $one: there are $*"
	done
}

while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--no-setup) setup=false ;;
	--list) list_only=true ;;
	--suite | --config | --only | --jobs | --retries | --limit | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--suite) choose "$1" "$2" "${suites[@]}" && suites=("${chosen[@]}") ;;
		--config) choose "$1" "$2" "${configs[@]}" && configs=("${chosen[@]}") ;;
		--only) only=$2 ;;
		--jobs) jobs=$2 ;;
		--retries) retries=$2 ;;
		--limit) limit=$2 ;;
		--build-dir) build_dir=$(realpath -- "$2") ;;
		esac
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
for number in "$jobs" "$retries" "$limit"; do
	[[ $number =~ ^[1-9][0-9]*$ ]] || fail "'$number' is not a number above 0"
done

begin_work
chmod 755 "$work"
results=$root/build/conformance
mkdir -p "$results"

# ----------------------------------------------------------------------
# What there is to run

if $setup; then
	"$root/scripts/setup.sh" --suites >"$work/setup.log" 2>&1 || {
		show_log "$work/setup.log"
		fail "scripts/setup.sh --suites failed"
	}
fi
if [ -z "$build_dir" ]; then
	build_release
	build_dir=$root/build/release
fi
confine=$build_dir/tests/confine
[ -x "$confine" ] || fail "no confine in $build_dir/tests"
# To where user nobody can read it.
cp "$build_dir/libweft.so" "$work/"
cp "$build_dir"/libweft-sites.so "$build_dir"/libweft-unwind.so "$work/" 2>/dev/null || true

# await LABEL FILE TOTAL: until the launched process ends, telling how many lines
# FILE has by then. Returns its status.
await() {
	local pid=$launched_pid told=$SECONDS ended=0
	while kill -0 "$pid" 2>/dev/null; do
		if $is_terminal || [ $((SECONDS - told)) -ge 15 ]; then
			status "$1: $(wc -l <"$2") of $3"
			told=$SECONDS
		fi
		sleep 0.2
	done
	wait "$pid" 2>/dev/null || ended=$?
	unset "launched[$pid]"
	return "$ended"
}

# each FILE LABEL PROGRESS FUNCTION: call it with each line of FILE, $jobs at a time.
# By way of a file: there is a sh between here and there, which drops functions from
# the environment.
each() {
	: >"$3"
	declare -f >"$work/functions"
	# shellcheck disable=SC2016 # it is the inner shell that expands it
	launch "$work/each.log" xargs -a "$1" -d '\n' -P "$jobs" -n 1 setpriv \
		--pdeathsig KILL -- bash -c '. "$1"; "$2" "$3"' bash "$work/functions" "$4"
	await "$2" "$3" "$(wc -l <"$1")" || true
}

# tests: a line for each: name, limit in seconds, command for the shell; by tabs.
tests=$work/tests
: >"$tests"
add_test() { # NAME LIMIT COMMAND
	if [ -z "$only" ] || [[ $1 =~ $only ]]; then
		printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$tests"
	fi
}

posix_source=$results/posixtestsuite

# The tests of the areas: those with a main() that leave the machine's clock alone.
# Of sigaction's 526, which differ by the number of the signal, the first three each.
# Left out of the rest: sem_philosopher and the scalability programs (s-c): they never
# end, or make threads until the machine has no process ids left.
posix_areas='pthread_[^/]*|sem_[^/]*|sig[^/]*|raise|kill|killpg|fork|nanosleep|clock_[^/]*'
posix_areas+='|timer_[^/]*|sched_[^/]*'
posix_files() {
	local conformance=conformance/interfaces
	(
		cd "$posix_source"
		find $conformance -regextype posix-extended -regex '.*/[0-9]+-[0-9]+\.c' |
			grep -E "^$conformance/($posix_areas)/" | grep -vE '/sigaction/([4-9]|[0-9]{2,})-' |
			xargs grep -lE '\bmain[[:space:]]*\(' |
			xargs grep -LE '\bclock_settime[[:space:]]*\('
		find functional/semaphores functional/threads functional/timers \
			stress/threads stress/semaphores -name '*.c' |
			grep -vE '/(sem_philosopher|testfrmw|threads_scenarii|helper|s-c[0-9]*)\.c$' |
			xargs grep -lE '\bmain[[:space:]]*\('
	) | sort
}

# Some tests lack an include, some clash with the GNU names: three ways to compile.
compile_posix() { # FILE
	local file=$1 out base
	out=$posix_programs/${file//\//__}
	out=${out%.c}
	base=(-w -std=gnu99 -fcommon "-I$posix_source/include"
		"-I$posix_source/functional/threads/include")
	cd "$posix_source/${file%/*}"
	if [ ! -e "$out" ] && [ ! -e "$out.failed" ]; then
		cc "${base[@]}" -D_POSIX_C_SOURCE=200112L -D_GNU_SOURCE "${file##*/}" \
			-o "$out.new" -lpthread -lrt -lm 2>"$out.log" ||
			cc "${base[@]}" -D_GNU_SOURCE -include signal.h -include fcntl.h \
				-include sys/stat.h "${file##*/}" -o "$out.new" \
				-lpthread -lrt -lm 2>>"$out.log" ||
			cc "${base[@]}" -D_POSIX_C_SOURCE=200112L -D_XOPEN_SOURCE=600 \
				-DSCHED_RESET_ON_FORK=0 "${file##*/}" -o "$out.new" \
				-lpthread -lrt -lm 2>>"$out.log" ||
			touch "$out.failed"
		[ ! -e "$out.new" ] || mv "$out.new" "$out"
	fi
	echo "$file" >>"$progress"
}

# Natively without end, as undefined or outdated as they are: not worth the full limit.
posix_endless='pthread_barrier_destroy/2-1|pthread_cond_destroy/speculative/4-1'
posix_endless+='|pthread_equal/2-1|fork/11-1|timer_settime/5-3|pthread_cond_broadcast/1-2'

# Race with themselves. pthread_detach/4-3 stops making threads while its senders of
# signals wait for the next thread to take one: natively it hangs in one run of eight
# (5 of 20, 6 of 40), and the more often, the sooner a thread is done.
posix_racy='pthread_detach/4-3'

add_posix() {
	local file name program seconds
	fetch_source posixtestsuite "$posix_source"
	posix_programs=$results/programs
	mkdir -p "$posix_programs" "$work/programs"
	posix_files >"$work/posix"
	progress=$work/progress
	export posix_source posix_programs progress
	each "$work/posix" "compiling posixtestsuite" "$progress" compile_posix
	while read -r file; do
		program=${file//\//__}
		program=${program%.c}
		[ -x "$posix_programs/$program" ] || continue
		cp "$posix_programs/$program" "$work/programs/"
		name=${file#conformance/interfaces/}
		name=${name%.c}
		program=$work/programs/$program
		seconds=$limit
		case $name in
		# These run until they are told.
		stress/threads/*/stress*) program="timeout -s USR1 --preserve-status 5 $program" ;;
		stress/semaphores/*) program+=' 100' ;;
		esac
		[[ ! $name =~ ^($posix_endless)$ ]] || seconds=8
		add_test "posix/$name" "$seconds" "$program"
	done <"$work/posix"
	say "posix: $(find "$posix_programs" -name '*.failed' | wc -l) of $(wc -l <"$work/posix") do not compile"
}

glib_tests='1bit-mutex 642026 642026-ec asyncqueue atomic bitlock cancellable cond contexts
	converter-stream gsubprocess mainloop mutex once onceinit overflow pollable private
	rec-mutex rwlock sleepy-stream slice-concurrent socket socket-address socket-listener
	socket-service spawn-multithreaded spawn-singlethread task thread thread-deprecated
	thread-pool thread-pool-slow threadtests timeout timer unix unix-fd unix-streams
	gdbus-peer gdbus-overflow async-close-output-stream async-splice-output-stream
	closure-refcount object objects-refcount1 objects-refcount2 properties-refcount1
	signals-refcount1 signal-handler performance-threaded'
add_glib() {
	local name file command
	for name in $glib_tests; do
		file=/usr/share/installed-tests/glib/$name.test
		[ -e "$file" ] || continue
		command=$(sed -n 's/^Exec=//p' "$file")
		add_test "glib/$name" 180 "env G_DEBUG=gc-friendly HOME=\$PWD $command"
	done
}

# Those of threads, locks, signals, timers and processes (0.15 has none for robust locks).
stressors='pthread mutex sem sem-sysv futex clone fork vfork vforkmany spawn signal sigq
	sigsuspend sigpending sigfd sigabrt sigio sigtrap signest
	sigrt timer timerfd nanosleep clock switch yield exec wait kill daemon zombie pipe sock
	poll epoll eventfd mq msg itimer alarm sigfpe sigsegv sigpipe sigchld context longjmp'
add_stress-ng() {
	local name
	for name in $stressors; do
		add_test "stress-ng/$name" "$limit" "stress-ng --$name 2 --verify --timeout 3s \
--temp-path \$PWD --oomable --no-rand-seed"
	done
}

for suite in "${suites[@]}"; do
	"add_$suite"
done
[ -s "$tests" ] || fail "no test's name matches '$only'"
if $list_only; then
	cut -f 1 "$tests"
	exit 0
fi
say "$(wc -l <"$tests") tests"

# ----------------------------------------------------------------------
# One test, one way

# verdict SUITE STATUS LOG: what a test said, in a word.
verdict() {
	case $2 in
	124) echo HANG && return ;;
	125) echo LEFTOVER && return ;;
	esac
	[ "$2" -le 128 ] || { echo CRASH && return; }
	case $1/$2 in
	posix/4) echo UNSUPPORTED ;;
	posix/5) echo UNTESTED ;;
	posix/2) echo UNRESOLVED ;;
	glib/77 | stress-ng/[34]) echo SKIP ;;
	stress-ng/0)
		# It passes, too, when it did nothing.
		if grep -qE 'skipped: [1-9]|skipping|not implemented' "$3" &&
			! grep -qE 'passed: [1-9]|successful run' "$3"; then
			echo SKIP
		else
			echo PASS
		fi
		;;
	*/0) echo PASS ;;
	*) echo FAIL ;;
	esac
}

# The parts of a test that passed, by its own account.
parts() { # LOG
	sed -nE '/# (SKIP|TODO)/d; s/^[[:space:]]*ok [0-9]+ (- )?//p' "$1" | sort
}

# run_one LINE: run a test in the way of $run_way (native-default, weft-migrate …) into
# $run_out; a line of $run_out/results: name, verdict, exit status, seconds.
run_one() {
	local name seconds command log status=0 begun confine_options=() environment=()
	IFS=$'\t' read -r name seconds command <<<"$1"
	log=$run_out/${name//\//__}.log
	mkdir -p "$run_out/home"
	chmod 1777 "$run_out/home"
	case $run_way in
	*-cpu0) confine_options=(--cpu0) ;;
	weft-migrate) environment=(WEFT_STRESS=migrate) ;;
	esac
	case $run_way in
	weft-*) environment+=("LD_PRELOAD=$work/libweft.so" "WEFT_STATS=$run_out/home/${log##*/}.stats") ;;
	esac
	local drop=()
	# One that makes threads without end must not take every process id there is.
	[ "$(id -u)" -ne 0 ] || drop=(setpriv --reuid nobody --regid nogroup --clear-groups --
		prlimit --nproc=8000 --)
	begun=${EPOCHREALTIME/./}
	(
		cd "$run_out/home"
		# Not the variables of who runs this.
		exec env -i PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 TZ=UTC TERM=dumb \
			HOME="$run_out/home" "$confine" --timeout "$seconds" "${confine_options[@]}" \
			--stdout "$log" --stderr "$log.err" -- "${drop[@]}" \
			sh -c 'export "$@"; exec '"$command" sh PWD="$run_out/home" "${environment[@]}"
	) 2>"$log.confine" || status=$?
	cat "$log.err" "$log.confine" >>"$log"
	rm -f "$log.err" "$log.confine"
	local word parts_missing=
	word=$(verdict "${name%%/*}" "$status" "$log")
	if [[ $run_way == weft-* ]] && [ "$word" = PASS ]; then
		if grep -q '^weft: running natively' "$log"; then
			word=NATIVE
		elif [ "${name%%/*}" = glib ]; then
			parts_missing=$(comm -23 <(parts "$compare/${log##*/}") <(parts "$log") | head -n 1)
			[ -z "$parts_missing" ] || word=LESS
		fi
	fi
	printf '%s\t%s\t%s\t%s.%s\n' "$name" "$word" "$status" \
		$(((${EPOCHREALTIME/./} - begun) / 1000000)) \
		$(((${EPOCHREALTIME/./} - begun) / 100000 % 10)) >>"$run_out/results"
}

export work confine

# run_all WAY FILE OUT LABEL: all lines of FILE.
run_all() {
	export run_way=$1 run_out=$3
	mkdir -p "$run_out"
	chmod 755 "$run_out"
	each "$2" "$4" "$run_out/results" run_one
	# What was to be run and left no result: the runner itself failed.
	[ "$(wc -l <"$run_out/results")" -eq "$(wc -l <"$2")" ] || {
		show_log "$work/each.log"
		fail "only $(wc -l <"$run_out/results") of $(wc -l <"$2") tests were run"
	}
}

# passed FILE OUT: the lines of tests that passed in OUT; failed FILE OUT [WORD]: those
# that neither did nor had that verdict.
passed() {
	awk -F'\t' 'NR == FNR { if ($2 == "PASS") ok[$1] = 1; next } $1 in ok' "$2/results" "$1"
}
failed() {
	awk -F'\t' -v word="${3:-}" 'NR == FNR { if ($2 == "PASS" || $2 == word) ok[$1] = 1; next }
		!($1 in ok)' "$2/results" "$1"
}

# result_of NAME OUT: verdict (exit status)
result_of() {
	awk -F'\t' -v name="$1" '$1 == name { print $2 " (status " $3 ", " $4 " s)" }' "$2/results"
}

# ----------------------------------------------------------------------
# Natively: what passes once in two attempts is worth a comparison

native_all() { # CPUS: default or cpu0
	local out=$work/native-$1
	[ ! -e "$out" ] || return 0
	run_all "native-$1" "$tests" "$out" "natively ($1)"
	failed "$tests" "$out" HANG >"$work/again" # those would only hang again
	if [ -s "$work/again" ]; then
		run_all "native-$1" "$work/again" "$out.again" "natively once more ($1)"
		passed "$work/again" "$out.again" | cut -f 1 >"$work/second"
		while read -r name; do
			awk -F'\t' -v OFS='\t' -v name="$name" '$1 == name { $2 = "PASS" } 1' \
				"$out/results" >"$out/results.new"
			mv "$out/results.new" "$out/results"
			cp "$out.again/${name//\//__}.log" "$out/"
		done <"$work/second"
	fi
	cp "$out/results" "$results/native-$1.tsv"
}

regressions=()
compare_config() { # CONFIG
	local config=$1 cpus=default out=$work/weft-$1 name round native weft
	[ "$config" != cpu0 ] || cpus=cpu0
	native_all "$cpus"
	export compare=$work/native-$cpus
	passed "$tests" "$compare" >"$work/candidates"
	run_all "weft-$config" "$work/candidates" "$out" "under weft ($config)"
	cp "$out/results" "$results/weft-$config.tsv"
	failed "$work/candidates" "$out" >"$work/suspects-$config"
	declare -A good_native=() good_weft=()
	# One by one now: what fails only beside others is no fault of its own.
	local jobs=1
	for ((round = 1; round <= retries; round++)); do
		[ -s "$work/suspects-$config" ] || break
		run_all "native-$cpus" "$work/suspects-$config" "$work/retry-native-$config-$round" \
			"again natively ($config, $round of $retries)"
		run_all "weft-$config" "$work/suspects-$config" "$work/retry-weft-$config-$round" \
			"again under weft ($config, $round of $retries)"
		while read -r name; do
			good_native[$name]=$((${good_native[$name]:-0} + 1))
		done < <(passed "$work/suspects-$config" "$work/retry-native-$config-$round" | cut -f 1)
		while read -r name; do
			good_weft[$name]=$((${good_weft[$name]:-0} + 1))
		done < <(passed "$work/suspects-$config" "$work/retry-weft-$config-$round" | cut -f 1)
	done
	say "$config: $(wc -l <"$tests") tests, $(wc -l <"$work/candidates") pass natively, $(
		passed "$work/candidates" "$out" | wc -l) of them at once under weft; weft was at work in $(
		find "$out/home" -name '*.stats' | wc -l)"
	while read -r name; do
		native=${good_native[$name]:-0}
		weft=${good_weft[$name]:-0}
		mkdir -p "$results/failed-$config"
		cp "$out/${name//\//__}.log" "$results/failed-$config/"
		if [[ ${name#posix/} =~ ^($posix_racy)$ ]]; then
			echo "  races           $name: $(result_of "$name" "$out");" \
				"again: natively $native of $retries pass, under weft $weft"
			continue
		fi
		# Weft did nothing, for there is no thread: the machine was busy. (Not judged
		# by the run that failed: one that is killed leaves no statistics.)
		if [ "$weft" -eq "$retries" ] &&
			[ ! -e "$work/retry-weft-$config-1/home/${name//\//__}.log.stats" ]; then
			echo "  flaky           $name: $(result_of "$name" "$out");" \
				"makes no thread; again: under weft $weft of $retries pass"
			continue
		fi
		# All tests share one user's limits with the stress programs beside them.
		if [ "$weft" -eq "$retries" ] && grep -qE \
			'^weft: running natively: .*(no memory is left|no thread may be made)' \
			"$out/${name//\//__}.log"; then
			echo "  starved         $name: $(result_of "$name" "$out");" \
				"alone: under weft $weft of $retries pass"
			continue
		fi
		# Flaky natively: fails there, too, and passes under weft at times. What
		# happens once in ten runs takes more of them to be seen.
		if [ "$native" -eq "$retries" ] && [ "$weft" -gt 0 ]; then
			awk -F'\t' -v name="$name" '$1 == name' "$tests" >"$work/one"
			for ((round = 1; round <= 20 && native == retries; round++)); do
				run_all "native-$cpus" "$work/one" "$work/more-$config-$round" \
					"natively: $name ($round of 20)"
				[ -n "$(passed "$work/one" "$work/more-$config-$round")" ] || native=-$round
			done
		fi
		if [ "$native" -lt 0 ]; then
			echo "  flaky natively  $name: $(result_of "$name" "$out");" \
				"natively it fails, too, in run ${native#-} of more;" \
				"under weft $weft of $retries pass"
			continue
		fi
		if [ "$native" -lt "$retries" ] && { [ "$weft" -gt 0 ] || [ "$native" -eq 0 ]; }; then
			echo "  flaky natively  $name: $(result_of "$name" "$out");" \
				"again: natively $native of $retries pass, under weft $weft"
			continue
		fi
		echo "  REGRESSION      $name: $(result_of "$name" "$out");" \
			"again: natively $native of $retries pass, under weft $weft"
		regressions+=("$config: $name")
	done < <(cut -f 1 "$work/suspects-$config")
}

rm -rf "$results"/failed-*
for config in "${configs[@]}"; do
	compare_config "$config"
done
if [ ${#regressions[@]} -gt 0 ]; then
	say "${#regressions[@]} regressions; their output is in $results/failed-*"
	exit 1
fi
say "no regressions"
