#!/bin/bash
# The Python package as a wheel gives it. Usage: python_test.sh BUILD CHECKOUT GSD
set -u
build=$(realpath "$1") checkout=$(realpath "$2") gsd=$(realpath "$3")
python3 -c 'import cffi' 2>/dev/null || { echo "SKIPPED: no Python with cffi (Debian: python3-cffi)"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
export OMP_WAIT_POLICY=PASSIVE XDG_CACHE_HOME=$dir/cache GSD_MODELS=$checkout/models GSD_PROGRAM=$gsd PYTHONDONTWRITEBYTECODE=1

cmake --install "$build" --prefix "$dir/tree" --component gsd_library >"$dir/log" || fail "install: $(cat "$dir/log")"
wheel=$(python3 "$checkout/python/build_wheel.py" "$dir/tree" "$dir/a folder") || fail "no wheel"
rm -rf "$dir/tree"
if python3 -m pip --version >/dev/null 2>&1; then
  python3 -m pip install -q --no-index --no-deps --target "$dir/site" "$wheel" 2>"$dir/log" || fail "pip: $(cat "$dir/log")"
else
  python3 -m zipfile -e "$wheel" "$dir/site" && chmod -R +x "$dir/site/gsd/lib" || fail "the wheel does not unpack"
fi
export PYTHONPATH=$dir/site
cd "$dir" || exit 1
cp "$checkout/python/test_gsd.py" .

start=(python3)
if ls site/gsd/lib/gsd/ld-linux* >/dev/null 2>&1; then
  # An older system: said in a sentence, and the way that leads on.
  start=(python3 -m gsd)
  if ! python3 -c 'import ctypes; ctypes.CDLL("'"$dir"'/site/gsd/lib/gsd/libllama.so.0")' 2>/dev/null; then
    python3 -c 'import gsd; gsd.version()' 2>"$dir/err" && fail "libgsd.so loads where libllama does not"
    grep -q "^ImportError: .*python3 -m gsd SCRIPT" "$dir/err" || fail "the sentence: $(cat "$dir/err")"
  fi
  [ "$(python3 -m gsd -c 'import sys; print(sys.argv[1:])' a 'b c')" = "['a', 'b c']" ] || fail "arguments are lost"
  python3 -m gsd -c 'import sys; sys.exit(7)'
  [ $? = 7 ] || fail "the exit code is lost"
fi
if python3 -c 'import pytest' 2>/dev/null; then
  "${start[@]}" -m pytest -q test_gsd.py
else
  "${start[@]}" -m unittest -q test_gsd
fi || fail "see above"
grep -rlF "$checkout" site && fail "these name the checkout"
echo "all passed"
