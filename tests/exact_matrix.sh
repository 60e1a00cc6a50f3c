#!/bin/bash
# The full matrix behind --exact: formats x threads x modes x widths, every text against plain decoding's. Not part of
# make test: it takes minutes.
#
#   deps/setup.sh --group peers && tests/exact_matrix.sh [BUILD_DIR] [TOKENS]
#
# Targets are the bundled one in each format, by llama-quantize. Prints one line a format; the exit status is 1 if one text
# differed.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build/release}
n=${2:-100}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
gsd=$build/bin/gsd
quantize=.prefix/usr/bin/llama-quantize
[ -x "$quantize" ] || { echo "exact_matrix.sh: llama-quantize is missing; run: deps/setup.sh --group peers" >&2; exit 2; }
total=0
differing=0

# The tokens of one run.
tokens() {
  local threads=$1
  shift
  "$gsd" generate -m "$dir/target.gguf" -d models/gsd-draft-q8_0.gguf -f models/prompts/demo.txt --exact -t "$threads" -n "$n" --ignore-eos \
    --no-profile --path-threshold 0.01 --json "$@" 2>/dev/null | sed -n '/"tokens": \[/,/\]/p'
}

for format in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL IQ4_XS IQ3_S NVFP4 Q2_K Q3_K_M Q4_K_S Q4_K_M Q5_K_M Q6_K; do
  arguments=(models/gsd-target-q8_0.gguf "$dir/target.gguf" "$format")
  [ "$format" != NVFP4 ] || arguments=(--tensor-type weight=nvfp4 "${arguments[@]:0:2}" Q8_0)  # llama-quantize has no preset of it
  "$quantize" --allow-requantize "${arguments[@]}" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 2; }
  runs=0
  bad=0
  for temperature in 0 0.7; do
    tokens 1 --mode plain --temp $temperature >"$dir/plain"
    [ "$(wc -l <"$dir/plain")" -gt "$n" ] || { echo "$format: no text"; exit 1; }
    for threads in 1 2; do
      for mode in plain chain tree graph auto; do
        for width in 4 24; do
          tokens $threads --mode $mode --temp $temperature --width $width >"$dir/text"
          runs=$((runs + 1))
          cmp -s "$dir/plain" "$dir/text" || { bad=$((bad + 1)); echo "$format: $mode, width $width, $threads threads, temperature $temperature differs"; }
        done
      done
    done
  done
  echo "$format: $runs texts of $n tokens, $bad differ"
  total=$((total + runs * n))
  differing=$((differing + bad))
done
echo "$total tokens compared, $differing texts differ"
exit $((differing > 0))
