#!/usr/bin/env bash
# Whether every test that contracts.def names exists, and every difference is documented;
# and whether the unit tests of an engine run on that engine.
set -euo pipefail
if [ $# -ne 1 ] || [ "$1" = -h ]; then
	echo "usage: contracts.sh BUILDDIR" >&2
	exit 2
fi
build=$1
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

declare -A known=()
while read -r name; do
	known[$name]=1
	known[${name%.*}]=1
done < <(
	ctest --test-dir "$build" -N | sed -n 's/^ *Test *#[0-9]*: //p' | sed 's/ *(Disabled)$//'
	find "$tests" -name '*.cc' -exec sed -nE \
		's/^TEST(_F|_P)?\(([A-Za-z0-9_]+), *([A-Za-z0-9_]+)\).*/\2.\3/p' {} +
)
# Allocators that are not installed have no tests: the configuration says so.
optional='^(jemalloc|tcmalloc)_(first|last)$'

documents=$(cat "$tests/../COMPATIBILITY.md" "$tests/../README.md" | tr -s ' \n' ' ')
contracts=0 failures=0
problem() {
	echo "contracts.def: $*"
	failures=$((failures + 1))
}
while IFS= read -r row; do
	contracts=$((contracts + 1))
	if [[ $row =~ ^CONTRACT\(\"([^\"]*)\",\ ([^\"]*)\)$ ]]; then
		what=${BASH_REMATCH[1]}
		for name in ${BASH_REMATCH[2]}; do
			[ -n "${known[$name]:-}" ] || [[ $name =~ $optional ]] ||
				problem "\"$what\" names $name, which is no test"
		done
	elif [[ $row =~ ^DIFFERENCE\(\"([^\"]*)\",\ \"([^\"]*)\"\)$ ]]; then
		[[ $documents == *"${BASH_REMATCH[2]}"* ]] ||
			problem "\"${BASH_REMATCH[1]}\": no document has these words"
	else
		problem "cannot read: $row"
	fi
done < <(sed -zE 's,/\*([^*]|\*+[^*/])*\*+/,,g' "$tests/contracts.def" | tr -s ' \t\n' ' ' |
	sed -E 's/ ?(CONTRACT|DIFFERENCE)\(/\n\1(/g; s/ $//' | sed '/^$/d; s/) $/)/')
lost=$(ctest --test-dir "$build" --show-only=json-v1 | python3 -c '
import json, sys
for test in json.load(sys.stdin)["tests"]:
    kind = test["name"].split(".")[1:2]
    want = {"gs": "WEFT_TEST_BASES", "epoll": "WEFT_TEST_ENGINE",
            "oldkernel": "WEFT_TEST_ENGINE"}.get(kind[0] if kind else "")
    properties = {p["name"]: p["value"] for p in test["properties"]}
    if test["name"].startswith("unit.") and want and \
            f"{want}={kind[0]}" not in properties.get("ENVIRONMENT", []):
        print(test["name"])
')
for name in $lost; do
	problem "$name is a test like any other: its environment was lost (unit/CMakeLists.txt)"
done
[ "$contracts" -gt 50 ] || problem "only $contracts rows"
[ "$failures" -eq 0 ] && echo "$contracts contracts"
exit $((failures > 0))
