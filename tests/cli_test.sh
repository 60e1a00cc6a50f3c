#!/bin/bash
# The program from outside: exit codes, one clear sentence for every failure, interrupts, pipes, files.
# Usage: cli_test.sh GSD MODELS_DIR EDIT_GGUF [PAD_MODEL]
set -u
gsd=$1
target=$2/toy-target.gguf
draft=$2/toy-draft.gguf
edit_gguf=$3
pad_model=${4:-}  # not there where the benchmarks are not built
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_CACHE_HOME=$dir/cache
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE PATTERN ARGS...: the exit code, one line on stderr that starts with "gsd: ", nothing on stdout.
expect() {
  local code=$1 pattern=$2
  shift 2
  "$gsd" "$@" >"$dir/out" 2>"$dir/err" </dev/null
  local got=$?
  [ "$got" = "$code" ] || fail "exit code $got instead of $code: gsd $*"
  grep -Eq "$pattern" "$dir/err" || fail "stderr lacks '$pattern': gsd $* said: $(cat "$dir/err")"
  if [ "$code" != 2 ] && [ "$(wc -l <"$dir/err")" != 1 ]; then fail "not one sentence: $(cat "$dir/err")"; fi
}

pair=(-m "$target" -d "$draft")
echo '{"kind": "help", "prompt": "# tar"}' >"$dir/one.jsonl"

echo "== bad models"
expect 3 "^gsd: .*cannot be opened" generate -m "$dir/none.gguf" -p x
echo "no model" >"$dir/text.gguf"
expect 3 "^gsd: .*is not a GGUF" generate -m "$dir/text.gguf" -p x
head -c 500000 "$target" >"$dir/half.gguf"
expect 3 "^gsd: .*cannot be loaded" generate -m "$dir/half.gguf" -p x
sed 's/help/zelp/' "$draft" >"$dir/other.gguf"
"$gsd" generate -m "$target" -d "$dir/other.gguf" --no-profile -t 1 -n 8 -p x >"$dir/translated" 2>"$dir/err" || fail "a draft of another vocabulary is refused: $(cat "$dir/err")"
grep -q '^gsd: note: .*another vocabulary.*zelp.*of the target.s tokens of text' "$dir/err" || fail "nothing is said of the draft's vocabulary: $(cat "$dir/err")"
"$gsd" generate -m "$target" --no-profile -t 1 -n 8 -p x 2>/dev/null | cmp -s - "$dir/translated" || fail "a draft of another vocabulary changes the text"
"$edit_gguf" "$draft" "$dir/bert.gguf" tokenizer.ggml.model str bert
expect 5 "^gsd: .*does not fit.*WordPiece tokenizer changes the text" generate -m "$target" -d "$dir/bert.gguf" -p x
mkdir "$dir/folder.gguf"
expect 3 "^gsd: " generate -m "$dir/folder.gguf" -p x

