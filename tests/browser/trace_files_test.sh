#!/bin/sh
# gsd trace without a browser: exit codes and sentences for bad records, no partial file, one self-contained page.
# Usage: trace_files_test.sh GSD FOLDER_FOR_FILES
set -eu
gsd=$1
dir=$2
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"

fail() {
  echo "FAILED: $*"
  exit 1
}

# expect CODE WORDS RECORD: gsd trace ends with that code and says these words in one line; no file is left.
expect() {
  code=0
  "$gsd" trace "$3" -o out.html 2>said || code=$?
  [ "$code" = "$1" ] || fail "$3: exit code $code instead of $1: $(cat said)"
  grep -q -- "$2" said || fail "$3: '$(cat said)' does not say '$2'"
  [ "$(wc -l <said)" = 1 ] || fail "$3: more than one line: $(cat said)"
  [ -z "$(ls | grep "^out.html")" ] || fail "$3: a file is left"
}

good=$here/hostile.jsonl
say() { printf "%s\n" "$1"; }  # echo would turn \u into something else
header=$(sed -n 1p "$good")
step=$(sed -n 2p "$good")

expect 11 "cannot be opened" missing.jsonl
expect 11 "folder" .
: >empty && expect 2 "is no record" empty
echo '{"other":1}' >other && expect 2 "is no record" other
echo '{"gsd_record":99}' >later && expect 2 "does not know" later
echo '{"gsd_record":1}' >bare && expect 11 "line 1" bare
{ say "$header"; say "$step"; say "$step" | cut -c 1-200; } >cut && expect 11 "line 3 is no valid JSON" cut
{ say "$header"; echo "[1]"; } >list && expect 11 "line 2 is not one step" list
{ say "$header"; say "$step" | sed 's/"to":1,/"to":77,/'; } >edge && expect 11 "line 2.*an edge names no graph node" edge
{ say "$header"; say "$step" | sed 's/"path":\[1\]/"path":[-1]/'; } >path && expect 11 "line 2.*its path" path
{ say "$header"; say "$step" | sed 's/"parent":1/"parent":3/'; } >parent && expect 11 "line 2.*before its parent" parent
{ say "$header"; say "$step" | sed 's/"origin":"hint"/"origin":"x"/'; } >origin && expect 11 "line 2.*origin" origin
{ say "$header"; say "$step" | sed 's/"token":3/"token":18446744073709551615/'; } >number && expect 11 "line 2.*number" number
{ say "$header"; printf '{"graph":"\377"}\n'; } >utf8 && expect 11 "line 2 is no valid JSON" utf8
{ say "$header"; head -c 300000 /dev/zero | tr '\0' '['; } >deep && expect 11 "line 2 is no valid JSON" deep
{ say "$header"; head -c 17000000 /dev/zero | tr '\0' ' '; } >long && expect 11 "line 2 is longer than 16 MiB" long
{ say "$header"; yes "$step" | head -n 20001; } >many && expect 2 "more than 20000 steps" many

code=0
"$gsd" trace "$good" -o no/such/folder.html 2>said || code=$?
[ "$code" = 11 ] && grep -q "cannot be written" said || fail "a page that cannot be written: $code $(cat said)"
cp "$good" same && code=0 && "$gsd" trace same -o ./same 2>said || code=$?
[ "$code" = 2 ] && cmp -s "$good" same || fail "the record was replaced: $code $(cat said)"
code=0
"$gsd" trace 2>said >&2 || code=$?
[ "$code" = 2 ] || fail "no record given: exit code $code"
if [ -c /dev/full ]; then
  code=0
  "$gsd" trace "$good" -o - >/dev/full 2>said || code=$?
  [ "$code" = 11 ] || fail "a full disk: exit code $code"
fi

"$gsd" trace "$good" -o page.html || fail "a good record"
[ "$(ls | grep "^page.html")" = page.html ] || fail "a file is left beside the page: $(ls)"
"$gsd" trace - -o - <"$good" | cmp -s - page.html || fail "standard input and output give another page"
[ "$(grep -c '</script' page.html)" = 2 ] || fail "the record ends a script element"
if grep -E -n '(src|href)="(https?:)?//|@import|url\(' page.html; then fail "the page refers to something outside"; fi
echo "ok"
