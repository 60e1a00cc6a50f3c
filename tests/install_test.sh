#!/bin/bash
# An installed tree and the packages run anywhere: moved, without the checkout, as another user, from another folder.
# Usage: install_test.sh BUILD CHECKOUT GSD
set -u
build=$1 checkout=$2 gsd=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
cp "$checkout"/models/toy-*.gguf "$dir"
pair=(-m "$dir/toy-target.gguf" -d "$dir/toy-draft.gguf" --no-profile)

# Runs a command in an empty environment and folder, as nobody and without the checkout where this machine lets us.
outside=()
if unshare -m true 2>/dev/null; then
  # shellcheck disable=SC2016
  outside=(unshare -m sh -c 'mount -t tmpfs none "$0" && exec "$@"' "$checkout")
elif unshare -rm true 2>/dev/null; then
  # shellcheck disable=SC2016
  outside=(unshare -rm sh -c 'mount -t tmpfs none "$0" && exec "$@"' "$checkout")
else
  echo "note: the checkout cannot be hidden here"
fi
[ "$(id -u)" != 0 ] || outside+=(setpriv --reuid=65534 --regid=65534 --clear-groups)
case $dir/ in "$checkout"/*) echo "SKIPPED: TMPDIR lies in the checkout" && exit 77 ;; esac
outside() { (cd / && env -i PATH=/usr/bin:/bin "${outside[@]}" "$@"); }

version=$(cd / && "$gsd" --version) || fail "--version of the build"
text=$("$gsd" generate "${pair[@]}" -p "# tar" -n 40 --exact 2>/dev/null) || fail "generate of the build"

# check NAME ROOT: the tree below ROOT, moved to a folder with a space in its name.
check() {
  local name=$1 tree="$dir/another place/$1" file
  echo "== $name"
  mkdir -p "$dir/another place" && mv "$2" "$tree" || { fail "$name: no tree"; return; }
  if [ "$(outside ls "$checkout" 2>/dev/null)" != "" ] && [ "${outside[0]:-}" = unshare ]; then fail "the checkout is not hidden"; fi
  [ "$(outside "$tree/bin/gsd" --version)" = "$version" ] || fail "$name: --version says $(outside "$tree/bin/gsd" --version 2>&1), the build $version"
  [ "$(outside "$tree/bin/gsd" generate "${pair[@]}" -p "# tar" -n 40 --exact 2>"$dir/err")" = "$text" ] || fail "$name: another text: $(cat "$dir/err")"
  ln -sf "$tree/bin/gsd" "$dir/link"
  outside "$dir/link" inspect "${pair[@]}" >"$dir/out" 2>&1 || fail "$name: through a link: $(cat "$dir/out")"
  outside "$tree/bin/gsd" generate -m /none -p x 2>"$dir/err"
  [ $? = 3 ] || fail "$name: the exit code is lost: $(cat "$dir/err")"
  # Every library that any of its files needs lies in the tree.
  for file in "$tree"/lib/gsd/gsd "$tree"/lib/gsd/*.so* "$tree"/lib/gsd/ggml/*/*.so; do
    [ -e "$tree/lib/gsd/libc.so.6" ] || break # a system's libllama needs no copies
    case $file in */ld-linux*) continue ;; esac
    "$tree"/lib/gsd/ld-linux* --library-path "$tree/lib/gsd" --list "$file" >"$dir/list" || fail "$name: $file does not load"
    grep -v vdso "$dir/list" | awk '$2 == "=>" { sub(/.*=> /, ""); print }' | grep -vF "$tree/lib/gsd/" && fail "$name: $file needs these"
  done
  grep -rlF "$checkout" "$tree" && fail "$name: these name the checkout"
  [ -n "$(find "$tree" ! -perm -o+r ! -type l)" ] && fail "$name: not readable for everybody"
  for file in share/doc/gsd/copyright share/man/man1/gsd.1 share/bash-completion/completions/gsd \
    share/fish/vendor_completions.d/gsd.fish share/zsh/site-functions/_gsd; do
    [ -s "$tree/$file" ] || fail "$name: no $file"
  done
  if [ -e "$tree/lib/gsd/libc.so.6" ]; then
    for file in libllama0 libggml0 libc6 gcc-*-base LGPL-2.1 GPL-3 cpp-httplib; do
      [ -s "$(echo "$tree"/share/doc/gsd/licences/$file)" ] || fail "$name: no licence $file"
    done
  fi
}

umask 022
DESTDIR=$dir/staging cmake --install "$build" --prefix /opt/gsd >"$dir/log" || fail "install: $(cat "$dir/log")"
(cd "$build" && cpack -B "$dir/packages") >"$dir/log" 2>&1 || fail "cpack: $(cat "$dir/log")"
check installed "$dir/staging/opt/gsd"
[ "$(ls -A "$dir/staging/opt")" = "" ] || fail "something else was installed"

mkdir "$dir/tgz" && tar xf "$dir"/packages/gsd-*.tar.gz -C "$dir/tgz" --strip-components 1 || fail "the tarball does not unpack"
check tarball "$dir/tgz"
if command -v dpkg-deb >/dev/null; then
  dpkg-deb -x "$dir"/packages/gsd_*.deb "$dir/deb" || fail "the .deb does not unpack"
  dpkg-deb -c "$dir"/packages/gsd_*.deb | awk '$2 != "root/root" || $6 !~ "^./usr/"' | grep -v ' \./$' && fail "the .deb holds these"
  check deb "$dir/deb/usr"
fi

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