"$edit_gguf" "$draft" "$dir/embedding.gguf" llama.attention.causal bool false
expect 4 "^gsd: .*makes embeddings" generate -m "$dir/embedding.gguf" -p x
"$edit_gguf" "$draft" "$dir/pooling.gguf" llama.pooling_type u32 1
expect 4 "^gsd: .*makes embeddings" generate -m "$target" -d "$dir/pooling.gguf" -p x
echo "== files of another kind"
# kind PATTERN [--drop PREFIX] [KEY TYPE VALUE]...: one sentence that says what the file is, as a target and as a draft.
kind() {
  "$edit_gguf" "$draft" "$dir/kind.gguf" "${@:2}" || fail "edit_gguf ${*:2}"
  expect 4 "^gsd: .*kind.gguf' .*$1" generate -m "$dir/kind.gguf" -p x
  expect 4 "^gsd: .*kind.gguf' .*$1" generate -m "$target" -d "$dir/kind.gguf" -p x
}
kind "LoRA adapter.*--lora" general.type str adapter
kind "LoRA adapter" adapter.type str lora
kind "importance matrix.*--imatrix" general.type str imatrix general.architecture del -
kind "importance matrix" imatrix.chunk_count u32 1
kind "control vector.*--control-vector" general.architecture str controlvector
kind "reads images or sound.*--mmproj" general.architecture str clip
kind "reads images or sound" general.type str mmproj
kind "part 2 of 3 .*-00001-of-00003.gguf" split.no u16 1 split.count u16 3
"$edit_gguf" "$draft" "$dir/kind.gguf" general.architecture str dflash || fail "edit_gguf"
expect 4 "^gsd: .*kind.gguf' .*DFlash drafter.*EAGLE-3 heads and DFlash heads with --draft.*--spec-type draft-dflash" generate -m "$dir/kind.gguf" -p x
expect 3 "^gsd: .*kind.gguf' cannot be loaded" generate -m "$target" -d "$dir/kind.gguf" -p x
"$edit_gguf" "$draft" "$dir/kind.gguf" general.architecture str eagle3 || fail "edit_gguf"
expect 4 "^gsd: .*kind.gguf' .*EAGLE-3 head.*EAGLE-3 heads and DFlash heads with --draft.*--spec-type draft-eagle3" generate -m "$dir/kind.gguf" -p x
expect 3 "^gsd: .*kind.gguf' cannot be loaded" generate -m "$target" -d "$dir/kind.gguf" -p x
expect 2 "kind.gguf' is a head of the type eagle3; leave out --draft-type model" generate -m "$target" -d "$dir/kind.gguf" -p x --draft-type model
expect 2 "is a model of its own; leave out --draft-type eagle3" generate "${pair[@]}" -p x --draft-type eagle3
expect 2 "has no MTP layers.*--draft" generate -m "$target" -p x --draft-type mtp
expect 2 "file of its own" generate -m "$target" -p x --draft-type eagle3
expect 2 "file of its own" generate -m "$target" -p x --draft-type dflash
expect 2 "both of the type model" generate "${pair[@]}" -d "$draft" -p x
expect 2 "has no MTP layers" generate "${pair[@]}" -p x --with-mtp
kind "an MTP head of Gemma 4.*--draft.*--spec-type draft-mtp" general.architecture str gemma4-assistant
kind "only the MTP layers.*--draft.*--spec-type draft-mtp" --drop blk.0. llama.nextn_predict_layers u32 1
kind "vocabulary and no weights" --drop ""
# A draft in the target's place can be known by its size only.
"$gsd" generate -m "$draft" -d "$target" -p x -n 1 --no-profile >"$dir/out" 2>"$dir/err" || fail "swapped: $(cat "$dir/err")"
grep -q "^gsd: note: the draft .* is larger than the target" "$dir/err" || fail "swapped files: $(cat "$dir/err")"
"$gsd" generate "${pair[@]}" -p x -n 1 --no-profile 2>&1 | grep -q "is larger than" && fail "a note of no use"
# Keys of other types than theirs are not read as what they are not.
for key in general.type general.architecture split.no split.count llama.nextn_predict_layers llama.block_count; do
  for value in "str 1" "f32 1" "bool true" "u16 7"; do
    # shellcheck disable=SC2086
    "$edit_gguf" "$draft" "$dir/odd.gguf" $key $value
    "$gsd" generate -m "$dir/odd.gguf" -p x -n 1 --no-profile >"$dir/out" 2>"$dir/err"
    code=$?
    [ $code = 0 ] || [ $code = 3 ] || [ $code = 4 ] || fail "exit code $code with $key $value: $(cat "$dir/err")"
  done
done

"$edit_gguf" "$draft" "$dir/heads.gguf" llama.attention.head_count u32 0
expect 3 "^gsd: " generate -m "$dir/heads.gguf" -p x
"$edit_gguf" "$draft" "$dir/layers.gguf" llama.block_count u32 4000000000
expect 3 "^gsd: " generate -m "$dir/layers.gguf" -p x

