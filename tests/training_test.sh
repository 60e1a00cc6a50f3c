#!/bin/bash
# Runs the toy-sized recipe and generates with what it exports. Usage: training_test.sh GSD TRAINING_DIR WORK_DIR
set -u
gsd=$1
work=$3
rm -rf "$work"
"$2/run.sh" tiny --out "$work"
code=$?
[ $code = 0 ] || exit $code  # 77: no PyTorch, already explained
"$gsd" generate -m "$work/gsd-target-q8_0.gguf" -d "$work/gsd-draft-q8_0.gguf" -p "the" -n 20 --mode graph --exact --ignore-eos --compare 2>"$work/err" || { cat "$work/err"; exit 1; }
grep -q "the same text" "$work/err" || { cat "$work/err"; exit 1; }
rm -rf "$work"
