#!/usr/bin/env bash
# Every flag and every LLAMA_ARG_ variable that the installed llama-server's --help names is known to gsd serve: taken, passed over with
# a note, or refused by name. Usage: llama_flags_test.sh GSD LLAMA_SERVER
set -u
gsd=$1 server=$2
[ -x "$server" ] || { echo "SKIPPED: no llama-server; deps/setup.sh --group peers fetches it"; exit 77; }
help=$("$server" --help 2>/dev/null) || { echo "FAILED: $server --help"; exit 1; }
# The names stand in the first 40 columns, or fill the line.
names=$(printf '%s\n' "$help" | grep '^-[^-]\|^--[a-z]' | sed 's/^\(.\{39\}\) .*/\1/; s/[<{[][^ ]*//g' | grep -oE '(^|[ ,])--?[A-Za-z][A-Za-z0-9.-]*' | tr -d ' ,' | sort -u)
variables=$(printf '%s\n' "$help" | grep -oE 'LLAMA_ARG_[A-Z_]+' | sort -u)
bad=0 n=0
for name in $names; do
  case $name in -h | --help | --usage | --version) continue ;; esac
  n=$((n + 1))
  said=$("$gsd" serve "$name" 1 --help 2>&1 >/dev/null)
  case $said in *"has no flag"*) echo "FAILED: $name: $said"; bad=1 ;; esac
done
for v in $variables; do
  n=$((n + 1))
  said=$(env "$v=1" "$gsd" serve --help 2>&1 >/dev/null)
  case $said in *"environment's $v has no effect"*) echo "FAILED: $v is not known"; bad=1 ;; esac
done
[ "$n" -ge 400 ] || { echo "FAILED: only $n names were found in --help"; bad=1; }
echo "$n names"
exit $bad
