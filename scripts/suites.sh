#!/usr/bin/env bash
# Other people's tests of what blocks, natively and under weft, test by test.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'END'
usage: scripts/suites.sh [OPTION]...

Runs these suites natively and then under weft, and compares test by test:

  python  modules of Python's own test package (Debian's libpython3.11-testsuite):
          select, sockets, servers, processes, threads, signals, time
  libuv   libuv's own tests (Debian's source package libuv1): loops in threads, thread
          pools, locks, pipes, terminals, sockets, processes, signals
  apr     the Apache Portable Runtime's (source package apr): every kind of lock, also
          between processes, condition variables, poll sets, sockets, pipes, thread pools

A module, or a program, in which a test that passed natively does not pass under weft
is run again, both ways. What is not there is installed or fetched first
(scripts/setup.sh --suites, apt-get source).

  --suite LIST     only these, with commas between
  --engine LIST    how weft waits in the kernel: auto (as it comes), epoll
                   (WEFT_ENGINE=epoll), old (WEFT_URING=-5.15: io_uring as Linux 5.15
                   has it); both is auto,epoll (both)
  --only REGEX     only what matches: python/test_select, libuv/tcp_ping_pong
  --python COMMAND what runs Python's modules (python3.11)
  --retries N      how often to repeat (2)
  --limit S        the longest a module or a program may take (300)
  --build-dir DIR  use what is built there; build nothing
  --no-setup       install nothing
  -h               this text

Root runs them as user nobody. The results are kept in build/suites. All of it takes
about half an hour. Exit status: 0 when there is no regression, 1 otherwise.
END
}

modules='test_select test_selectors test_poll test_epoll test_socketserver test_httpservers
	test_xmlrpc test_urllib2_localnet test_smtplib test_timeout test_subprocess test_popen
	test_fork1 test_wait3 test_wait4 test_thread test_threading test_threading_local
	test_threadedtempfile test_threadsignals test_queue test_logging test_sched test_time'
suites=(python libuv apr)
engines=(auto epoll)
only=
python=python3.11
retries=2
limit=300
build_dir=
setup=true

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
	--suite | --engine | --only | --python | --retries | --limit | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--suite) choose "$1" "$2" "${suites[@]}" && suites=("${chosen[@]}") ;;
		--engine)
			choose "$1" "${2/both/auto,epoll}" auto epoll old &&
				engines=("${chosen[@]}")
			;;
		--only) only=$2 ;;
		--python) python=$2 ;;
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

begin_work
chmod 755 "$work"
results=$root/build/suites
mkdir -p "$results"
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
# To where user nobody can read it.
cp "$build_dir/libweft.so" "$build_dir/tests/confine" "$work/"
cp "$build_dir"/libweft-sites.so "$build_dir"/libweft-unwind.so "$work/" 2>/dev/null || true

as_nobody=()
[ "$(id -u)" -ne 0 ] || as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups --)

# make_it LABEL FOLDER COMMAND: a shell command there, within ten minutes.
make_it() {
	# shellcheck disable=SC2016 # it is the inner shell that expands it
	launch "$work/make.log" nice sh -c 'cd "$1" && eval "$2"' sh "$2" "$3"
	finish "$launched_pid" 600 "$1" || {
		show_log "$work/make.log"
		fail "$1: failed"
	}
}

# ----------------------------------------------------------------------
# Each suite: prepare_SUITE, units_SUITE (names, one a line), command_SUITE UNIT OUT
# FOLDER (into $command; it runs in FOLDER and may write to OUT) and results_SUITE UNIT
# LOG OUT (lines "id PASS", "id FAIL" or "id SKIP").

prepare_python() {
	"$python" -c 'import test.test_select' 2>/dev/null ||
		fail "$python has no test package (Debian: libpython3.11-testsuite)"
	write_driver
}

