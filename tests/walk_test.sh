#!/bin/sh
# Fails if docs/architecture.md leads through more than eight files, or names a file or a function that is not there.
# Usage: walk_test.sh CHECKOUT
set -eu
cd "$1"
rows=$(sed -n 's/^| `\(src[^`]*\)` | `\([^`]*\)` | .*/\1 \2/p' docs/architecture.md)
n=$(printf '%s\n' "$rows" | wc -l)
[ "$n" -ge 5 ] && [ "$n" -le 8 ] || { echo "the walk has $n files"; exit 1; }
printf '%s\n' "$rows" | while read -r file function; do
  grep -q "^[A-Za-z].*[ &*]$function(" "$file" || { echo "$file defines no $function"; exit 1; }
done
