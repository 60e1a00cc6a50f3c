#!/usr/bin/env bash
# Speed on a loaded machine: gsd generate beside busy loops (docs/benchmarks.md).
#
#   bench/loaded.sh GSD TARGET DRAFT [LOOPS…] [-- FLAGS…]
#
# Prints a line for each number of busy loops (0 1 2 4 8): tokens/s of auto and of plain decoding, medians of
# REPETITIONS (3) in turns, and the fair share of the first line's, cores / (cores + loops). TOKENS (200) a run.
# The first run measures the cost profile and does not count.
set -u
if [ $# -lt 3 ]; then sed -n '2,9p' "$0" >&2; exit 2; fi
gsd=$1 target=$2 draft=$3
shift 3
loops=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do loops+=("$1"); shift; done
[ $# -gt 0 ] && shift
[ ${#loops[@]} -gt 0 ] || loops=(0 1 2 4 8)
cores=$(nproc)
busy=()
stop() { [ ${#busy[@]} -eq 0 ] || kill "${busy[@]}"; wait; busy=(); } 2>/dev/null
trap 'stop; exit 130' INT TERM
trap stop EXIT

run() { # MODE FLAGS…: tokens/s
  local mode=$1
  shift
  "$gsd" generate -m "$target" -d "$draft" -p '# tar' -n "${TOKENS:-200}" --ignore-eos --mode "$mode" "$@" 2>&1 >/dev/null |
    sed -nE 's/^.* s: ([0-9.]+) tokens\/s .*/\1/p'
}
median() { sort -g | awk '{v[NR] = $1} END {print NR ? v[int((NR + 1) / 2)] : "none"}'; }

run auto "$@" >/dev/null
echo "| busy loops | auto | plain | fair share of auto | auto over it |"
echo "|---|---|---|---|---|"
for n in "${loops[@]}"; do
  for ((i = 0; i < n; i++)); do (while :; do :; done) & busy+=($!); done
  auto=() plain=()
  for ((i = 0; i < ${REPETITIONS:-3}; i++)); do
    auto+=("$(run auto "$@")")
    plain+=("$(run plain "$@")")
  done
  stop
  a=$(printf '%s\n' "${auto[@]}" | median)
  p=$(printf '%s\n' "${plain[@]}" | median)
  quiet=${quiet:-$(awk "BEGIN {print $a * ($cores + $n) / $cores}")}
  awk "BEGIN {f = $quiet * $cores / ($cores + $n); printf \"| %d | %.0f | %.0f | %.0f | %.2f |\\n\", $n, $a, $p, f, $a / f}"
done