# Prints "id result" for each test to the file in argv[2]; whole lines, as they end, so
# that a hang or a crash leaves what was there.
write_driver() {
	cat >"$work/driver.py" <<'END'
import os, sys, unittest
from test import support

module, out = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
sys.argv = sys.argv[:1]
support.use_resources = ['cpu', 'subprocess', 'walltime', 'network']
me = os.getpid()

class Result(unittest.TextTestResult):
    word = 'PASS'
    def startTest(self, test):
        self.word = 'PASS'
        super().startTest(test)
    def stopTest(self, test):
        super().stopTest(test)
        if os.getpid() == me:
            os.write(out, ('%s %s\n' % (test.id(), self.word)).encode())
    def addError(self, test, err):
        self.word = 'FAIL'
        super().addError(test, err)
    def addFailure(self, test, err):
        self.word = 'FAIL'
        super().addFailure(test, err)
    def addSubTest(self, test, subtest, err):
        if err:
            self.word = 'FAIL'
        super().addSubTest(test, subtest, err)
    def addSkip(self, test, reason):
        self.word = 'SKIP'
        super().addSkip(test, reason)

suite = unittest.defaultTestLoader.loadTestsFromName('test.' + module)
unittest.TextTestRunner(resultclass=Result, verbosity=2).run(suite)
os.write(out, b'end PASS\n')
END
}

units_python() {
	tr -s ' \t' '\n' <<<"$modules"
}

command_python() {
	command=("$python" -B "$work/driver.py" "$1" "$2")
}

results_python() {
	cat "$3"
}

# Some tests write files next to those that they read.
prepare_libuv() {
	local source=$results/libuv1 programs=$results/libuv-build
	fetch_source libuv1 "$source"
	if [ ! -x "$programs/uv_run_tests" ]; then
		mkdir -p "$programs"
		make_it "building libuv" "$programs" "cmake -G Ninja -DBUILD_TESTING=ON \
			-DCMAKE_BUILD_TYPE=RelWithDebInfo '$source' && ninja uv_run_tests"
	fi
	cp -r "$source" "$work/libuv"
	cp "$programs/uv_run_tests" "$work/libuv/"
	cp -P "$programs"/libuv.so* "$work/libuv/"
	chmod 1777 "$work/libuv" "$work/libuv/test" "$work/libuv/test/fixtures"
}

# It refuses to run as root. What a program prints is not what a test of it finds.
units_libuv() {
	(cd "$work/libuv" && "${as_nobody[@]}" env "LD_LIBRARY_PATH=$work/libuv" \
		./uv_run_tests --list) | awk '$1 != "platform_output" { print $1 }'
}

command_libuv() {
	command=(env "LD_LIBRARY_PATH=$work/libuv" RES_OPTIONS=attempts:0
		UV_TEST_TIMEOUT_MULTIPLIER=5 sh -c "cd '$work/libuv' && exec ./uv_run_tests $1")
}

results_libuv() {
	case $(grep -E '^(not )?ok [0-9]+ - ' "$2" | tail -n 1) in
	*'# SKIP'*) echo "$1 SKIP" ;;
	ok*) echo "$1 PASS" ;;
	*) echo "$1 FAIL" ;;
	esac
}

prepare_apr() {
	local source=$results/apr programs=$results/apr-build
	fetch_source apr "$source"
	if [ ! -x "$programs/test/testall" ]; then
		rm -rf "$programs"
		cp -r "$source" "$programs"
		make_it "building apr" "$programs" "./configure --enable-threads &&
			make -j $(nproc) && cd test && make -j $(nproc) all"
	fi
	cp -r "$programs/test" "$work/apr"
	find "$work/apr" -type d -exec chmod 777 {} +
	chmod 1777 "$work/apr"
	mkdir "$work/apr-libs"
	cp -P "$programs"/.libs/libapr-1.so* "$work/apr-libs/"
}

units_apr() {
	(cd "$work/apr" && LD_LIBRARY_PATH=$work/apr-libs ./testall -l) | grep -o 'test[a-z0-9]*'
}

command_apr() {
	command=(env "LD_LIBRARY_PATH=$work/apr-libs" \
		sh -c "cd '$work/apr' && exec ./testall -v $1")
}

results_apr() {
	if grep -q 'All tests passed' "$2"; then echo "$1 PASS"; else echo "$1 FAIL"; fi
}