echo "== bad usage"
expect 2 "required" generate -p x
expect 2 "needs a draft model" generate -m "$target" -p x --mode chain --no-history
expect 2 "" bench "${pair[@]}" --prompts x --mode graph
expect 2 "" make-draft "${pair[@]}" -o "$dir/x.gguf"
expect 2 "mode must be" generate "${pair[@]}" -p x --mode fast
expect 2 "temperature must be" generate "${pair[@]}" -p x --temp -1
expect 2 "top_p must be" generate "${pair[@]}" -p x --top-p 0
expect 2 "depth must be" generate "${pair[@]}" -p x --depth 0
expect 2 "width must be" generate "${pair[@]}" -p x --width many
expect 2 "must be from 1 to 64" generate "${pair[@]}" -p x --width 1000
expect 2 "merge_length must be" generate "${pair[@]}" -p x --merge-length 99
expect 2 "K cache must be" generate "${pair[@]}" -p x --cache-type-k q3
expect 2 "quantised V cache" generate "${pair[@]}" -p x --exact --cache-type-v q8_0
expect 2 "context size must be" generate "${pair[@]}" -p x -c 3
expect 2 "no prompt" generate "${pair[@]}" -p ""
expect 2 "maybe not in" generate "${pair[@]}" -p x --mmap maybe
expect 2 "" generate "${pair[@]}" -p x --no-such-flag
expect 2 "" frobnicate
expect 2 "" 

echo "== a context larger than the model was trained for"
# context PATTERN ARGS...: what stands on stderr; "" = nothing about a context.
context() {
  "$gsd" "${@:2}" >"$dir/out" 2>"$dir/err" </dev/null
  if [ -n "$1" ]; then
    grep -Eq "^gsd: note: .*$1" "$dir/err" && [ "$(grep -c "^gsd: note: the context" "$dir/err")" = 1 ] || fail "no '$1': gsd ${*:2} said: $(cat "$dir/err")"
  else
    grep -q "note: the context" "$dir/err" && fail "gsd ${*:2} said: $(cat "$dir/err")"
  fi
}
# 1,024 tokens by training; the draft is allowed to be shorter than the target without a second line.
context "context of 2048 tokens is larger than the 1024 .*target" generate "${pair[@]}" -p x -n 1 -c 2048 --no-profile
context "larger than the 1024" inspect "${pair[@]}" -c 2048 --no-profile
context "larger than the 1024" bench "${pair[@]}" -c 2048 --prompts "$dir/one.jsonl" --modes plain -n 1 --repetitions 1 --no-profile
context "" generate "${pair[@]}" -p x -n 1 -c 1024 --no-profile
scaled() { "$edit_gguf" "$target" "$dir/scaled.gguf" "$@"; }
scaled llama.rope.scaling.type str yarn llama.rope.scaling.factor f32 2 llama.rope.scaling.original_context_length u32 1024
context "" generate -m "$dir/scaled.gguf" -p x -n 1 -c 2048 --no-profile
context "larger than the 2048" generate -m "$dir/scaled.gguf" -p x -n 1 -c 2049 --no-profile
scaled llama.rope.scaling.type str none llama.rope.scaling.factor f32 2
context "larger than the 1024" generate -m "$dir/scaled.gguf" -p x -n 1 -c 2048 --no-profile
scaled llama.rope.scaling.type str linear llama.rope.scaling.factor f32 nan
context "larger than the 1024" generate -m "$dir/scaled.gguf" -p x -n 1 -c 2048 --no-profile
"$edit_gguf" "$draft" "$dir/short.gguf" llama.context_length u32 512
context "context of 1024 tokens is larger than the 512 .*draft" generate -m "$target" -d "$dir/short.gguf" -p x -n 1 -c 1024 --no-profile

