#!/bin/bash
# Times whole models with stock ggml and with libggml-gsd.so, alternating, and prints the table of
# docs/narrow-matmul.md: time of one decoding step of w sequences, relative to stock ggml at width 1.
#
#   narrow/bench.sh BUILD_DIR [--shapes "100m 1b"] [--formats "F32 BF16 …"] [--widths 1,4,8,16,32]
#                   [--repetitions 5] [--steps 16] [--context 2000] [--models DIR] [--threads 2] [--tools DIR]
#                   [--before COMMAND]
#
# BUILD_DIR holds libggml-gsd.so and gsd_make_model (anywhere below it). Models are written to --models once and kept.
# --tools is .prefix after deps/setup.sh --group peers; without it llama-batched-bench is taken
# from PATH. --before runs in front of every measurement, for example to wait until the machine is quiet. --context puts
# a prompt of so many tokens in front, which all sequences share as the branches of a tree do; its time is one more column.
#
# Stock ggml runs as it comes, with its repacked weights. The backend needs weights as they stand in the file, so its
# runs say --no-repack, and --load-mode none, as mapped files get no huge pages. As in gsd, attention of single tokens is
# ours too. The third line of each format is exact mode (GSD_NARROW_EXACT=1), where every product of one column is.
set -euo pipefail

build=${1:?usage: bench.sh BUILD_DIR [options], see the top of this file}
shift
shapes="100m 1b" formats="F32 BF16 F16 Q8_0 Q4_0 Q4_K_M" widths=1,4,8,16,32 repetitions=5 threads=2 steps=16 context=""
models=${TMPDIR:-/tmp}/gsd-narrow-models tools="" before=""
while [ $# -gt 0 ]; do
  case $1 in
    --shapes) shapes=$2 ;;
    --formats) formats=$2 ;;
    --widths) widths=$2 ;;
    --repetitions) repetitions=$2 ;;
    --steps) steps=$2 ;;
    --context) context=$2 ;;
    --models) models=$2 ;;
    --threads) threads=$2 ;;
    --tools) tools=$(realpath "$2") ;;
    --before) before=$2 ;;
    *) echo "bench.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done

find_one() { find "$build" -name "$1" -type f | head -n 1; }
plugin=$(realpath "$(find_one libggml-gsd.so)")
make_model=$(realpath "$(find_one gsd_make_model)")
mkdir -p "$models"
models=$(realpath "$models")
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# The prefix's tools look for ggml's backends in the working directory.
run_tool() {
  if [ -z "$tools" ]; then
    $before llama-batched-bench "$@"
    return
  fi
  local lib
  lib=$(dirname "$(find "$tools/usr/lib" -name 'libllama.so.0' | head -n 1)")
  (cd "$lib/ggml/backends0" && $before "$tools/usr/bin/llama-batched-bench" "$@")
}

# measure NAME [tool options]: appends "width ms" lines to NAME's results, and "prompt ms" after the first.
measure() {
  local name=$1
  shift
  run_tool -m "$model" -c $((4096 + context)) -b 512 -npp "${context:-4}" ${context:+-pps -kvu} -ntg "$steps" -npl "$widths" \
    -t "$threads" -tb "$threads" -fa on "$@" 2>/dev/null |
    awk -F'|' '$2 + 0 > 0 && $3 + 0 > 0 { if (!n++) print "prompt", $6 * 1000; print $4 + 0, $8 / $3 * 1000 }' >> "$results/$name"
}

# Prints one row: median ms at each width, divided by stock's at width 1.
row() {
  awk -v label="$1" -v widths="$columns" -v base="$3" '
    { n[$1]++; v[$1, n[$1]] = $2 }
    END {
      printf "| %s |", label
      count = split(widths, w, ",")
      for (i = 1; i <= count; i++) {
        b = w[i]
        for (j = 1; j <= n[b]; j++)
          for (k = j + 1; k <= n[b]; k++)
            if (v[b, k] < v[b, j]) { t = v[b, j]; v[b, j] = v[b, k]; v[b, k] = t }
        m = v[b, int((n[b] + 1) / 2)]
        if (b == "prompt") printf " %.0f ms |", m
        else printf " %.2f (%.1f ms) |", m / base, m
      }
      print ""
    }' "$results/$2"
}

median_at_one() {
  awk '$1 == 1 { print $2 }' "$results/$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

columns=$widths${context:+,prompt}
echo "| model | $(echo "$columns" | sed 's/,/ | w=/g; s/^/w=/; s/w=prompt/prompt/') |"
echo "|---|$(echo "$columns" | sed 's/[^,]*,*/---|/g')"
for shape in $shapes; do
  for format in $formats; do
    model=$models/$shape-$format.gguf
    [ -f "$model" ] || "$make_model" "$model" "$shape" "$format"
    rm -f "$results"/*
    for _ in $(seq "$repetitions"); do
      measure stock
      GGML_BACKEND_PATH=$plugin GSD_NARROW_ATTENTION=1 measure gsd --no-repack --load-mode none
      GGML_BACKEND_PATH=$plugin GSD_NARROW_ATTENTION=1 GSD_NARROW_EXACT=1 measure exact --no-repack --load-mode none
    done
    base=$(median_at_one stock)
    for name in stock gsd exact; do row "$shape $format $name" $name "$base"; done
  done
done
