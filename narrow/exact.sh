#!/bin/bash
# The full matrix behind "the bits of a column do not depend on the batch": quantises a model to every format, and has
# gsd_narrow_exact score a generated text again at several widths, thread counts and prefix lengths.
#
#   narrow/exact.sh BUILD_DIR MODEL.gguf [--tools DIR] [--backends DIR] [--tokens 240] [--threads 1,2]
#                   [--models DIR]
#
# MODEL is in F32, F16 or BF16. --tools as in bench.sh, for llama-quantize; --backends is the folder with ggml's
# backends where ggml does not find them itself. The last line sums up; the exit status is 1 if one row differed.
set -euo pipefail

build=${1:?usage: exact.sh BUILD_DIR MODEL.gguf [options], see the top of this file}
model=$(realpath "${2:?which model?}")
shift 2
tools="" backends="" tokens=240 threads=1,2 models=${TMPDIR:-/tmp}/gsd-narrow-models
while [ $# -gt 0 ]; do
  case $1 in
    --tools) tools=$(realpath "$2") ;;
    --backends) backends=$(realpath "$2") ;;
    --tokens) tokens=$2 ;;
    --threads) threads=$2 ;;
    --models) models=$2 ;;
    *) echo "exact.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
find_one() { find "$build" -name "$1" -type f | head -n 1; }
plugin=$(realpath "$(find_one libggml-gsd.so)")
exact=$(realpath "$(find_one gsd_narrow_exact)")
mkdir -p "$models"
# Waiting threads must not spin on a machine that others use too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

quantize() {
  if [ -z "$tools" ]; then
    llama-quantize "$@"
    return
  fi
  local lib
  lib=$(dirname "$(find "$tools/usr/lib" -name 'libllama.so.0' | head -n 1)")
  (cd "$lib/ggml/backends0" && "$tools/usr/bin/llama-quantize" "$@")
}

rows=0 different=0
for format in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL IQ4_XS IQ3_S NVFP4 Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K; do
  file=$(realpath "$models")/exact-$format.gguf
  arguments=("$model" "$file" "$format")
  [ "$format" != NVFP4 ] || arguments=(--tensor-type weight=nvfp4 "$model" "$file" Q8_0)  # llama-quantize has no preset of it
  quantize "${arguments[@]}" > /dev/null 2>&1 || { echo "exact.sh: cannot quantise $model to $format" >&2; exit 2; }
  for run in 30 300 "300 --flash-attention"; do
    echo "== $format, prefix of $run tokens" | sed 's/ --\(.*\) tokens/ tokens, \1/'
    # shellcheck disable=SC2086
    output=$("$exact" "$file" --plugin "$plugin" ${backends:+--backends "$backends"} --tokens "$tokens" \
      --widths 2,3,5,8,16,33,64 --threads "$threads" --prefix $run) || [ $? -eq 1 ]
    echo "$output"
    rows=$((rows + $(echo "$output" | awk '{ n += $7 } END { print n + 0 }')))
    different=$((different + $(echo "$output" | awk '{ n += $5 } END { print n + 0 }')))
  done
  rm -f "$file"
done
echo "$rows rows of logits compared, $different differ"
[ "$different" -eq 0 ] && [ "$rows" -gt 0 ]
