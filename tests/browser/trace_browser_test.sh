#!/bin/sh
# Renders records to pages, opens them in a headless Chromium and has driver.js use them.
# Usage: trace_browser_test.sh GSD FOLDER_FOR_FILES [TARGET DRAFT]    Exit code 77: there is no Chromium.
set -eu
gsd=$1
dir=$2
target=${3:-}
draft=${4:-}
here=$(cd "$(dirname "$0")" && pwd)

browser=
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v $name >/dev/null 2>&1; then
    browser=$name
    break
  fi
done
if [ -z "$browser" ]; then
  echo "SKIPPED: no chromium or google-chrome to open the page with"
  exit 77
fi
rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"

count() { grep -o "$1" line | wc -l | tr -d ' '; }

# check RECORD STEP
check() {
  record=$1
  "$gsd" trace "$record" -o page.html
  # Strings cannot hold an unescaped quote, so these patterns count fields.
  sed -n "$(($2 + 1))p" "$record" >line
  {
    echo "<script>const expected = {step: $2, steps: $(grep -c '"tree":' "$record"), nodes: $(count '"expanded":'),"
    echo "edges: $(count '"from":'), merged: $(count '"merged":true'), tree: $(count '"node":'), emitted: $(count '"margin":')};"
    cat "$here/driver.js"
    echo "</script>"
  } >driver.html
  sed -e '/^<\/body>/{r driver.html
N
}' page.html >test.html
  rm -rf profile
  "$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$dir/profile" --enable-logging=stderr \
    --window-size=1400,1000 --dump-dom "file://$dir/test.html#step=$2" >dom.html 2>log || true
  if grep CONSOLE log; then
    echo "FAILED: $record: the page reports an error"
    exit 1
  fi
  if ! grep -q '<html[^>]* data-test="ok"' dom.html; then
    echo "FAILED: $record: $(grep -o '<html[^>]*>' dom.html || echo "the browser printed no page: $(tail -n 3 log)")"
    exit 1
  fi
  echo "ok: $record, $(($(wc -l <"$record") - 1)) steps"
}

cp "$here/hostile.jsonl" hostile.jsonl
check hostile.jsonl 1
if [ -n "$target" ]; then
  for mode in plain chain tree graph auto; do
    "$gsd" generate -m "$target" -d "$draft" -p "# tar" -n 24 --mode $mode --record $mode.jsonl >/dev/null 2>&1
    check $mode.jsonl 2
  done
  "$gsd" generate -m "$target" -d "$draft" -p "# git-" -n 40 --mode graph --width 40 --depth 10 --path-threshold 0.002 \
    --max-nodes 60 --temp 1 --seed 3 --record wide.jsonl >/dev/null 2>&1
  check wide.jsonl 1
fi
rm -rf profile
