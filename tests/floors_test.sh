#!/bin/sh
# Fails on an include that points upwards. Usage: floors_test.sh CHECKOUT
#
# A line is a floor, the lowest first. Its rooms, separated by |, are neighbours and do not see each other; each may include
# its own files and those of every floor below. A room is one or more folders or files; the longest match counts.
set -eu
floors='
include/gsd/error.h
src/util
include/gsd
src/core
src/draft
include/gsd/llama.h include/gsd/devices.h include/gsd/remote.h src/llama narrow/include | src/record | src/schema
include/gsd/runtime.h src/runtime | src/chat
src/server | src/bench
src/app | capi
'
# llama.cpp's own headers are seen here only.
llama_room=src/llama

# check ROOT: prints every include that the table forbids; fails if there is one.
check() (
  cd "$1"
  find src include capi -name '*.h' -o -name '*.cpp' | sort | xargs grep -n '^[[:space:]]*#[[:space:]]*include' /dev/null |
    awk -v floors="$floors" -v llama_room="$llama_room" '
      function room(path,    p, best, length_) {  # the room that holds path
        for (p in floor_of) if (index(path "/", p "/") == 1 && length(p) > length_) { best = p; length_ = length(p) }
        return best
      }
      function clean(path) {  # without "x/.."
        while (sub(/[^\/]+\/\.\.\//, "", path)) {}
        return path
      }
      function exists(path) {
        if (!(path in known)) { known[path] = (getline line < path) >= 0; close(path) }
        return known[path]
      }
      function say(why) { print file ":" where[2] ": " why; bad = 1 }
      BEGIN {
        n = split(floors, lines, "\n")
        for (i = 1; i <= n; i++) {
          m = split(lines[i], rooms, "|")
          for (j = 1; j <= m; j++) {
            k = split(rooms[j], paths, " ")
            for (l = 1; l <= k; l++) { floor_of[paths[l]] = i; room_of[paths[l]] = i "." j }
          }
        }
      }
      {
        split($0, where, ":"); file = where[1]
        from = room(file)
        if (from == "") { if (!(file in told)) say("stands in no room of tests/floors_test.sh"); told[file] = 1; next }
        match($0, /[<"][^>"]*[>"]/); name = substr($0, RSTART + 1, RLENGTH - 2)
        folder = file; sub(/[^\/]*$/, "", folder)
        target = clean(folder name)
        if (!exists(target)) target = "include/" name
        if (!exists(target)) target = "narrow/include/" name
        if (exists(target)) {
          to = room(target)
          if (to == "") say("includes " target ", which stands in no room")
          else if (room_of[to] != room_of[from] && floor_of[to] >= floor_of[from])
            say("a file of " from " includes " target)
        } else if (name ~ /^(llama|ggml.*|gguf)\.h$/ && from != llama_room) {
          say("only " llama_room " may include " name)
        }
      }
      END { exit bad }'
)

# The check itself: each of these files must be found out.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/include/gsd" "$scratch/src/core" "$scratch/src/llama" "$scratch/src/server" "$scratch/src/bench" "$scratch/src/app" "$scratch/src/attic" "$scratch/capi"
touch "$scratch/include/gsd/llama.h" "$scratch/include/gsd/types.h" "$scratch/src/core/a.h" "$scratch/src/server/a.h"
echo '#include "gsd/types.h"' >"$scratch/src/core/right.cpp"
echo '#include "../core/a.h"' >"$scratch/src/server/right.cpp"
check "$scratch" || { echo "FAILED: refuses what is allowed"; exit 1; }
for wrong in 'include/gsd/b.h:"../../src/core/a.h"' 'src/core/b.cpp:"gsd/llama.h"' 'src/core/b.cpp:<llama.h>' \
  'src/llama/b.cpp:"../server/a.h"' 'src/bench/b.cpp:"../server/a.h"' 'src/app/b.cpp:<ggml-cpu.h>' 'src/attic/b.cpp:<vector>'; do
  echo "#include ${wrong#*:}" >"$scratch/${wrong%%:*}"
  if check "$scratch" >/dev/null; then echo "FAILED: does not see that ${wrong%%:*} includes ${wrong#*:}"; exit 1; fi
  rm "$scratch/${wrong%%:*}"
done

check "$1"
