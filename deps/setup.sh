#!/usr/bin/env bash
# Puts what the build needs into <checkout>/.prefix: libllama, ggml, a C library new enough for them, and the helper
# libraries, all from Debian packages pinned in deps/packages.lock. Needs no root and changes nothing on the system.
# Where the system already has libllama 0.7 or newer, only the helpers are fetched; where there is no Debian, nothing is:
# CMake then fetches llama.cpp's source (cmake/GsdDependencies.cmake). A second call takes milliseconds.
set -euo pipefail
umask 022
export LC_ALL=C

usage() {
  cat <<'TEXT'
Usage: deps/setup.sh [--group GROUP]... [--use-prefix]
       deps/setup.sh --relock > packages.lock.new

  --group GROUP   also fetch an optional group of deps/packages.lock: peers (llama.cpp's own tools), rpc (layers on other
                  machines), vulkan (graphics processors) or mesa (a Vulkan driver on the CPU, for tests)
  --use-prefix    fetch libllama even where the system has it (CMake: -DGSD_USE_PREFIX=ON)
  --relock        print deps/packages.lock with the newest versions of the suite, and fetch nothing
TEXT
}

readonly kSuite=forky               # the first Debian release with libllama 0.7
readonly kDefaultGroups="runtime dev headers test"
readonly kOptionalGroups="peers rpc vulkan mesa"
readonly kFormat=2                  # raise when what is unpacked changes without a change of the lock file
kSpaceNeededMb=250

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD
readonly lock_file=$root/deps/packages.lock
readonly prefix=$root/.prefix
readonly debs=$prefix/cache/debs     # verified downloads
readonly partial=$prefix/cache/partial
readonly apt=$prefix/cache/apt       # private state of apt
readonly stamp=$prefix/stamp

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

extra_groups=() use_prefix=${GSD_USE_PREFIX:-} relock='' system_llama=''
while (($#)); do
  case $1 in
    --group) extra_groups+=("${2:?--group needs the name of a group}") && shift 2 ;;
    --use-prefix) use_prefix=ON && shift ;;
    --relock) relock=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument '$1'." ;;
  esac
done
case $use_prefix in ON | on | 1 | TRUE | true | YES | yes) use_prefix=ON ;; *) use_prefix= ;; esac
for group in ${extra_groups[@]+"${extra_groups[@]}"}; do
  [[ " $kOptionalGroups " == *" $group "* ]] || die "unknown group '$group'; the optional groups are $kOptionalGroups."
  [[ $group != mesa ]] || kSpaceNeededMb=700
  use_prefix=ON # they need the libllama they were built with
done

# --- what is already there ---------------------------------------------------------------------------------------------

# The stamp is written last. Its first line holds this key, kFormat and the folder of the system's libllama where that is
# used; its second line the groups; then follow the packages.
lock_key() { sha256sum "$lock_file" | cut -c1-64; }

# True when the prefix was finished from this very lock file and holds every group asked for.
up_to_date() {
  [[ -r $stamp ]] || return 1
  local key format groups group system_llama
  { read -r key format system_llama && read -r groups; } <"$stamp" || return 1
  [[ $key == "$(lock_key)" && $format == "$kFormat" ]] || return 1
  [[ " $groups " == *" runtime "* ]] || [[ -z $use_prefix && -d $system_llama ]] || return 1
  for group in ${extra_groups[@]+"${extra_groups[@]}"}; do
    [[ " $groups " == *" $group "* ]] || return 1
  done
}

# --- prerequisites -----------------------------------------------------------------------------------------------------

install_hint() { # package on Debian, formula of Homebrew
  if [[ $(uname -s) == Darwin ]]; then echo "brew install $2"; else echo "sudo apt-get install $1"; fi
}