echo "== bad input"
expect 11 "^gsd: .*cannot be opened" generate "${pair[@]}" -f "$dir/none.txt"
yes "a long prompt" | head -c 20000 >"$dir/long.txt"
expect 6 "context" generate "${pair[@]}" -f "$dir/long.txt" -n 4
[ ! -s "$dir/out" ] || fail "a prompt that is too long is printed all the same"
expect 2 "given twice" generate "${pair[@]}" -p x -f "$dir/long.txt"
expect 2 "not empty" generate "${pair[@]}" -p x --stop ""
echo '{"type": "array", "uniqueItems": true}' >"$dir/bad.json"
expect 10 "'uniqueItems' at #" generate "${pair[@]}" -p x --json-schema "$dir/bad.json"
expect 10 "is no JSON" generate "${pair[@]}" -p x --json-schema "$dir/long.txt"
expect 11 "cannot be opened" generate "${pair[@]}" -p x --json-schema "$dir/none.json"
expect 2 "cannot be given together" generate "${pair[@]}" -p x --json-schema "$dir/bad.json" --grammar 'root ::= "a"'
echo '{"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 4}}, "required": ["n"], "additionalProperties": false}' >"$dir/n.json"
out=$("$gsd" generate "${pair[@]}" -p "# tar" --no-echo --json-schema "$dir/n.json" -n 200 2>/dev/null | tr -d ' \n\t')
case $out in '{"n":3}' | '{"n":4}') ;; *) fail "--json-schema --no-echo: $out" ;; esac
n() { "$gsd" generate "${pair[@]}" -p 'a<|endoftext|>b' -n 1 --json "$@" 2>/dev/null | sed -n 's/.*"prompt_tokens": \([0-9]*\).*/\1/p'; }
[ "$(n)" -lt "$(n --no-parse-special)" ] || fail "--no-parse-special: $(n) and $(n --no-parse-special) tokens"
out=$("$gsd" generate "${pair[@]}" -p 'a\tb' --escape --stop '\x63' --grammar 'root ::= "abcd"' 2>/dev/null)
[ "$out" = "$(printf 'a\tbab')" ] || fail "--escape --stop: $out"
expect 6 "^gsd: .*context holds 64" generate "${pair[@]}" -f "$dir/long.txt" -c 64
expect 10 "^gsd: .*grammar" generate "${pair[@]}" -p x --grammar "root ::= ("
expect 11 "^gsd: .*cannot be written" generate "${pair[@]}" -p x --record "$dir/no/such/folder/x"
expect 10 "^gsd: .*grammar is empty" generate "${pair[@]}" -p x --grammar-file /dev/null
mkfifo "$dir/fifo"
expect 11 "^gsd: .*no ordinary file" generate "${pair[@]}" -p x --record "$dir/fifo"
expect 4 "^gsd: The chat template, line 1: a tag has no end" chat "${pair[@]}" --chat-template "{{ messages"
expect 4 "none that libllama knows" chat "${pair[@]}" --chat-template nonsense

echo "== out of memory"
(ulimit -v 400000; "$gsd" generate "${pair[@]}" -p x -c 1000000 >"$dir/out" 2>"$dir/err")
code=$?
[ "$code" = 7 ] || fail "exit code $code instead of 7 without memory: $(cat "$dir/err")"

echo "== a full context ends with a reason, the text is kept"
"$gsd" generate "${pair[@]}" -p "# tar" -c 64 -n -1 --ignore-eos >"$dir/out" 2>"$dir/err" || fail "full context: exit code $?"
grep -q "context_full" "$dir/err" || fail "no reason: $(cat "$dir/err")"
[ "$(wc -c <"$dir/out")" -gt 50 ] || fail "the text is lost"

echo "== Ctrl-C ends with the summary"
"$gsd" generate "${pair[@]}" -p "# tar" -c 4096 -n -1 --ignore-eos --mode plain --temp 1 >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 100); do [ "$(wc -c <"$dir/out")" -gt 40 ] && break; sleep 0.02; done
kill -INT $pid
wait $pid
code=$?
[ "$code" = 130 ] || fail "exit code $code after Ctrl-C"
grep -q "ended: interrupted" "$dir/err" || fail "no summary after Ctrl-C: $(cat "$dir/err")"

