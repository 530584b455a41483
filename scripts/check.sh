#!/usr/bin/env bash
# What can be checked without running weft: the shape of sources, libraries, documents.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/check.sh [-h | --sources] [--strict] [BUILDDIR]

Checks, after a build in BUILDDIR (build/release), what no test would notice:

  format       sources are laid out as .clang-format says (scripts/format.sh)
  includes     go one way: preload/ -> interpose/ -> runtime/; *_impl.h stay at home
  one place    liburing.h in ring.c, libunwind.h in unwind.c, Zydis in the finder
  language     no thread-local variables, no allocation, no unfinished business
  symbols      exports, imports, memory protection (scripts/symbols.sh)
  documents    COMPATIBILITY.md is up to date and every exported call has a test
               (scripts/compat.sh); links between documents lead somewhere
  scripts      all parse, are strict and answer -h; shellcheck is content

  --sources    only what needs no build
  --strict     a missing tool is a failure

One line per check: ok, FAIL with the reason, or skip where a tool is missing. Exit
status 1 when one fails.
END
}

build=build/release
sources_only=false
strict=false
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--sources) sources_only=true ;;
	--strict) strict=true ;;
	-*) usage >&2 && exit 2 ;;
	*) build=$(realpath -- "$1") ;;
	esac
	shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C

failures=0
# verdict CHECK PROBLEMS: what was found wrong, a line each; nothing is good.
verdict() {
	if [ -z "$2" ]; then
		printf 'ok    %s\n' "$1"
	else
		printf 'FAIL  %s: %s\n' "$1" "${2//$'\n'/; }"
		failures=$((failures + 1))
	fi
}
skip() {
	printf 'skip  %s: %s\n' "$1" "$2"
	! $strict || failures=$((failures + 1))
}

# ---- format

status=0
unformatted=$(scripts/format.sh --check 2>&1) || status=$?
case $status in
77) skip format "$unformatted" ;;
0 | 1) verdict format "${unformatted:+run scripts/format.sh: $unformatted}" ;;
*) verdict format "scripts/format.sh: ${unformatted:-status $status}" ;;
esac

# ---- sources

mapfile -t sources < <(find runtime interpose preload -type f \
	\( -name '*.[chS]' -o -name '*.def' \) | sort)
mapfile -t everything < <(find runtime interpose preload tests demos -type f \
	\( -name '*.[chS]' -o -name '*.cc' -o -name '*.def' \) | sort)