check_compiler() {
  local cxx macros
  for cxx in ${CXX:-c++ g++ clang++}; do
    command -v "$cxx" >/dev/null && break
  done
  command -v "$cxx" >/dev/null ||
    die "no C++ compiler was found; install one with: $(install_hint g++ gcc)"
  macros=$("$cxx" -std=c++20 -x c++ -dM -E - </dev/null 2>/dev/null) ||
    die "the compiler $cxx does not know C++20; install g++ 12 or newer with: $(install_hint g++ gcc)"
  local gcc clang
  gcc=$(awk '$2 == "__GNUC__" { print $3 }' <<<"$macros")
  clang=$(awk '$2 == "__clang_major__" { print $3 }' <<<"$macros")
  if [[ -n $clang ]]; then
    ((clang >= 15)) || die "clang $clang is too old, 15 or newer is needed; install it with: $(install_hint clang-15 llvm)"
  else
    ((${gcc:-0} >= 12)) || die "g++ ${gcc:-?} is too old, 12 or newer is needed; install it with: $(install_hint g++-12 gcc)"
  fi
}

# True when version $1 is at least version $2 (dotted numbers).
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n -k3,3n | head -n1) == "$2" ]]; }

check_prerequisites() {
  command -v make >/dev/null || die "make was not found; install it with: $(install_hint make make)"
  command -v cmake >/dev/null || die "CMake was not found; install it with: $(install_hint cmake cmake)"
  local version
  version=$(cmake --version | awk 'NR == 1 { print $3 }')
  at_least "$version" 3.25 ||
    die "CMake $version is too old, 3.25 or newer is needed; install it with: $(install_hint cmake cmake)"
  check_compiler
}

# --- where the packages come from --------------------------------------------------------------------------------------

os_release() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\).*/\1/p" /etc/os-release; }

is_debian() { # Debian itself: its packages need not fit its derivatives
  [[ -r /etc/os-release ]] && [[ $(os_release ID) == debian ]]
}

# Asks CMake, exactly as the build will, for a libllama of the system that is new enough. Prints its folder, or nothing.
find_system_llama() {
  local dir=$prefix/cache/probe
  rm -rf "$dir" && mkdir -p "$dir"
  if cmake -S "$root/cmake/probe" -B "$dir" >"$dir/log" 2>&1; then cat "$dir/found"; fi
  rm -rf "$dir"
}

# Writes a sources file for the suite whose URI and key are those of the machine's own Debian sources.
write_sources() {
  local codename files=()
  codename=$(os_release VERSION_CODENAME)
  for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ -r $file ]] && files+=("$file")
  done
  ((${#files[@]})) || die "no apt sources were found in /etc/apt; add Debian's own (see 'man sources.list') and try again."
  awk -v codename="${codename%%/*}" -v suite="$kSuite" -f "$root/deps/sources.awk" "${files[@]}" >"$apt/debian.sources"
  [[ -s $apt/debian.sources ]] ||
    die "no Debian archive with component main was found in the apt sources of /etc/apt; enable one and try again."
}

# A configuration of apt that reads the system's (proxies, credentials), but keeps all state below the prefix and runs
# none of the system's hooks.
write_apt_config() {
  {
    apt-config dump | grep -E '^Acquire::(http|https|ftp|tor|ForceIPv|AllowInsecure|AllowWeak|Retries|Check-Date)' || true
    cat <<TEXT
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt/state";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Log "$apt";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Retries "2";
APT::Update::Error-Mode "any";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
TEXT
  } >"$apt/apt.conf"
}

private_apt() { # PROGRAM ARGUMENT...: one of apt's programs on the private state
  APT_CONFIG=$apt/apt.conf "$@"
}

prepare_apt() {
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,state}
  : >"$apt/status"
  write_sources
  write_apt_config
}

fetch_index() { # [deb-src]
  [[ -z ${1:-} ]] || sed -i 's/^Types: deb$/Types: deb deb-src/' "$apt/debian.sources"
  say "reading the package index of Debian $kSuite"
  private_apt apt-get -q update >"$apt/log" 2>&1 || explain_apt "the package index of Debian $kSuite could not be fetched"
}

# Ends with one sentence about apt's last failure.
explain_apt() {
  local first
  first=$(grep -m1 '^E: ' "$apt/log" | cut -c4- || true)
  check_space
  if grep -qi 'hash sum mismatch' "$apt/log"; then
    die "$1: what the mirror sent does not have the expected checksum; run the same command again, or check the mirror named in the apt sources."
  fi
  if grep -qiE 'could not resolve|could not connect|connection (failed|timed out|refused)|temporary failure|unreachable|no route' "$apt/log"; then
    die "$1: the mirror named in this machine's apt sources cannot be reached; check the network (or http_proxy) and run the same command again."
  fi
  die "$1 ($first); the full log is ${apt#"$root"/}/log."
}

check_space() {
  local free_mb
  free_mb=$(df -Pk "$prefix" | awk 'NR == 2 { print int($4 / 1024) }')
  ((free_mb >= ${1:-5})) ||
    die "only $free_mb MB are free on the disk of $prefix, $kSpaceNeededMb MB are needed; make room and run the same command again."
}

# --- packages ----------------------------------------------------------------------------------------------------------

# Rows of the lock file, "name version arch sha256 group minimum source", of the groups given.
rows_of() {
  awk -v groups=" $* " '!/^#/ && NF { n = split($5, of, ","); for (i = 1; i <= n; i++) if (index(groups, " " of[i] " ")) { print; next } }' \
    "$lock_file"
}

file_name() { # name version arch: as Debian names the file
  case $3 in
    source:*) printf '%s_%s.orig.%s\n' "$1" "$2" "${3#source:}" ;;
    *) printf '%s_%s_%s.deb\n' "$1" "${2/:/%3a}" "$3" ;;
  esac
}

