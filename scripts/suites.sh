#!/usr/bin/env bash
# CPython's own tests of what blocks, natively and under weft, test by test.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'END'
usage: scripts/suites.sh [OPTION]...

Runs modules of Python's own test package (Debian's libpython3.11-testsuite, which
scripts/setup.sh --suites installs) natively and then under weft, and compares test by
test. A module in which a test that passed natively does not pass under weft is run
again, both ways.

  --only REGEX     only modules whose name (test_select) matches
  --python COMMAND what runs them (python3.11)
  --retries N      how often to repeat (2)
  --limit S        the longest a module may take (300)
  --build-dir DIR  use what is built there; build nothing
  --no-setup       install nothing
  -h               this text

Root runs them as user nobody. The results are kept in build/suites. All of it takes
about a quarter of an hour. Exit status: 0 when there is no regression, 1 otherwise.
END
}

modules='test_select test_selectors test_poll test_epoll test_socketserver test_httpservers
	test_xmlrpc test_urllib2_localnet test_smtplib test_timeout test_subprocess test_popen
	test_fork1 test_wait3 test_wait4 test_thread test_threading test_threading_local
	test_threadedtempfile test_threadsignals test_queue test_logging test_sched test_time'
only=
python=python3.11
retries=2
limit=300
build_dir=
setup=true
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--no-setup) setup=false ;;
	--only | --python | --retries | --limit | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
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
"$python" -c 'import test.test_select' 2>/dev/null ||
	fail "$python has no test package (Debian: libpython3.11-testsuite)"

# Prints "id result" for each test to the file in argv[2]; whole lines, as they end, so
# that a hang or a crash leaves what was there.
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

as_nobody=()
[ "$(id -u)" -ne 0 ] || as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups --)

# run_module MODULE WAY: the lines of the tests, sorted, in $work/MODULE.WAY. A hang, a
# crash, or processes left behind show in the line of the end.
run_module() {
	local out=$work/$1.$2 folder=$work/folder.$1.$2 preload=() ended=0
	[ "$2" = native ] || preload=("LD_PRELOAD=$work/libweft.so")
	rm -rf "$folder"
	mkdir -m 777 "$folder"
	: >"$out.new"
	chmod 666 "$out.new"
	(
		cd "$folder"
		"$work/confine" --timeout "$limit" --stdout "$results/$1.$2.out" \
			--stderr "$results/$1.$2.log" -- "${as_nobody[@]}" \
			env "TMPDIR=$folder" HOME="$folder" "${preload[@]}" \
			"$python" -B "$work/driver.py" "$1" "$out.new"
	) </dev/null >/dev/null 2>&1 || ended=$?
	[ "$ended" -eq 0 ] || echo "status $ended" >>"$out.new"
	sort -o "$out" "$out.new"
	rm -rf "$folder" "$out.new"
	cp "$out" "$results/"
}

# regressions MODULE: what passes natively, and not under weft.
regressions() {
	comm -23 <(grep ' PASS$' "$work/$1.native") <(grep ' PASS$' "$work/$1.weft")
	comm -13 <(grep '^status' "$work/$1.native") <(grep '^status' "$work/$1.weft")
}

passed=0
bad=()
for module in $modules; do
	[ -z "$only" ] || [[ $module =~ $only ]] || continue
	status "$module"
	for ((try = 0; try <= retries; try++)); do
		run_module "$module" native
		run_module "$module" weft
		lost=$(regressions "$module")
		[ -n "$lost" ] || break
	done
	n=$(grep -c ' PASS$' "$work/$module.weft" || true)
	passed=$((passed + n))
	if [ -n "$lost" ]; then
		bad+=("$module")
		say "$module: $n pass; regressions:"
		printf "    %s\n" "${lost//$'\n'/$'\n'    }"
	else
		say "$module: $n pass, as natively$([ "$try" -eq 0 ] || echo ", at attempt $((try + 1))")"
	fi
done
[ "$passed" -gt 0 ] || fail "nothing ran that passed; see $results"
if [ ${#bad[@]} -gt 0 ]; then
	fail "regressions in ${bad[*]}; output in $results"
fi
say "$passed tests pass, no regression"
