#!/usr/bin/env bash
# Installs the distribution packages that are missing, by apt, as root or with password-less sudo; otherwise
# prints the one line to type and stops. Debian 12, Ubuntu 24.04 and later. Usage: setup.sh build [test] [fuzz]
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

build_packages=(g++ cmake ninja-build ccache libfmt-dev libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev
  libcurl4-openssl-dev libgtest-dev libgmock-dev python3-venv curl ca-certificates)
test_packages=(git)
# The page at / is tested in a browser; without one those tests say so and are skipped. Ubuntu's package is a
# stub for snap.
if [ -r /etc/os-release ] && grep -qx 'ID=debian' /etc/os-release &&
  ! command -v chromium chromium-browser google-chrome >/dev/null; then
  test_packages+=(chromium)
fi
# hip_gate.sh compiles the GPU kernels for AMD with what Debian 12 has; elsewhere it says so and is skipped.
if [ -r /etc/os-release ] && grep -qx 'VERSION_CODENAME=bookworm' /etc/os-release; then
  test_packages+=(clang-19 lld-19 llvm-19 libamdhip64-dev rocm-device-libs)
fi
fuzz_packages=(clang-19 libclang-rt-19-dev)

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup: no apt here; needed: ${build_packages[*]} and Boost 1.81 or later (headers)"
  exit 0
fi

wanted=()
for part in "$@"; do
  case $part in
    build) wanted+=("${build_packages[@]}") ;;
    test) wanted+=("${test_packages[@]}") ;;
    fuzz) wanted+=("${fuzz_packages[@]}") ;;
    *) echo "setup: unknown part $part" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=absent
  [ "$status" = installed ] || missing+=("$package")
done

# Boost.JSON and Asio in the forms used here came with 1.81; Debian 12's default is 1.74.
boost_version() {
  local prefix
  for prefix in /usr/local /usr; do
    [ ! -f $prefix/include/boost/version.hpp ] ||
      awk '/^#define BOOST_VERSION / {print $3}' $prefix/include/boost/version.hpp
  done | sort -n | tail -n 1
}
newest_boost_package() {
  apt-cache pkgnames libboost1. | sed -n 's/^libboost\(1\.[0-9]*\)-dev$/\1/p' | sort -V | tail -n 1
}
installed_boost=$(boost_version)
need_boost=no
[ "${installed_boost:-0}" -ge 108100 ] || need_boost=yes

if [ ${#missing[@]} -eq 0 ] && [ $need_boost = no ]; then
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    [ $need_boost = no ] || missing+=("libboost$(newest_boost_package)-dev")
    echo "setup: packages are missing; install them with this line, then run make again:"
    echo "  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
    exit 1
  fi
fi

export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
[ $need_boost = no ] || missing+=("libboost$(newest_boost_package)-dev")
echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
