#!/bin/bash
# Every option that --help shows stands in the manual page and in each shell's completions. Usage: reference_test.sh GSD
set -u
gsd=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

for format in man bash zsh fish; do "$gsd" reference $format >"$dir/$format" || fail "gsd reference $format"; done
"$gsd" reference csh >/dev/null 2>&1 && fail "an unknown format is taken"
[ "$("$gsd" reference man 2>&1 >/dev/full)" = "gsd: The output could not be written." ] || fail "a full disk goes unnoticed"

# options HELP: the names at the beginning of a line, before the type or the description.
options() { grep -E '^ {2,10}-' "$1" | grep -oE '^[^A-Z]*' | tr ', ' '\n\n' | grep '^-'; }

. "$dir/bash"
# complete WORD...: what bash offers for the last word
offer() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=(); _gsd; printf '%s\n' "${COMPREPLY[@]}"; }

"$gsd" --help >"$dir/help"
commands=$(sed -nE '/^S(UBCOMMANDS|ubcommands):/,/^$/s/^  ([a-z-]+).*/\1/p' "$dir/help")
[ "$(wc -w <<<"$commands")" -ge 8 ] || fail "only these commands: $commands"
count=0
for c in $commands; do
  "$gsd" "$c" --help >"$dir/help"
  sed -n "/^\.SS gsd ${c//-/.*}\$/,/^\.S[SH] /p" "$dir/man" | sed 's/\\-/-/g' >"$dir/man.$c"
  sed -n "/^    $c)/,/;;/p" "$dir/zsh" >"$dir/zsh.$c"
  grep "seen_subcommand_from $c'" "$dir/fish" >"$dir/fish.$c"
  offer gsd "$c" - >"$dir/bash.$c"
  offer gsd "${c%?}" | grep -qx "$c" || fail "bash does not complete the command $c"
  for o in $(options "$dir/help"); do
    count=$((count + 1))
    grep -qE -- "^.fB(.*, )?$o(,|\\\\)" "$dir/man.$c" || fail "the manual page lacks $o of $c"
    grep -qx -- "$o" "$dir/bash.$c" || fail "bash lacks $o of $c"
    grep -qF -- "$o[" "$dir/zsh.$c" || fail "zsh lacks $o of $c"
    case $o in --*) word="-l ${o#--}" ;; -?) word="-s ${o#-}" ;; *) word="-o ${o#-}" ;; esac
    grep -qE -- " $word( |\$)" "$dir/fish.$c" || fail "fish lacks $o of $c"
  done
done
[ $count -gt 100 ] || fail "only $count options were looked at"
[ "$(offer gsd generate --mmap o | tr '\n' ' ')" = "on off " ] || fail "bash does not offer an option's values"
[ -z "$(offer gsd generate -m x)" ] || fail "bash offers options where a file is wanted"

# The programs that read them, where they are installed.
if command -v zsh >/dev/null; then zsh -n "$dir/zsh" || fail "zsh does not read its completion"; fi
if command -v fish >/dev/null; then fish -n "$dir/fish" || fail "fish does not read its completion"; fi
if command -v groff >/dev/null; then
  groff -k -man -Tutf8 -ww -z "$dir/man" 2>"$dir/warnings"
  [ ! -s "$dir/warnings" ] || fail "the manual page: $(head -3 "$dir/warnings")"
fi

[ $failures = 0 ] && echo "all passed: $count options"
exit $((failures > 0))