has_sum() { # file sha256
  [[ -f $1 ]] && [[ $(sha256sum "$1" | cut -c1-64) == "$2" ]]
}

# Keeps whatever an interrupted run had fetched completely.
salvage_partial() {
  mkdir -p "$debs" "$partial"
  local name version arch sum group minimum source file
  while read -r name version arch sum group minimum source; do
    file=$(file_name "$name" "$version" "$arch")
    if has_sum "$partial/$file" "$sum"; then mv "$partial/$file" "$debs/$file"; fi
  done < <(rows_of "$@")
  find "$partial" -mindepth 1 -delete
}

# One field of the index for a package, of a version or the newest one.
index_field() { # field name [version]
  private_apt apt-cache show --no-all-versions "$2${3:+=$3}" 2>/dev/null | awk -v f="$1:" '$1 == f { print $2; exit }' || true
}

# Prints the row of the newest version where the locked one is gone.
fall_back() { # name version arch group minimum source
  local newest sum
  newest=$(index_field Version "$1")
  [[ -n $newest ]] ||
    die "Debian $kSuite has no package $1 any more; take a newer release of this project, or change deps/packages.lock."
  dpkg --compare-versions "$newest" ge "$5" ||
    die "Debian $kSuite has $1 $newest, but at least $5 is needed; check the mirror named in the apt sources."
  sum=$(index_field SHA256 "$1")
  say "note: $1 $2 is no longer in Debian $kSuite; taking $newest, which satisfies the minimum $5"
  echo "$1 $newest $3 $sum $4 $5 $6"
}

pool_folder() { # source package: where Debian's archive keeps its files
  local letter=${1:0:1} uri
  [[ $1 == lib* ]] && letter=${1:0:4}
  uri=$(awk '$1 == "URIs:" { print $2; exit }' "$apt/debian.sources")
  echo "${uri%/}/pool/main/$letter/$1"
}

fetch_files() { # { address file checksum }...
  private_apt /usr/lib/apt/apt-helper -q download-file "$@" >"$apt/log" 2>&1
}

# Fetches one source archive; on success it lies in $partial under Debian's name.
fetch_source() { # name version extension sha256
  local file
  file=$(file_name "$1" "$2" "source:$3")
  fetch_files "$(pool_folder "$1")/$file" "$partial/$file" "SHA256:$4"
}

# Prints "version extension sha256" of the newest source of a package; needs the index fetched with deb-src.
newest_source() { # name
  private_apt apt-cache showsrc --only-source "$1" 2>/dev/null | awk -v prefix="$1_" '
    /^Checksums-Sha256:/ { on = 1; next }
    /^[^ ]/ { on = 0 }
    on && $3 ~ /\.orig\.tar\.[a-z0-9]+$/ {
      version = extension = substr($3, length(prefix) + 1)
      sub(/\.orig\..*/, "", version)
      sub(/.*\.orig\./, "", extension)
      print version, extension, $1
      exit
    }' || true
}

