#!/bin/bash
# gsd batch from outside: killed again and again, interrupted, started twice. Usage: batch_test.sh GSD MODELS_DIR
set -u
gsd=$1
pair=(-m "$2/toy-target.gguf" -d "$2/toy-draft.gguf" --no-profile -t 1 --exact -np 3 -c 1536)
dir=$(mktemp -d)
run=
trap '[ -z "$run" ] || kill -9 $run 2>/dev/null; rm -rf "$dir"' EXIT
export XDG_CACHE_HOME=$dir/cache OMP_WAIT_POLICY=PASSIVE
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

n=90
for i in $(seq $n); do
  case $((i % 10)) in
    7) echo '{"custom_id": "r'$i'", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt", "messages": [{"role": "user", "content": "How do I list '$i' files?"}], "max_tokens": 24, "temperature": 0.7, "seed": '$i'}}' ;;
    9) echo '{"custom_id": "r'$i'", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "max_tokens": "'$i'"}}' ;;
    *) echo '{"custom_id": "r'$i'", "method": "POST", "url": "/v1/completions", "body": {"prompt": "# tar '$i'", "max_tokens": '$((20 + i))', "temperature": 0}}' ;;
  esac
done >"$dir/in.jsonl"
lines() { [ ! -e "$1" ] && echo 0 && return; wc -l <"$1"; }
# What does not depend on the run: custom_id, status, and the text or the error.
essence() { sed -E 's/.*"custom_id":"([^"]*)".*"status_code":([0-9]+).*("text":"|"content":"|"message":")(([^"\\]|\\.)*)".*/\1 \2 \4/' "$1" | sort; }

echo "== in one go"
"$gsd" batch "$dir/in.jsonl" "$dir/whole.jsonl" "${pair[@]}" 2>"$dir/err" || fail "the whole run: $(cat "$dir/err")"
[ "$(lines "$dir/whole.jsonl")" = $n ] || fail "$(lines "$dir/whole.jsonl") answers to $n requests"
grep -q "^gsd: 90 of 90 requests are answered (0 by earlier runs), 9 of this run's with an error; .* tokens/s" "$dir/err" || fail "the summary: $(cat "$dir/err")"
[ "$(grep -c '"status_code":400,.*"type":"invalid_request_error"' "$dir/whole.jsonl")" = 9 ] || fail "the errors"
if command -v python3 >/dev/null; then
  python3 -c 'import json, sys; [json.loads(line)["response"]["body"] for line in open(sys.argv[1])]' "$dir/whole.jsonl" || fail "the answers are no JSON lines"
fi

echo "== killed"
kills=0
while [ "$(lines "$dir/out.jsonl")" -lt $n ] && [ $kills -lt 40 ]; do
  before=$(lines "$dir/out.jsonl")
  "$gsd" batch "$dir/in.jsonl" "$dir/out.jsonl" "${pair[@]}" 2>"$dir/err" &
  run=$!
  # Somewhere in the middle of a few further answers, or of the load.
  wanted=$((before + RANDOM % 16))
  while kill -0 $run 2>/dev/null && [ "$(lines "$dir/out.jsonl")" -lt $wanted ]; do sleep 0.01; done
  kill -9 $run 2>/dev/null && kills=$((kills + 1))
  wait $run 2>/dev/null
  run=
  [ "$(lines "$dir/out.jsonl")" -ge "$before" ] || fail "answers are lost: $before, then $(lines "$dir/out.jsonl")"
  # What a machine that lost its power may leave behind.
  [ $((kills % 3)) != 1 ] || printf '{"id":"batch_req_12","custom_id":"r1","respo' >>"$dir/out.jsonl"
done
[ $kills -ge 4 ] || fail "only $kills kills"
"$gsd" batch "$dir/in.jsonl" "$dir/out.jsonl" "${pair[@]}" 2>"$dir/err" || fail "the last run: $(cat "$dir/err")"
essence "$dir/whole.jsonl" >"$dir/a"
essence "$dir/out.jsonl" >"$dir/b"
cmp -s "$dir/a" "$dir/b" || fail "other answers after $kills kills: $(diff "$dir/a" "$dir/b" | head -5)"
cp "$dir/out.jsonl" "$dir/before.jsonl"
"$gsd" batch "$dir/in.jsonl" "$dir/out.jsonl" -m /none.gguf 2>"$dir/err" || fail "nothing to do: $(cat "$dir/err")"
grep -q "all 90 requests were answered before" "$dir/err" && cmp -s "$dir/before.jsonl" "$dir/out.jsonl" || fail "nothing to do: $(cat "$dir/err")"

