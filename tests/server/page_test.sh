#!/bin/sh
# Uses the page of gsd serve in a headless Chromium, by the npm package playwright-core, installed once into a folder of
# the build. Usage: page_test.sh GSD MODELS FOLDER_FOR_FILES    Exit code 77: something of that is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
gsd=$1
models=$2
dir=$3
browser=
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v $name >/dev/null 2>&1; then
    browser=$(command -v $name)
    break
  fi
done
[ -n "$browser" ] || { echo "SKIPPED: no chromium or google-chrome to open the page with"; exit 77; }
for tool in node npm; do
  command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 77; }
done
mkdir -p "$dir/npm"
if [ ! -d "$dir/npm/node_modules/playwright-core" ]; then
  echo '{"private": true}' >"$dir/npm/package.json"
  if ! npm install --prefix "$dir/npm" --no-audit --no-fund --ignore-scripts playwright-core@1 >"$dir/npm/log" 2>&1; then
    echo "SKIPPED: the npm package playwright-core cannot be installed: $(tail -n 2 "$dir/npm/log")"
    exit 77
  fi
fi
exec node "$here/page_test.mjs" "$dir" "$gsd" "$models" "$browser"
