#!/bin/sh
# with_preload.sh first|last LIBRARY COMMAND...: COMMAND with one more library preloaded,
# before or after those that are.
order=$1 library=$2
shift 2
case $order in
first) LD_PRELOAD="$library${LD_PRELOAD:+ $LD_PRELOAD}" ;;
last) LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD }$library" ;;
*) echo "with_preload.sh: first or last?" >&2 && exit 2 ;;
esac
export LD_PRELOAD
exec "$@"