echo "== Ctrl-C while recording leaves a whole record"
"$gsd" generate "${pair[@]}" -p "# tar" -c 4096 -n -1 --ignore-eos --temp 1 --record "$dir/int.jsonl" >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 100); do [ "$(wc -c <"$dir/out")" -gt 40 ] && break; sleep 0.02; done
kill -INT $pid
wait $pid
[ "$(ls "$dir" | grep "^int.jsonl")" = int.jsonl ] || fail "no record, or half a record, after Ctrl-C"

echo "== a conversation reuses the memory of its earlier turns"
"$edit_gguf" "$target" "$dir/chat.gguf" tokenizer.chat_template str "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
printf 'What is tar?\nAnd zip?\n' | "$gsd" chat -m "$dir/chat.gguf" -d "$draft" -n 20 --system "Be brief." >"$dir/out" 2>"$dir/err" || fail "chat: $(cat "$dir/err")"
[ "$(grep -c "tokens/s" "$dir/err")" = 2 ] || fail "not two answers: $(cat "$dir/err")"
[ "$(sed -n 's/.* \([0-9]*\) prompt tokens reused.*/\1/p' "$dir/err" | tail -1)" -gt 20 ] || fail "the second turn reuses nothing: $(cat "$dir/err")"

echo "== a closed pipe"
"$gsd" generate "${pair[@]}" -p "# tar" -c 2048 -n -1 --ignore-eos --temp 1 2>"$dir/err" | head -c 20 >/dev/null
code=${PIPESTATUS[0]}
[ "$code" = 11 ] || fail "exit code $code with a closed pipe: $(cat "$dir/err")"

echo "== every mode gives the same text; JSON; standard input"
for mode in plain chain tree graph auto; do
  echo -n "# tar" | "$gsd" generate "${pair[@]}" --exact --mode $mode -n 60 --temp 0.8 --seed 5 --json >"$dir/$mode.json" 2>"$dir/err" || fail "$mode: $(cat "$dir/err")"
  grep '"text"' "$dir/$mode.json" >"$dir/$mode.text"
  cmp -s "$dir/plain.text" "$dir/$mode.text" || fail "$mode gives another text"
done
for mmap in on off; do
  "$gsd" generate "${pair[@]}" -p "# tar" -n 40 --exact --mmap $mmap >"$dir/mmap.$mmap" 2>/dev/null || fail "--mmap $mmap"
done
cmp -s "$dir/mmap.on" "$dir/mmap.off" || fail "--mmap changes the text"
"$gsd" generate "${pair[@]}" -p "# tar" -n 30 --compare >"$dir/out" 2>"$dir/err" || fail "compare"
grep -q "plain decoding: " "$dir/err" || fail "no comparison"
"$gsd" inspect "${pair[@]}" >"$dir/out" 2>"$dir/err" || fail "inspect: $(cat "$dir/err")"
grep -q "fit together" "$dir/out" || fail "inspect says nothing of the pair"
grep -q "cost profile: cached" "$dir/out" || fail "the cost profile was not cached: $(cat "$dir/out")"
"$gsd" inspect -m "$target" --json | grep -q '"fits": true' || fail "inspect --json"
grep -q "llama 5.9M Q8_0" "$dir/out" && grep -q "llama 903K Q8_0" "$dir/out" || fail "inspect does not say how large the models are: $(cat "$dir/out")"
"$edit_gguf" "$target" "$dir/bare.gguf" general.size_label del - general.name del -
"$gsd" inspect -m "$dir/bare.gguf" | grep -q "llama 5.9M Q8_0" || fail "no number of parameters where the file names none"
echo "damaged" >"$dir/cache/gsd/profiles.json"
"$gsd" inspect "${pair[@]}" 2>&1 | grep -q "cost profile: measured" || fail "a damaged cache is not made anew"
echo "== profiles: nested absurdly, written by many at once, on a full disk"
profiles=$dir/cache/gsd/profiles.json
{ printf '{"a":%.0s' $(seq 20000); printf 1; printf '}%.0s' $(seq 20000); } >"$profiles"
timeout 20 "$gsd" inspect "${pair[@]}" 2>&1 | grep -q "cost profile: measured" || fail "a profile nested 20,000 deep"
writers=()
for i in 1 2 3 4 5 6; do
  "$gsd" inspect "${pair[@]}" -t 1 -c $((400 + i)) >/dev/null 2>&1 &
  writers+=($!)
