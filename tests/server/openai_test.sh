#!/bin/sh
# Installs the npm package `openai` into a folder of the build, once, and runs openai_test.mjs with it.
# Usage: openai_test.sh GSD MODELS README FOLDER_FOR_FILES    Exit code 77: there is no Node.js, npm or package registry.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
gsd=$1
models=$2
readme=$3
dir=$4
for tool in node npm curl; do
  command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 77; }
done
mkdir -p "$dir/npm" "$dir/files"
if [ ! -d "$dir/npm/node_modules/openai" ]; then
  echo '{"private": true}' >"$dir/npm/package.json"
  if ! npm install --prefix "$dir/npm" --no-audit --no-fund --ignore-scripts openai@7 >"$dir/npm/log" 2>&1; then
    echo "SKIPPED: the npm package openai cannot be installed: $(tail -n 2 "$dir/npm/log")"
    exit 77
  fi
fi
exec node "$here/openai_test.mjs" "$dir/npm" "$gsd" "$models" "$dir/files" "$readme"