# Fetches the newest source where the locked one is gone, and prints its row.
fetch_newest_source() { # name version group minimum
  fetch_index deb-src
  local newest extension sum
  read -r newest extension sum < <(newest_source "$1") ||
    die "Debian $kSuite has no source package $1 any more; take a newer release of this project, or change deps/packages.lock."
  dpkg --compare-versions "$newest" ge "$4" ||
    die "Debian $kSuite has the source of $1 $newest, but at least $4 is needed; check the mirror named in the apt sources."
  say "note: the source of $1 $2 is no longer in Debian $kSuite; taking $newest, which satisfies the minimum $4"
  fetch_source "$1" "$newest" "$extension" "$sum" || explain_apt "the source of $1 could not be fetched"
  echo "$1 $newest source:$extension $sum $3 $4 $1"
}

# Downloads every row that the cache lacks and leaves the rows really taken in $prefix/cache/rows.
download() { # group...
  local rows=$prefix/cache/rows name version arch sum group minimum source
  salvage_partial "$@"
  rows_of "$@" >"$rows"
  local missing=0
  while read -r name version arch sum group minimum source; do
    has_sum "$debs/$(file_name "$name" "$version" "$arch")" "$sum" || missing=$((missing + 1))
  done <"$rows"
  if ((missing == 0)); then
    say "all $(wc -l <"$rows") packages are in the cache"
    return
  fi
  prepare_apt
  if ! download_from_pool "$rows"; then
    salvage_partial "$@"
    fetch_index
    choose_versions "$rows"
    download_packages "$rows"
  fi
  download_sources "$rows"
}

