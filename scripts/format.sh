#!/usr/bin/env bash
# Lay the C and C++ sources out as .clang-format says.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/format.sh [OPTION]... [FILE]...

Rewrites the project's C and C++ sources, or only the FILEs given, in the layout
of .clang-format. Tables (*.def) and assembly are laid out by hand.

  --check   change nothing; print the files that would change, exit status 1
  -h        this text

Exit status 77 when clang-format 14 (Debian 12's) is not installed: other
versions disagree about details, and the tree would change with the machine.
END
}

# Each version has opinions of its own; this is the one the tree is written with.
wanted=14

check=false
files=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--check) check=true ;;
	-*) usage >&2 && exit 2 ;;
	*) files+=("$(realpath -- "$1")") ;;
	esac
	shift
done

tool=
for name in clang-format-$wanted clang-format; do
	if command -v "$name" >/dev/null &&
		[[ $("$name" --version) =~ version\ $wanted\. ]]; then
		tool=$name
		break
	fi
done
if [ -z "$tool" ]; then
	echo "format: clang-format $wanted is not installed" >&2
	exit 77
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ${#files[@]} -eq 0 ]; then
	mapfile -t files < <(find runtime interpose preload tests demos -type f \
		\( -name '*.c' -o -name '*.h' -o -name '*.cc' \) | LC_ALL=C sort)
fi

# One process for all of them: a warning names each file that would change.
mapfile -t changed < <("$tool" --style=file --dry-run "${files[@]}" 2>&1 |
	sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: warning: .*/\1/p' | LC_ALL=C sort -u)
[ ${#changed[@]} -gt 0 ] || exit 0
printf '%s\n' "${changed[@]#"$PWD/"}"
if $check; then
	exit 1
fi
"$tool" --style=file -i "${changed[@]}"
