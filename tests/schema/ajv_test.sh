#!/bin/sh
# Installs the npm packages ajv and ajv-formats into a folder of the build, once, and runs ajv_test.mjs with them.
# Usage: ajv_test.sh SCHEMA_TOOL FOLDER_FOR_FILES    Exit code 77: there is no Node.js, npm or package registry.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
for tool in node npm; do
  command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 77; }
done
mkdir -p "$2"
if [ ! -d "$2/node_modules/ajv-formats" ]; then
  echo '{"private": true}' >"$2/package.json"
  if ! npm install --prefix "$2" --no-audit --no-fund --ignore-scripts ajv@8 ajv-formats@3 >"$2/log" 2>&1; then
    echo "SKIPPED: the npm packages ajv and ajv-formats cannot be installed: $(tail -n 2 "$2/log")"
    exit 77
  fi
fi
exec node "$here/ajv_test.mjs" "$1" "$2"
