#!/bin/bash
# libgsd as it is installed: what it exports, what its header is to compilers, and the example in C beside the program.
# Usage: capi_test.sh INSTALLED CHECKOUT GSD COMPILER
set -u
tree=$1 checkout=$2 gsd=$3 compiler=$4
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

pc=$(find "$tree" -name gsd.pc)
libdir=$(dirname "$(dirname "$pc")")
header=$(find "$tree" -name gsd.h)

echo "== symbols"
sed 's:/\*.*\*/::; /^ \*/d' "$header" | grep -oE '\bgsd_[a-z_]+\(' | tr -d '(' | sort -u >"$dir/declared"
[ "$(wc -l <"$dir/declared")" -ge 20 ] || fail "only $(wc -l <"$dir/declared") functions are declared"
if command -v nm >/dev/null; then
  nm -D --defined-only "$libdir/libgsd.so" | awk '{ print $3 }' | sort >"$dir/exported"
  diff "$dir/declared" "$dir/exported" || fail "declared (<) and exported (>) differ"
else
  echo "note: no nm"
fi

echo "== the header"
echo '#include <gsd.h>' >"$dir/header.c"
strict=(-Wall -Wextra -pedantic -Werror "-I$(dirname "$header")" -fsyntax-only)
"$compiler" -x c -std=c99 "${strict[@]}" "$dir/header.c" || fail "the header is no C99"
"$compiler" -x c++ -std=c++11 "${strict[@]}" "$dir/header.c" || fail "the header is no C++"

echo "== the example"
[ "$(wc -l <"$checkout/examples/generate.c")" -le 40 ] || fail "the example has more than 40 lines"
if command -v pkg-config >/dev/null; then
  flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs gsd) || fail "pkg-config: $flags"
else # as it would read the file
  flags=$(pcfiledir=$(dirname "$pc") && eval "$(grep '^[a-z]*=' "$pc")" && eval "echo \"$(sed -nE 's/^(Cflags|Libs): //p' "$pc" | tr '\n' ' ')\"")
fi
eval "flags=($flags)"
"$compiler" -x c -std=c99 -Wall -Wextra -pedantic -Werror "$checkout/examples/generate.c" -x none -o "$dir/generate" "${flags[@]}" ||
  fail "the example cannot be built with ${flags[*]}"
models=("$checkout/models/gsd-target-q8_0.gguf" "$checkout/models/gsd-draft-q8_0.gguf")
export XDG_CACHE_HOME=$dir/cache OMP_WAIT_POLICY=PASSIVE
for prompt in "# tar" "Question: how?"; do
  for mode in auto graph; do
    "$dir/generate" "${models[@]}" "$prompt" n-predict=60 exact=true mode=$mode profile=false >"$dir/c" 2>"$dir/err" || fail "the example: $(cat "$dir/err")"
    "$gsd" generate -m "${models[0]}" -d "${models[1]}" -p "$prompt" -n 60 --exact --mode $mode --no-profile --no-echo >"$dir/program" 2>"$dir/gsd" || fail "the program: $(cat "$dir/gsd")"
    [ -s "$dir/c" ] && cmp -s "$dir/c" "$dir/program" || fail "'$prompt', $mode: the example says '$(cat "$dir/c")', the program '$(cat "$dir/program")'"
    ended=$(sed -n 's/.*ended: //p' "$dir/gsd")
    grep -q "steps, ended: $ended" "$dir/err" || fail "the example: $(cat "$dir/err")"
  done
done
"$dir/generate" /none.gguf /none.gguf x 2>"$dir/err"
[ $? = 3 ] && grep -q "^generate: .*/none.gguf" "$dir/err" || fail "a missing model: $(cat "$dir/err")"
"$dir/generate" "${models[@]}" x colour=red 2>"$dir/err"
[ $? = 2 ] && grep -q "no flag 'colour'" "$dir/err" || fail "a wrong flag: $(cat "$dir/err")"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