# ----------------------------------------------------------------------
# Running

# run_unit SUITE UNIT WAY: the lines of the tests, sorted, in $work/SUITE.UNIT.WAY. A
# hang, a crash, or processes left behind show in the line of the end.
command=()
run_unit() {
	local name=$1.$2.$3 folder=$work/folder.$1.$2.$3 preload=() ended=0 out log
	out=$work/$name.new
	log=$results/$name.log
	case $3 in
	auto) preload=("LD_PRELOAD=$work/libweft.so") ;;
	epoll) preload=("LD_PRELOAD=$work/libweft.so" WEFT_ENGINE=epoll) ;;
	old) preload=("LD_PRELOAD=$work/libweft.so" WEFT_ENGINE=io_uring WEFT_URING=-5.15) ;;
	esac
	rm -rf "$folder"
	mkdir -m 777 "$folder"
	: >"$out"
	chmod 666 "$out"
	"command_$1" "$2" "$out"
	(
		cd "$folder"
		"$work/confine" --timeout "$limit" --stdout "$log.out" \
			--stderr "$log" -- "${as_nobody[@]}" \
			env "TMPDIR=$folder" HOME="$folder" "${preload[@]}" "${command[@]}"
	) </dev/null >/dev/null 2>&1 || ended=$?
	cat "$log.out" >>"$log"
	rm "$log.out"
	"results_$1" "$2" "$log" "$out" >"$out.2"
	[ "$ended" -eq 0 ] || echo "status $ended" >>"$out.2"
	sort -o "$work/$name" "$out.2"
	rm -rf "$folder" "$out" "$out.2"
	cp "$work/$name" "$results/"
}

# regressions NAME WAY: what passes natively, and not under weft.
regressions() {
	comm -23 <(grep ' PASS$' "$work/$1.native") <(grep ' PASS$' "$work/$1.$2")
	comm -13 <(grep '^status' "$work/$1.native") <(grep '^status' "$work/$1.$2")
}

# compare SUITE UNIT WAY: runs it there, and again both ways while it is worse.
declare -A passed=()
bad=()
compare() {
	local name=$1.$2 try n
	for ((try = 0; try <= retries; try++)); do
		[ "$try" -eq 0 ] || run_unit "$1" "$2" native
		run_unit "$1" "$2" "$3"
		lost=$(regressions "$name" "$3")
		[ -n "$lost" ] || break
	done
	n=$(grep -c ' PASS$' "$work/$name.$3" || true)
	passed[$1.$3]=$((${passed[$1.$3]:-0} + n))
	if [ -n "$lost" ]; then
		bad+=("$1/$2 ($3)")
		say "$1/$2 ($3): $n pass; regressions:"
		printf "    %s\n" "${lost//$'\n'/$'\n'    }"
	elif [ "$n" -gt 1 ] || [ "$try" -gt 0 ]; then
		say "$1/$2 ($3): $n pass, as natively$([ "$try" -eq 0 ] || echo ", at attempt $((try + 1))")"
	fi
}

for suite in "${suites[@]}"; do
	"prepare_$suite"
	mapfile -t units < <("units_$suite")
	[ ${#units[@]} -gt 0 ] || fail "$suite has no tests"
	for unit in "${units[@]}"; do
		[ -z "$only" ] || [[ $suite/$unit =~ $only ]] || continue
		status "$suite/$unit"
		run_unit "$suite" "$unit" native
		for engine in "${engines[@]}"; do
			compare "$suite" "$unit" "$engine"
		done
	done
	for engine in "${engines[@]}"; do
		say "$suite ($engine): ${passed[$suite.$engine]:-0} tests pass"
	done
done
[ ${#passed[@]} -gt 0 ] || fail "nothing ran; see $results"
for one in "${!passed[@]}"; do
	[ "${passed[$one]}" -gt 0 ] || fail "$one: nothing passed; see $results"
done
if [ ${#bad[@]} -gt 0 ]; then
	fail "regressions in ${bad[*]}; output in $results"
fi
say "no regression"