done
wait "${writers[@]}"
[ "$(grep -c "ctx 40[1-6] " "$profiles")" = 6 ] || fail "profiles were lost: $(grep -c "ctx 40[1-6] " "$profiles") of 6 are kept"
cp "$profiles" "$dir/profiles.before"
(trap "" XFSZ; ulimit -f 1; exec "$gsd" inspect "${pair[@]}" -c 407 2>&1 | cat >/dev/null)
cmp -s "$profiles" "$dir/profiles.before" || fail "a full disk damaged the profiles"
[ "$(ls "$dir/cache/gsd" | tr '\n' ' ')" = "profiles.json profiles.json.lock " ] || fail "files are left: $(ls "$dir/cache/gsd")"
"$gsd" make-draft -m "$target" --keep-layers 0,1,5 -o "$dir/self.gguf" >"$dir/out" 2>"$dir/err" || fail "make-draft: $(cat "$dir/err")"
"$gsd" generate -m "$target" -d "$dir/self.gguf" -p "# tar" -n 20 --mode graph >"$dir/out" 2>"$dir/err" || fail "a made draft does not work: $(cat "$dir/err")"
"$gsd" make-draft -m "$target" --budget 2 -o "$dir/found.gguf" >"$dir/out" 2>"$dir/err" || fail "make-draft, searching: $(cat "$dir/err")"
grep -q "3 layers, 0,2,5: .* per step  <- best so far" "$dir/out" && grep -q "found.gguf' keeps layers .* of 6: .* tokens per step" "$dir/out" || fail "make-draft, searching: $(cat "$dir/out")"
"$gsd" generate -m "$target" -d "$dir/found.gguf" -p "# tar" -n 20 --mode chain >"$dir/out" 2>"$dir/err" || fail "a found draft does not work: $(cat "$dir/err")"
expect 2 "layers to keep" make-draft -m "$target" --keep-layers 0,9 -o "$dir/bad.gguf"
expect 11 "cannot be written" make-draft -m "$target" --keep-layers 0,2 -o "$dir/no/such/folder/x.gguf"
[ -z "$(ls "$dir" | grep -E "part|candidate|bad.gguf")" ] || fail "make-draft leaves files: $(ls "$dir")"
echo '{"kind": "help", "prompt": "# tar"}' >"$dir/prompts.jsonl"
"$gsd" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --modes plain,auto -n 16 --repetitions 1 --out "$dir/bench.jsonl" --html "$dir/bench.html" >"$dir/out" 2>"$dir/err" || fail "bench: $(cat "$dir/err")"
grep -q "| help | auto |" "$dir/out" && [ "$(wc -l <"$dir/bench.jsonl")" = 3 ] || fail "bench: $(cat "$dir/out")"
grep -q '"config":"auto"' "$dir/bench.html" || fail "the page of bench holds no results"
echo '[{"id": "a", "conversations": [{"from": "human", "value": "# tar"}, {"from": "gpt", "value": "x"}]}, {"custom_id": "b", "body": {"prompt": "# ls"}}]' >"$dir/share.json"
"$gsd" convert-prompts "$dir/share.json" "$dir/converted.jsonl" --kind chats 2>"$dir/err" || fail "convert-prompts: $(cat "$dir/err")"
[ "$(cat "$dir/converted.jsonl")" = '{"kind":"chats","messages":[{"content":"# tar","role":"user"}]}
{"kind":"chats","prompt":"# ls"}' ] && grep -q "2 prompts of the kind chats" "$dir/err" || fail "convert-prompts wrote: $(cat "$dir/converted.jsonl")"
printf 'one\n\ntwo\n' | "$gsd" convert-prompts - - --lines 2>/dev/null | cmp -s - <(printf '{"kind":"text","prompt":"one"}\n{"kind":"text","prompt":"two"}\n') || fail "convert-prompts of plain text"
expect 11 "^gsd: Line 1 of .*text.gguf' is no JSON object" convert-prompts "$dir/text.gguf" "$dir/never"
[ ! -e "$dir/never" ] || fail "convert-prompts leaves a part of a file"
for file in share.json converted.jsonl; do
  "$gsd" bench "${pair[@]}" --prompts "$dir/$file" --modes plain -n 4 --repetitions 1 --no-profile -t 1 >"$dir/out" 2>"$dir/err" || fail "bench on $file: $(cat "$dir/err")"
done
cp "$dir/bench.jsonl" "$dir/first.jsonl"
"$gsd" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --modes plain,auto,chain -n 16 --repetitions 1 --out "$dir/bench.jsonl" --continue >"$dir/out" 2>"$dir/err" || fail "bench --continue: $(cat "$dir/err")"
[ "$(wc -l <"$dir/bench.jsonl")" = 4 ] && cmp -s <(head -3 "$dir/bench.jsonl") "$dir/first.jsonl" || fail "bench --continue measures again"
expect 2 "other conditions" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --modes plain -n 17 --out "$dir/bench.jsonl" --continue
"$gsd" bench --report "$dir/bench.jsonl" | grep -q "| help | chain |" || fail "bench --report"
"$gsd" bench --compare "$dir/first.jsonl" "$dir/bench.jsonl" | grep -q "| help | auto (greedy, one session) |.*1.00x" || fail "bench --compare"
expect 2 "no measurement" bench --report "$dir/prompts.jsonl"
expect 2 "needs a target" bench "${pair[@]}"
expect 2 "holds none" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --peers "$dir"
expect 2 "not in range" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --tune -1
"$gsd" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --modes plain,auto -n 8 --repetitions 1 --sessions 1,2 --temps 0,0.7 >"$dir/out" 2>"$dir/err" || fail "bench --sessions: $(cat "$dir/err")"
grep -q "temperature 0.7, 2 sessions" "$dir/out" || fail "bench --sessions --temps: $(cat "$dir/out")"
expect 10 "grammar" bench "${pair[@]}" --prompts "$dir/prompts.jsonl" --grammar "root ::= ("
echo '{"no": 1}' >"$dir/prompts.jsonl"
expect 11 "Line 1" bench "${pair[@]}" --prompts "$dir/prompts.jsonl"
echo "== a scripted draft"
"$gsd" bench "${pair[@]}" --prompts "$dir/scripted.jsonl" --modes plain,chain,graph --acceptance 0,0.9 -n 60 --repetitions 1 --ignore-eos --exact --out "$dir/scripted.out" >/dev/null 2>&1 && fail "no prompts"
printf '{"prompt": "# tar"}\n{"prompt": "# ls"}\n' >"$dir/scripted.jsonl"
"$gsd" bench "${pair[@]}" --prompts "$dir/scripted.jsonl" --modes plain,chain,graph --acceptance 0,0.9 -n 60 --repetitions 1 --ignore-eos --exact --out "$dir/scripted.out" >"$dir/out" 2>"$dir/err" || fail "$(cat "$dir/err")"
python3 - "$dir/scripted.out" <<'PY' || fail "acceptance: $(cat "$dir/scripted.out")"
import json, sys
runs = {}
for line in list(open(sys.argv[1]))[1:]:
    m = json.loads(line)
    assert m["same_text"], m
    runs.setdefault(m["config"], []).append(m["emitted"] / m["steps"])
mean = {config: sum(v) / len(v) for config, v in runs.items()}
assert len(mean) == 5 and mean["plain"] == 1, mean
for mode in "chain", "graph":
    assert mean[mode + " acceptance=0"] < 1.1 and mean[mode + " acceptance=0.9"] > 2, mean
PY
expect 2 "goes with --temp 0" bench "${pair[@]}" --prompts "$dir/scripted.jsonl" --acceptance 0.5 --temp 1
expect 2 "needs a draft model" bench -m "$target" --prompts "$dir/scripted.jsonl" --acceptance 0.5

echo "== simulate plays a record again"
"$gsd" generate "${pair[@]}" -p "# tar" -n 40 --ignore-eos --record "$dir/run.jsonl" >"$dir/out" 2>"$dir/err" || fail "record: $(cat "$dir/err")"
"$gsd" inspect "${pair[@]}" --profile "$dir/here.json" >"$dir/out" 2>"$dir/err" || fail "inspect --profile: $(cat "$dir/err")"
"$gsd" simulate "$dir/run.jsonl" --profile "$dir/here.json" --modes plain,chain,auto --widths 4,8 >"$dir/out" 2>"$dir/err" || fail "simulate: $(cat "$dir/err")"
[ "$(grep -c '^| ' "$dir/out")" = 6 ] && grep -q "^| plain | .* | 1.00x | 1.00 |" "$dir/out" || fail "simulate: $(cat "$dir/out")"
"$gsd" simulate "$dir/run.jsonl" --profile "$dir/here.json" --modes auto --json | grep -q '"tokens": 40' || fail "simulate --json"
for p in "$(dirname "$2")"/profiles/*.json; do "$gsd" simulate "$dir/run.jsonl" --profile "$p" --modes plain,auto >"$dir/out" || fail "profile $p"; done
grep -v '"drafted"' "$dir/run.jsonl" >"$dir/bare.jsonl"
"$gsd" simulate "$dir/bare.jsonl" --profile "$dir/here.json" --modes plain >"$dir/out" || fail "simulate without answers"
grep -v '"replay"' "$dir/run.jsonl" | grep -v '"drafted"' >"$dir/bare.jsonl"
expect 2 "holds no answers" simulate "$dir/bare.jsonl" --profile "$dir/here.json"
expect 2 "no cost profile" simulate "$dir/run.jsonl" --profile "$dir/run.jsonl"
expect 2 "no record" simulate "$dir/here.json" --profile "$dir/here.json"
sed 's/"at":[0-9]*/"at":99999/' "$dir/run.jsonl" >"$dir/damaged.jsonl"
expect 11 "is damaged: line [0-9]* is no part of a replay" simulate "$dir/damaged.jsonl" --profile "$dir/here.json"
if [ -n "$pad_model" ]; then
  echo "== a padded model gives the same text"
  "$pad_model" "$target" "$dir/padded.gguf" 1408 || fail "pad_model"
  for m in "$target" "$dir/padded.gguf"; do "$gsd" generate -m "$m" -p "# tar" -n 40 --mode plain 2>/dev/null; done >"$dir/out"
  cmp -s <(head -c $(($(wc -c <"$dir/out") / 2)) "$dir/out") <(tail -c $(($(wc -c <"$dir/out") / 2)) "$dir/out") || fail "padding changes the text: $(cat "$dir/out")"
  "$pad_model" "$target" "$dir/padded.gguf" 700 2>/dev/null && fail "pad_model makes a model narrower"
fi
for c in generate chat serve inspect bench make-draft trace simulate; do "$gsd" $c --help | grep -q "Examples:" || fail "$c --help has no examples"; done
"$gsd" --version | grep -q "^gsd [0-9]" || fail "--version"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
