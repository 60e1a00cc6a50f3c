#!/bin/bash
# The program's flags, environment and outputs, as far as they show only outside.
# Usage: flags_test.sh GSD MODELS_DIR
set -u
gsd=$1
pair=(-m "$2/toy-target.gguf" -md "$2/toy-draft.gguf")
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null; rm -rf "$dir"' EXIT
export XDG_CACHE_HOME=$dir/cache OMP_WAIT_POLICY=PASSIVE
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# refused PATTERN [NAME=VALUE…] ARGS...: exit code 2 and the pattern on stderr.
refused() {
  local pattern=$1
  shift
  timeout 20 env "$@" >"$dir/out" 2>"$dir/err" </dev/null
  local got=$?
  [ "$got" = 2 ] || fail "exit code $got instead of 2: $*"
  grep -q "$pattern" "$dir/err" || fail "stderr lacks '$pattern': $* said: $(cat "$dir/err")"
}

echo "== keys that are there but empty"
refused "key of --api-key is empty" "$gsd" serve "${pair[@]}" --port 0 --api-key ""
refused "GSD_API_KEY is empty" GSD_API_KEY= "$gsd" serve "${pair[@]}" --port 0
refused "LLAMA_API_KEY is empty" LLAMA_API_KEY= "$gsd" serve "${pair[@]}" --port 0 --api-key good
printf '# comment\n\n' >"$dir/keys"
refused "holds no API key" "$gsd" serve "${pair[@]}" --port 0 --api-key-file "$dir/keys"
refused "beside one --lookup, not two" "$gsd" serve "${pair[@]}" --port 0 --store memory --lookup "$dir/keys" --lookup "$dir/keys"
refused "a file, or memory" "$gsd" serve "${pair[@]}" --port 0 --store ""
refused "leaves less than 16 tokens" "$gsd" serve "${pair[@]}" --port 0 -c 3 -np 4
refused "did you mean --parallel?" "$gsd" serve "${pair[@]}" --paralel 3
refused "did you mean serve?" "$gsd" serv "${pair[@]}"
refused "LLAMA_ARG_PORT counts as a flag" LLAMA_ARG_PORT=many "$gsd" serve "${pair[@]}"
refused "has no flag '-n5'" "$gsd" generate "${pair[@]}" -p x -n5
refused "no device 'Nowhere0'" "$gsd" generate "${pair[@]}" -p x -dev Nowhere0
refused "no device 'Nowhere0'" "$gsd" generate "${pair[@]}" -p x -devd Nowhere0 -ngld 0
refused "no device 'Nowhere0'" LLAMA_ARG_DEVICE=Nowhere0 "$gsd" serve "${pair[@]}" --port 0
refused "shares of devices are numbers" "$gsd" generate "${pair[@]}" -p x -ts 0/0
refused "split-mode" "$gsd" generate "${pair[@]}" -p x -sm diagonal

echo "== flags and environment"
"$gsd" help serve | grep -q -- "--api-key" || fail "gsd help serve"
"$gsd" help | grep -q "generate" || fail "gsd help"
for c in generate chat serve batch inspect bench make-draft trace simulate; do
  "$gsd" help $c >"$dir/out" && cmp -s "$dir/out" <("$gsd" $c --help) || fail "gsd help $c is not gsd $c --help"
done
LLAMA_ARG_CTX_SIZE=64 "$gsd" generate "${pair[@]}" -p "# tar" -n -1 --ignore-eos --json >"$dir/out" 2>"$dir/err" || fail "environment: $(cat "$dir/err")"
grep -q context_full "$dir/out" || fail "LLAMA_ARG_CTX_SIZE does nothing"
"$gsd" serve --list-devices >"$dir/out" && head -1 "$dir/out" | grep -q "^Available devices:$" || fail "--list-devices: $(cat "$dir/out")"
"$gsd" --version | grep -q "^devices: " || fail "--version does not tell the devices"
if grep -q "(none)" "$dir/out"; then
  "$gsd" generate "${pair[@]}" -p x -n 1 -ngl 9 2>&1 >/dev/null | grep -q "no device beside the CPU" || fail "layers that stay on the CPU unsaid"
fi
a=$("$gsd" generate "${pair[@]}" -p "# tar" -n 3 -n 5 -ngl all -t -1 --seed -1 --temp 1 --json | grep '"seed"')
b=$("$gsd" generate "${pair[@]}" -p "# tar" -n 3 --seed -1 --temp 1 --json | grep '"seed"')
[ -n "$a" ] && [ "$a" != "$b" ] || fail "--seed -1 draws nothing: $a, $b"

echo "== outputs that cannot be written"
for args in "inspect ${pair[*]}" "inspect ${pair[*]} --json" "generate ${pair[*]} -p x -n 4" "generate ${pair[*]} -p x -n 4 --json" "--help" "serve --help" "help" "--version"; do
  "$gsd" $args >/dev/full 2>"$dir/err" </dev/null
  got=$?
  [ "$got" = 11 ] || fail "exit code $got instead of 11: gsd $args >/dev/full"
  grep -q "^gsd: The output" "$dir/err" || fail "no sentence: gsd $args >/dev/full said: $(cat "$dir/err")"