# included FILE...: "FILE<tab>HEADER" for each #include, HEADER with its <> or "".
included() {
	awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*/) {
		name = substr($0, RSTART + RLENGTH)
		if (match(name, /^("[^"]*"|<[^>]*>)/))
			print FILENAME "\t" substr(name, RSTART, RLENGTH)
	}' "$@"
}

# Rooms by number: a file may include from rooms with numbers up to its own.
declare -A room=([runtime]=1 [interpose]=2 [preload]=3)

directions() {
	local file header from to
	while IFS=$'\t' read -r file header; do
		[[ $header == \"* ]] || continue
		header=${header//\"/}
		# Beside the file that includes it, or from the project's root.
		if [ -e "${file%/*}/$header" ]; then
			header=$(realpath -m --relative-to=. -- "${file%/*}/$header")
		elif [ ! -e "$header" ]; then
			echo "$file includes $header, which is not there"
			continue
		fi
		from=${file%%/*}
		to=${header%%/*}
		if [ "${room[$to]:-9}" -gt "${room[$from]}" ]; then
			echo "$file includes $header"
		elif [[ $header == *_impl.h ]] && [ "$from" != "$to" ]; then
			echo "$file includes $header, which is for $to/ alone"
		fi
	done < <(included "${sources[@]}")
}
verdict 'includes go preload -> interpose -> runtime' "$(directions)"

demos_include_weft() {
	included "${everything[@]}" | awk -F '\t' '$1 ~ /^demos\// &&
		$2 ~ /(runtime|interpose|preload)\// { print $1 " includes " $2 }'
}
verdict 'demos include nothing of weft' "$(demos_include_weft)"

# only_in_file HEADER FILE...: those of the rooms that may include it.
only_in_file() {
	local pattern=$1 file
	shift
	included "${sources[@]}" | awk -F '\t' -v p="$pattern" '$2 ~ p {print $1}' |
		sort -u | while read -r file; do
		[[ " $* " == *" $file "* ]] || echo "$file includes $pattern"
	done
}
verdict 'liburing.h in ring.c only' "$(only_in_file liburing.h runtime/ring.c)"
verdict 'libunwind.h in unwind.c only' "$(only_in_file libunwind runtime/unwind.c)"
verdict 'Zydis.h in the finder only' "$(only_in_file Zydis interpose/finder_impl.h)"

# The code of a file without its comments and strings, lines as they were.
code_of() {
	perl -0777 -pe 's{("(?:\\.|[^"\\\n])*")|(/\*.*?\*/)|(//[^\n]*)}
		{ my $c = $2 // ""; defined $1 ? q("") : "\n" x ($c =~ tr/\n//) }gsex' "$1"
}

# code_with PATTERN FILE...: where the code has it.
code_with() {
	local pattern=$1 file
	shift
	for file in "$@"; do
		code_of "$file" | grep -nE "$pattern" |
			sed "s|^\([0-9]*\):[[:space:]]*|$file:\1: |" || true
	done
}

verdict 'no thread-local variables' \
	"$(code_with '\b(__thread|_Thread_local|thread_local)\b' "${sources[@]}")"

# What may run on a fiber, or before libc can. The finder never does.
mapfile -t fiber_code < <(printf '%s\n' "${sources[@]}" |
	grep -E '^(runtime|interpose)/' |
	grep -vE '^interpose/(site_finder\.|finder_|sitegen\.c|sites_plugin\.c)')
calls='malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|aligned_alloc|posix_memalign'
calls+='|f?printf|abort|exit|pthread_[a-z_]+|dlsym|dlvsym|getenv'
# A call; not a member, a definition of weft's export, or a mention behind a dot.
verdict 'no allocation and none of libc in runtime/' "$(
	mapfile -t files < <(printf '%s\n' "${fiber_code[@]}" | grep '^runtime/')
	code_with "(^|[^A-Za-z0-9_.>])($calls)[[:space:]]*\(" "${files[@]}"
)"
verdict 'no allocation in interpose/' "$(
	mapfile -t files < <(printf '%s\n' "${fiber_code[@]}" | grep '^interpose/')
	code_with '(^|[^A-Za-z0-9_.>])(m|c|re)alloc[[:space:]]*\(|[^A-Za-z0-9_.>](free|strdup|dlsym)[[:space:]]*\(' \
		"${files[@]}"
)"
verdict 'nothing is left to be done later' "$(
	grep -nwE 'TODO|FIXME|HACK' "${everything[@]}" | cut -c1-80 || true
)"

# ---- what was built

if $sources_only; then
	skip symbols '--sources'
else
	scripts/symbols.sh "$build" || failures=$((failures + 1))
fi

# ---- documents

verdict 'COMPATIBILITY.md and tests follow calls.def and syscalls.def' \
	"$(scripts/compat.sh --check 2>&1 || [ $? -eq 1 ] || echo 'scripts/compat.sh failed')"

mapfile -t documents < <(find . -maxdepth 2 -name '*.md' -not -path './build/*' | sort)
dead_links() {
	local document target
	for document in "${documents[@]}"; do
		while read -r target; do
			[[ $target == *://* || $target == '#'* ]] && continue
			[ -e "${document%/*}/${target%%#*}" ] ||
				echo "${document#./} links to $target"
		done < <(grep -oE '\]\([^) ]+\)' "$document" | sed 's/^](//; s/)$//')
	done
}
verdict 'links between documents' "$(dead_links)"

# The environment variables that a document may name.
options() {
	sed -n 's/^WEFT_OPTION([A-Z_]*, *"\([A-Z_]*\)".*/\1/p' preload/options.def
}
verdict 'README.md names every option for everybody, and no other' "$(
	all=$(options)
	grep -oE '\bWEFT_[A-Z]+\b' README.md | sort -u |
		grep -vxF -e "$all" | sed 's/$/ is no option/' || true
	sed -n 's/^WEFT_OPTION([A-Z_]*, *"\([A-Z_]*\)", *USER,.*/\1/p' preload/options.def |
		while read -r name; do
			grep -qw "$name" README.md || echo "$name is not in README.md"
		done
)"

# ---- scripts

mapfile -t verbs < <(find scripts -maxdepth 1 -name '*.sh' | sort)
mapfile -t shells < <(printf '%s\n' "${verbs[@]}" .ci/run
	find tests -name '*.sh' | sort)

verdict 'scripts parse' "$(
	for script in "${shells[@]}"; do
		if head -n 1 "$script" | grep -q '^#!.*bash'; then
			bash -n "$script" 2>&1 || true
		else
			# No first line: sh runs it, or a script includes it.
			sh -n "$script" 2>/dev/null || bash -n "$script" 2>&1 || true
		fi
	done
)"
strict_scripts() {
	local script said
	for script in "${verbs[@]}" .ci/run; do
		# What is sourced is as strict as the one who does it.
		[ "$script" != scripts/lib.sh ] || continue
		grep -qxF 'set -euo pipefail' "$script" || echo "$script is not strict"
		[ -x "$script" ] || echo "$script is not executable"
		[ "$script" != .ci/run ] || continue
		said=$("$script" -h 2>/dev/null) && [[ $said == usage:* ]] ||
			echo "$script does not answer -h"
	done
}
verdict 'scripts are strict and answer -h' "$(strict_scripts)"

if command -v shellcheck >/dev/null; then
	verdict shellcheck "$(
		mapfile -t files < <(printf '%s\n' "${shells[@]}" |
			while read -r script; do
				grep -qE '^#!|^# shellcheck shell=' "$script" && echo "$script"
			done)
		shellcheck -x -f gcc "${files[@]}" | cut -d: -f1,2,4- || true
	)"
else
	skip shellcheck 'it is not installed'
fi

[ "$failures" -eq 0 ]
