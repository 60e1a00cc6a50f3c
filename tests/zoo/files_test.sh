#!/bin/bash
# What the program makes of models of other kinds than the bundled ones. Usage: files_test.sh GSD ZOO
set -u
gsd=$1
zoo=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_CACHE_HOME=$dir/cache
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# note PATTERN MODEL ARGS...: a line on stderr about --exact with PATTERN and no other kind of tensor; "" = no such line.
note() {
  "$gsd" generate -m "$dir/$2.gguf" -p "# tar" -n 2 -t 1 --mode plain --exact --no-profile "${@:3}" >"$dir/out" 2>"$dir/err" || fail "$2: $(cat "$dir/err")"
  local said
  said=$(sed -n "s/^gsd: note: --exact .* for this model: \(.*\) round differently.*/\1/p" "$dir/err")
  [ "$said" = "$1" ] || fail "'$said' instead of '$1': $2 ${*:3}: $(cat "$dir/err")"
}

echo "== what --exact promises depends on every tensor and what uses it"
"$zoo" write "$dir" llama llama+moe gemma || fail "zoo write"
note "" llama
"$zoo" write "$dir" --type .weight=q4_K llama+moe gemma || fail "zoo write"
note "" llama+moe # rows of 256, by expert too, in the narrow backend's format
note "experts in q4_K, weights in q4_K" llama+moe --no-narrow
"$zoo" write "$dir" --type .weight=q5_0 --type .weight=q4_K llama || fail "zoo write" # as llama-quantize does with rows of 384
note "" llama
"$zoo" write "$dir" --type .weight=tq2_0 llama llama+moe || fail "zoo write"
note "weights in tq2_0" llama
note "experts in tq2_0, weights in tq2_0" llama+moe
"$zoo" write "$dir" --type token_embd=q4_K llama gemma || fail "zoo write"
note "" llama --no-narrow                  # only looked up
note "weights in q4_K" gemma --no-narrow # the output matrix too

echo "== a draft out of models whose layers differ"
for m in mimo2 smallthinker llama4 gemma4 gemma3n cohere2moe gemma3 qwen35 qwen35+mtp gpt2; do
  "$zoo" write "$dir" $m || fail "zoo write $m"
  for layers in 0 1 0,1; do
    "$gsd" make-draft -m "$dir/$m.gguf" -o "$dir/made.gguf" --keep-layers $layers -t 1 >"$dir/out" 2>"$dir/err"
    code=$?
    # llama4, gemma4 and gemma3n have more layers; of the others these are all.
    if [ $layers = 0,1 ] && [ $code != 0 ] && [[ " llama4 gemma4 gemma3n " != *" $m "* ]]; then fail "make-draft of all layers of $m: $(cat "$dir/err")"; fi
    if [ $code = 0 ]; then
      "$gsd" generate -m "$dir/$m.gguf" -d "$dir/made.gguf" -p "# tar" -n 8 -t 1 --mode chain --no-profile >"$dir/out" 2>"$dir/err" || fail "the draft of $m's layers $layers: $(cat "$dir/err")"
    else
      [ $code = 4 ] && grep -q "does not run the target with layers $layers alone" "$dir/err" && [ ! -e "$dir/made.gguf" ] || fail "make-draft of $m's layers $layers: exit code $code: $(cat "$dir/err")"
      echo "$m: $(cat "$dir/err")"
    fi
    rm -f "$dir/made.gguf"
  done
done

echo "== layers that draft from inner states"
for m in qwen35+mtp glm4moe+mtp; do
  "$zoo" write "$dir" $m || fail "zoo write $m"
  for args in "" "--draft-type mtp" "--mode plain" "-d $dir/$m.draft.gguf" "--draft-type model"; do
    "$gsd" generate -m "$dir/$m.gguf" -p "# tar" -n 20 -t 1 --ignore-eos --no-profile --no-echo $args >"$dir/out" 2>"$dir/err" || fail "$m $args: $(cat "$dir/err")"
    grep -q MTP "$dir/err" && fail "a note of no use: $m $args: $(cat "$dir/err")"
    [ -n "$args" ] || cp "$dir/out" "$dir/first"
    cmp -s "$dir/out" "$dir/first" || fail "$m $args writes another text"
  done
  "$gsd" inspect -m "$dir/$m.gguf" -t 1 | grep -q "^draft: 1 MTP layer of the target" || fail "inspect says nothing of the layers of $m"
done
# The first of several draft.
"$zoo" write "$dir" --set nextn_predict_layers=2 --set block_count=5 step35+mtp || fail "zoo write"
"$gsd" generate -m "$dir/step35+mtp.gguf" -p "# tar" -n 20 -t 1 --mode graph --compare --no-profile >"$dir/out" 2>"$dir/err" || fail "step35+mtp: $(cat "$dir/err")"
grep -q "the same text" "$dir/err" || fail "step35+mtp: $(cat "$dir/err")"
# Where libllama would end the process they are left alone.
"$zoo" write "$dir" --set "rope.dimension_sections={32,32,32,32}" glm4moe+mtp || fail "zoo write"
"$zoo" write "$dir" --set nextn_predict_layers=1 --set block_count=3 mimo2 || fail "zoo write"
"$zoo" write "$dir" --set leading_dense_block_count=3 deepseek2+mtp deepseek32+mtp glm-dsa+mtp || fail "zoo write"
mkdir "$dir/dense"
"$zoo" write "$dir/dense" --set leading_dense_block_count=3 glm4moe+mtp || fail "zoo write"
for m in glm4moe+mtp dense/glm4moe+mtp deepseek2+mtp deepseek32+mtp glm-dsa+mtp mimo2; do
  "$gsd" generate -m "$dir/$m.gguf" -p "# tar" -n 2 -t 1 --no-profile >"$dir/out" 2>"$dir/err" || fail "$m: $(cat "$dir/err")"
  grep -q "^gsd: note: .*$m.gguf' holds 1 MTP layer, and .*--draft" "$dir/err" || fail "nothing of MTP layers: $(cat "$dir/err")"
  "$gsd" generate -m "$dir/$m.gguf" -p "# tar" -n 2 -t 1 --no-profile --draft-type mtp >"$dir/out" 2>"$dir/err"
  code=$?
  [ $code = 2 ] && grep -q "MTP layers of .*$m.gguf' cannot be used" "$dir/err" || fail "$m: exit code $code: $(cat "$dir/err")"
done

echo "== a table of positions ends where it ends"
"$gsd" generate -m "$dir/gpt2.gguf" -p "# tar" -n 1 -c 8192 --no-profile >"$dir/out" 2>"$dir/err"
code=$?
[ $code = 2 ] && grep -q "has positions for 4096 tokens and no more" "$dir/err" || fail "exit code $code: $(cat "$dir/err")"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
