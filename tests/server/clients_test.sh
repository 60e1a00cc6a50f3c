#!/bin/sh
# Installs packages that people point at a local server into a folder of the build, once, and runs clients_test.mjs.
# Usage: clients_test.sh GSD MODELS TEMPLATES FOLDER_FOR_FILES    Exit code 77: no Node.js, npm or package registry.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
gsd=$1
models=$2
templates=$3
dir=$4
for tool in node npm; do
  command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 77; }
done
mkdir -p "$dir/npm" "$dir/files"
if [ ! -e "$dir/npm/complete" ]; then
  echo '{"private": true}' >"$dir/npm/package.json"
  if ! npm install --prefix "$dir/npm" --no-audit --no-fund --ignore-scripts openai@7 @anthropic-ai/sdk ai @ai-sdk/openai \
    @ai-sdk/openai-compatible @langchain/openai @langchain/core @openai/agents zod >"$dir/npm/log" 2>&1; then
    echo "SKIPPED: the npm packages cannot be installed: $(tail -n 2 "$dir/npm/log")"
    exit 77
  fi
  touch "$dir/npm/complete"
fi
exec node "$here/clients_test.mjs" "$dir/npm" "$gsd" "$models" "$templates" "$dir/files"