echo "== interrupted"
"$gsd" batch "$dir/in.jsonl" "$dir/int.jsonl" "${pair[@]}" 2>"$dir/err" &
run=$!
while kill -0 $run 2>/dev/null && [ "$(lines "$dir/int.jsonl")" -lt 5 ]; do sleep 0.01; done
"$gsd" batch "$dir/in.jsonl" "$dir/int.jsonl" "${pair[@]}" 2>"$dir/second"
code=$?
{ [ $code = 11 ] && grep -q "written by another process" "$dir/second"; } || fail "a second one beside it: exit code $code, $(cat "$dir/second")"
kill -INT $run
wait $run
code=$?
run=
[ $code = 130 ] || fail "exit code $code after SIGINT"
grep -q "the same command goes on" "$dir/err" || fail "no word about going on: $(cat "$dir/err")"
done_=$(lines "$dir/int.jsonl")
[ "$done_" -ge 5 ] && [ "$done_" -lt $n ] || fail "$done_ answers after SIGINT"
grep -q '"status_code":5' "$dir/int.jsonl" && fail "the interrupt is an answer"
"$gsd" batch "$dir/in.jsonl" "$dir/int.jsonl" "${pair[@]}" 2>"$dir/err" || fail "after the interrupt: $(cat "$dir/err")"
grep -q "($done_ by earlier runs)" "$dir/err" || fail "the summary: $(cat "$dir/err")"
essence "$dir/int.jsonl" | cmp -s - "$dir/a" || fail "other answers after an interrupt"

echo "== a store of answers"
steps() { grep -o '"steps":[0-9]*' "$1" | awk -F: '{ n += $2 } END { print n }'; }
for run_ in first second; do
  "$gsd" batch "$dir/in.jsonl" "$dir/$run_.jsonl" "${pair[@]}" --mode graph --store "$dir/answers" 2>"$dir/err" || fail "with a store: $(cat "$dir/err")"
  grep -q "note: the store" "$dir/err" && fail "$run_ run with a store: $(cat "$dir/err")"
  essence "$dir/$run_.jsonl" | cmp -s - "$dir/a" || fail "other answers in the $run_ run with a store"
done
[ $(($(steps "$dir/second.jsonl") * 10)) -lt $(($(steps "$dir/first.jsonl") * 8)) ] || fail "$(steps "$dir/second.jsonl") steps with answers of the run before, $(steps "$dir/first.jsonl") without"
truncate -s -9 "$dir/answers"
"$gsd" batch "$dir/in.jsonl" "$dir/third.jsonl" "${pair[@]}" --store "$dir/answers" 2>"$dir/err" || fail "a damaged store: $(cat "$dir/err")"
grep -q "note: the store of answers .* is damaged; it was renamed" "$dir/err" && [ -e "$dir/answers.old" ] || fail "a damaged store: $(cat "$dir/err")"
essence "$dir/third.jsonl" | cmp -s - "$dir/a" || fail "other answers with a damaged store"
cp "$dir/in.jsonl" "$dir/other"
"$gsd" batch "$dir/in.jsonl" "$dir/fourth.jsonl" "${pair[@]}" --store "$dir/other" 2>"$dir/err"
code=$?
{ [ $code = 11 ] && grep -q "is no store of answers" "$dir/err" && cmp -s "$dir/in.jsonl" "$dir/other"; } || fail "something else as a store: exit code $code, $(cat "$dir/err")"

echo "== files that are none"
refused() {
  "$gsd" batch "$2" "$3" -m /none.gguf 2>"$dir/err"
  local code=$?
  [ $code = 11 ] && grep -q "$1" "$dir/err" && [ "$(wc -l <"$dir/err")" = 1 ] || fail "exit code $code, $(cat "$dir/err")"
}
echo '{"custom_id": "a"}' >"$dir/bad.jsonl"
refused "Line 1 of .*'method' is missing" "$dir/bad.jsonl" "$dir/x.jsonl"
refused "cannot be opened" "$dir/none.jsonl" "$dir/x.jsonl"
refused "belongs to another batch" "$dir/in.jsonl" "$dir/in.jsonl"
refused "no ordinary file" "$dir/in.jsonl" /dev/full
[ ! -e "$dir/x.jsonl" ] || fail "an output of nothing"

[ $failures = 0 ] && echo "all passed, $kills kills"
exit $((failures > 0))
