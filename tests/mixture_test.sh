#!/bin/bash
# A mixture made of a dense model writes the same text, with --exact token for token if one expert is used at a time.
#
#   mixture_test.sh GSD GSD_MAKE_MIXTURE MODELS_DIR
set -eu
gsd=$1 make_mixture=$2 models=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_CACHE_HOME=$dir

text() {
  "$gsd" generate -m "$1" -d "$models/toy-draft.gguf" -p "The" --exact --mode "$2" -t 1 -n 40 --ignore-eos --no-profile --json 2>/dev/null |
    sed -n '/"tokens": \[/,/\]/p'
}

"$make_mixture" "$models/toy-target.gguf" "$dir/mixture.gguf" 5 1
text "$models/toy-target.gguf" plain >"$dir/dense"
[ "$(wc -l <"$dir/dense")" -gt 40 ] || { echo "no text"; exit 1; }
for mode in plain tree; do
  text "$dir/mixture.gguf" $mode >"$dir/text"
  cmp "$dir/dense" "$dir/text" || { echo "the mixture's text differs ($mode)"; exit 1; }
done
refused() {
  if "$make_mixture" "$@" 2>"$dir/refusal"; then
    echo "not refused: $*"
    exit 1
  fi
}
refused "$dir/mixture.gguf" "$dir/again.gguf" 5 1
grep -q "a mixture already" "$dir/refusal"
refused "$models/toy-target.gguf" "$dir/again.gguf" 2 3