done
"$gsd" generate "${pair[@]}" -p x -n 4 >&- 2>"$dir/err"
[ $? = 11 ] || fail "standard output is closed and nothing is said"

echo "== closed standard descriptors are not given to files and sockets"
"$gsd" generate "${pair[@]}" -p "# tar" -n 8 --record "$dir/run.jsonl" --mode plain <&- >&- 2>&-
[ ! -e "$dir/run.jsonl" ] || ! grep -q "tokens/s" "$dir/run.jsonl" || fail "the summary is in the record"
"$gsd" generate "${pair[@]}" -p "# tar" -n 8 --record "$dir/run.jsonl" --mode plain <&- 2>&- >"$dir/out" || fail "without input and error stream"
head -1 "$dir/run.jsonl" | grep -q '^{"draft"\|gsd_record' || fail "no record"
! grep -q "tokens/s" "$dir/run.jsonl" || fail "the summary is in the record"

echo "== keys from everywhere"
printf '# mine\nfrom-file\n' >"$dir/keys"
GSD_API_KEY=from-gsd LLAMA_API_KEY=from-llama "$gsd" serve "${pair[@]}" --port 0 -np 2 -c 512 --host ::1 --api-key a,b --api-key c --api-key-file "$dir/keys" 2>"$dir/err" &
server=$!
for _ in $(seq 200); do grep -q serving "$dir/err" && break; sleep 0.05; done
url=$(sed -n 's/.* at \(http[^ ]*\) .*/\1/p' "$dir/err")
case $url in "http://[::1]:"*) ;; *) fail "the URL is '$url': $(cat "$dir/err")" ;; esac
if command -v curl >/dev/null; then
  code() { curl -s -o /dev/null -w '%{http_code}' -H "Authorization: bearer $1" -g "$url/v1/models"; }
  for key in a,b c from-file from-gsd from-llama; do [ "$(code "$key")" = 200 ] || fail "the key $key is not taken"; done
  for key in a b "# mine" x ""; do [ "$(code "$key")" = 401 ] || fail "the key '$key' is taken"; done
  # curl's own content type is that of a form.
  python3 -c 'print("{\"max_tokens\": 2, \"prompt\": \"x\", \"user\": \"" + "a" * 20000 + "\"}")' >"$dir/body" 2>/dev/null ||
    { printf '{"max_tokens": 2, "prompt": "x", "user": "'; head -c 20000 /dev/zero | tr '\0' a; echo '"}'; } >"$dir/body"
  curl -s -g -H "X-Api-Key: c" -d "@$dir/body" "$url/v1/completions" | grep -q '"completion_tokens":2' || fail "a large body of curl's type"
fi
kill -TERM $server
wait $server
got=$?
server=
[ "$got" = 0 ] || fail "exit code $got after SIGTERM"

echo "== a store of answers for each key"
# ask KEY: what was verified of earlier answers. The server's keys are the further arguments of serve_keys.
ask() {
  local body='{"prompt": "# tar", "max_tokens": 60, "temperature": 0, "ignore_eos": true, "cache_prompt": false, "speculative": {"mode": "graph", "history": false, "path_threshold": 0}}'
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "$1" ${#body} "$body" >&3
  sed -n 's/.*"draft_n":\([0-9]*\).*/\1/p' <&3
  exec 3>&-
}
serve_keys() {
  "$gsd" serve -m "$2/toy-target.gguf" --port 0 -np 2 -c 512 --no-profile -t 1 --store "$dir/answers" "${@:3}" 2>"$dir/err" &
  server=$!
  for _ in $(seq 200); do grep -q serving "$dir/err" && break; sleep 0.05; done
  port=$(sed -n 's/.*127.0.0.1:\([0-9]*\).*/\1/p' "$dir/err")
}
end_server() {
  kill -TERM $server
  wait $server || fail "the server with a store ended with $?: $(cat "$dir/err")"
  server=
}
serve_keys "$1" "$2" --api-key anna --api-key berta
[ "$(ask anna)" = 0 ] || fail "there was nothing to draw on"
end_server
[ "$(ls "$dir" | grep -c '^answers\.[0-9a-f]*$')" = 1 ] || fail "the answers of one key lie in: $(ls "$dir")"
! grep -rqE 'anna|berta' "$dir"/answers* && ! ls "$dir" | grep -qE 'anna|berta' || fail "a file tells a key"
serve_keys "$1" "$2" --api-key aaron --api-key berta --api-key anna
[ "$(ask aaron)" = 0 ] && [ "$(ask berta)" = 0 ] || fail "one key's answers are another's"
[ "$(ask anna)" -gt 20 ] || fail "a key's own answers are gone"
end_server
[ "$(stat -c %a "$dir"/answers.*[0-9a-f] | sort -u)" = 600 ] || fail "others may read the answers: $(ls -l "$dir")"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