# Fetches the packages from where the archive keeps its current versions, which needs no index; false where it keeps others
# by now. Their checksums stand in the lock file.
download_from_pool() { # rows
  local files=() names=() name version arch sum group minimum source file
  while read -r name version arch sum group minimum source; do
    file=$(file_name "$name" "$version" "$arch")
    if [[ $arch == source:* ]] || has_sum "$debs/$file" "$sum"; then continue; fi
    names+=("$name")
    files+=("$(pool_folder "$source")/${name}_${version#*:}_$arch.deb" "$partial/$file" "SHA256:$sum")
  done <"$1"
  ((${#names[@]})) || return 0
  say "fetching ${#names[@]} packages: ${names[*]}"
  fetch_files "${files[@]}" || return 1
  find "$partial" -name '*.deb' -exec mv -t "$debs" {} +
}

# Replaces the binary packages in the rows that are no longer to be had by their newest version.
choose_versions() { # rows
  local name version arch sum group minimum source
  while read -r name version arch sum group minimum source; do
    if [[ $arch == source:* || -n $(index_field Version "$name" "$version") ]]; then
      echo "$name $version $arch $sum $group $minimum $source"
    else
      fall_back "$name" "$version" "$arch" "$group" "$minimum" "$source"
    fi
  done <"$1" >"$1.new"
  mv "$1.new" "$1"
}

download_packages() { # rows
  local wanted=() name version arch sum group minimum source file quiet=-qq
  while read -r name version arch sum group minimum source; do
    [[ $arch == source:* ]] && continue
    has_sum "$debs/$(file_name "$name" "$version" "$arch")" "$sum" || wanted+=("$name=$version")
  done <"$1"
  ((${#wanted[@]})) || return 0
  say "fetching ${#wanted[@]} packages: ${wanted[*]%%=*}"
  if ! (cd "$partial" && private_apt apt-get "$quiet" download "${wanted[@]}" >"$apt/log" 2>&1); then
    explain_apt "the packages could not be fetched"
  fi
  while read -r name version arch sum group minimum source; do
    file=$(file_name "$name" "$version" "$arch")
    [[ -f $partial/$file ]] || continue
    has_sum "$partial/$file" "$sum" ||
      die "$file does not have the checksum in deps/packages.lock; nothing was installed. Check the mirror named in the apt sources."
    mv "$partial/$file" "$debs/$file"
  done <"$1"
}

download_sources() { # rows
  local name version arch sum group minimum source file row
  while read -r name version arch sum group minimum source; do
    row="$name $version $arch $sum $group $minimum $source"
    file=$(file_name "$name" "$version" "$arch")
    if [[ $arch == source:* ]] && ! has_sum "$debs/$file" "$sum"; then
      say "fetching the source of $name $version"
      if ! fetch_source "$name" "$version" "${arch#source:}" "$sum"; then
        grep -q '404' "$apt/log" || explain_apt "the source of $name could not be fetched"
        row=$(fetch_newest_source "$name" "$version" "$group" "$minimum")
        read -r name version arch sum group minimum source <<<"$row"
        file=$(file_name "$name" "$version" "$arch")
      fi
      mv "$partial/$file" "$debs/$file"
    fi
    echo "$row"
  done <"$1" >"$1.new"
  mv "$1.new" "$1"
}

# --- unpacking ---------------------------------------------------------------------------------------------------------

# Removes what neither the build nor a program that runs from the prefix reads.
prune() { # directory
  local lib=$1/usr/lib/x86_64-linux-gnu
  rm -rf "${1:?}"/{etc,var,usr/sbin,usr/libexec} "$lib"/{gconv,audit,engines-3,ossl-modules,pkgconfig,cmake} "$lib"/libfmt.* \
    "$1"/usr/src/googletest/*/{test,docs,samples} "$1"/usr/src/benchmark/{bindings,docs,test,tools,bazel,cmake}
  find "$lib" -name 'libvulkan_*.so' ! -name libvulkan_lvp.so -delete # of hardware, which brings its own
  [[ ! -d $1/usr/share ]] ||
    find "$1/usr/share" -type f,l ! -path '*/doc/*/copyright' -delete
  find "$1" -type d -empty -delete
}

unpack() { # staging-directory: all rows of $prefix/cache/rows
  local name version arch sum group minimum source file
  while read -r name version arch sum group minimum source; do
    file=$debs/$(file_name "$name" "$version" "$arch")
    if [[ $arch == source:* ]]; then
      # CMake brings the decompressors that tar would have to be installed with; the archive holds a single folder.
      mkdir -p "$1/usr/src/unpacked" && (cd "$1/usr/src/unpacked" && cmake -E tar xf "$file") &&
        mv "$1"/usr/src/unpacked/* "$1/usr/src/$name"
    else
      dpkg-deb -x "$file" "$1"
    fi || { check_space 20 && die "$(basename "$file") could not be unpacked; delete $prefix and run the same command again."; }
  done <"$prefix/cache/rows"
  # The helpers lie apart, so that the core cannot see llama.h and a system's llama.h is never shadowed. Of cpp-httplib it
  # is upstream's single header: Debian's package splits it into a header and a library.
  mkdir -p "$1/usr/helpers"
  mv "$1"/usr/include/{CLI,nlohmann,fmt} "$1/usr/src/cpp-httplib/httplib.h" "$1/usr/helpers/"
  mkdir -p "$1/usr/share/doc/cpp-httplib" && mv "$1/usr/src/cpp-httplib/LICENSE" "$1/usr/share/doc/cpp-httplib/copyright"
  rm -rf "$1/usr/src/cpp-httplib"
  for file in "$1"/usr/libexec/*/llama/bin/ggml-rpc-server; do [[ ! -e $file ]] || mv "$file" "$1/usr/bin/"; done
  prune "$1"
  if compgen -G "$1/usr/bin/llama-*" >/dev/null; then wrap_peers "$1"; fi
}

# Makes usr/bin/llama-* and ggml-rpc-server callable as they are: each becomes a link to a script that starts the real program, moved to
# usr/libexec, with the prefix's loader. ggml looks for its backends beside that loader.
wrap_peers() { # directory
  local lib=$1/usr/lib/x86_64-linux-gnu tool
  mv "$1/usr/bin" "$1/usr/libexec" && mkdir "$1/usr/bin"
  cat >"$1/usr/bin/run-in-prefix" <<'TEXT'
#!/bin/sh
usr=$(dirname "$(dirname "$(readlink -f "$0")")")
lib=$usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib:$lib/llama" "$usr/libexec/$(basename "$0")" "$@"
TEXT
  chmod +x "$1/usr/bin/run-in-prefix"
  for tool in "$1"/usr/libexec/{llama,ggml}-*; do [[ -e $tool ]] || continue; ln -s run-in-prefix "$1/usr/bin/$(basename "$tool")"; done
  for tool in "$lib"/ggml/backends0/*.so; do ln -s "ggml/backends0/$(basename "$tool")" "$lib/"; done
}

# Starts the prefix's own loader on libllama: every library that it needs must be found.
verify() { # directory
  local lib=$1/usr/lib/x86_64-linux-gnu missing
  [[ -e $lib/libllama.so ]] || return 0
  missing=$("$lib/ld-linux-x86-64.so.2" --library-path "$lib" --list "$lib/libllama.so" 2>&1) ||
    die "libllama in the prefix does not start on this machine: $(head -n1 <<<"$missing")"
  missing=$(awk '/not found/ { print $1 }' <<<"$missing" | sort -u | tr '\n' ' ')
  [[ -z $missing ]] || die "libllama in the prefix lacks $missing; add its package to deps/packages.lock."
}

install_prefix() { # group...
  local staging=$prefix/staging
  rm -rf "$staging" "$prefix/old" && mkdir -p "$staging"
  say "unpacking into .prefix"
  unpack "$staging"
  verify "$staging"
  rm -f "$stamp"
  [[ ! -e $prefix/usr ]] || mv "$prefix/usr" "$prefix/old"
  mv "$staging/usr" "$prefix/usr"
  rm -rf "$staging" "$prefix/old" "$apt"
  { echo "$(lock_key) $kFormat $system_llama" && echo "$*" && awk '{ print $1, $2, $4 }' "$prefix/cache/rows"; } >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "done: $(wc -l <"$prefix/cache/rows") packages, $(du -sm "$prefix/usr" | cut -f1) MB in .prefix"
}

print_new_lock() {
  prepare_apt
  fetch_index deb-src
  local line name version arch sum group minimum source
  while IFS= read -r line; do
    if [[ -z $line || $line == '#'* ]]; then
      echo "$line"
      continue
    fi
    read -r name version arch sum group minimum source <<<"$line"
    if [[ $arch == source:* ]]; then
      read -r version arch sum < <(newest_source "$name") || die "Debian $kSuite has no source package $name any more."
      arch=source:$arch source=
    else
      version=$(index_field Version "$name") sum=$(index_field SHA256 "$name") arch=$(index_field Architecture "$name")
      [[ -n $version ]] || die "Debian $kSuite has no package $name any more."
      source=$(index_field Source "$name")
    fi
    printf '%-24s %-44s %-14s %s %-8s %-8s %s\n' "$name" "$version" "$arch" "$sum" "$group" "$minimum" "${source:-$name}"
  done <"$lock_file"
}

main() {
  [[ -z $relock ]] && up_to_date && return
  check_prerequisites
  mkdir -p "$prefix/cache" 2>/dev/null || die "$prefix cannot be written; run this in a checkout that you own."
  [[ -w $prefix && -w $prefix/cache ]] || die "$prefix belongs to another user; delete it or run this in a checkout that you own."
  if ! is_debian || [[ $(uname -m) != x86_64 ]]; then
    say "the pinned packages are for Debian on amd64; here CMake uses an installed libllama 0.7 or newer, or else builds llama.cpp from source."
    ((${#extra_groups[@]} == 0)) || die "the optional groups exist for Debian on amd64 only."
    return
  fi
  for tool in apt-get apt-cache apt-config dpkg-deb flock; do
    command -v $tool >/dev/null || die "$tool was not found, which Debian's own packages bring; install it with: sudo apt-get install apt dpkg util-linux"
  done

  exec 9>"$prefix/lock"
  if ! flock -n 9; then
    say "another set-up of this checkout is running; waiting for it"
    flock 9
    up_to_date && return
  fi
  if [[ -n $relock ]]; then print_new_lock && return; fi
  check_space "$kSpaceNeededMb"

  local groups=$kDefaultGroups
  [[ -n $use_prefix ]] || system_llama=$(find_system_llama)
  if [[ -n $system_llama ]]; then
    say "the system has libllama 0.7 or newer; fetching the helper libraries only (GSD_USE_PREFIX=ON takes the pinned one)"
    groups="headers test"
  fi
  if [[ -r $stamp ]]; then # keep the optional groups that are there
    for group in $kOptionalGroups; do
      if sed -n 2p "$stamp" | grep -qw "$group"; then extra_groups+=("$group"); fi
    done
  fi
  # shellcheck disable=SC2086,SC2046 # lists of words
  set -- $groups $(printf '%s\n' ${extra_groups[@]+"${extra_groups[@]}"} | sort -u)
  download "$@"
  install_prefix "$@"
}

main
