#!/usr/bin/env bash
# Compiles every kernel file outside kernels/gpu/*/sm90 for AMD's gfx942 and checks the code objects: the
# right ELF flag, no spilled vector register. Nothing is run: execution on AMD is untested. Needs clang-19,
# lld-19, libamdhip64-dev and rocm-device-libs (Debian 12's are enough: the shim below supplies what they
# lack); skips with a message where they are missing. Last line: 'N passed, N failed'.
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

clang=${HIP_CLANG:-clang-19}
# /opt/rocm is not used: its headers and bitcode fit its own clang only.
bitcode=$(ls -d /usr/lib/x86_64-linux-gnu/amdgcn/bitcode 2>/dev/null || dpkg -L rocm-device-libs 2>/dev/null | grep -m1 'bitcode$')
if ! command -v "$clang" >/dev/null || [ ! -d /usr/include/hip ] || [ ! -d "${bitcode:-/nonexistent}" ]; then
  echo "hip_gate: skipped: needs clang-19 lld-19 libamdhip64-dev rocm-device-libs"
  echo "0 passed, 0 failed"
  exit 0
fi

out=build/hip
shim=$PWD/$out/rocm-shim
mkdir -p "$shim/amdgcn/bitcode" "$shim/include" "$shim/lib" "$shim/share/hip"
ln -sf "$bitcode"/*.bc "$shim/amdgcn/bitcode/"
ln -sfn /usr/include/hip "$shim/include/hip"
cp /usr/share/hip/version "$shim/share/hip/" 2>/dev/null
# Debian's device bitcode stops at gfx940; what gfx942 needs is this constant.
printf '%s\n' 'target triple = "amdgcn-amd-amdhsa"' \
  '@__oclc_ISA_version = linkonce_odr protected local_unnamed_addr addrspace(4) constant i32 9402, align 4' |
  "$clang" -target amdgcn-amd-amdhsa -nogpulib -x ir -emit-llvm -c - -o "$shim/amdgcn/bitcode/oclc_isa_version_942.bc"

launcher=$(command -v ccache || true)
check() { # source
  local object=$out/$(echo "$1" | tr / _).hsaco log
  if ! log=$($launcher "$clang" -x hip --rocm-path="$shim" --offload-arch=gfx942 -std=c++20 -O3 -I. -Wall -Werror \
    -Wno-unused-command-line-argument --cuda-device-only --no-gpu-bundle-output -c "$1" -o "$object" 2>&1); then
    echo "$1: does not compile: $log"
    return 1
  fi
  local notes
  notes=$(llvm-readelf-19 --file-header --notes "$object" 2>/dev/null)
  if ! grep -q -i 'gfx942' <<<"$notes"; then
    echo "$1: not a code object for gfx942"
    return 1
  fi
  local spilled
  spilled=$(grep 'vgpr_spill_count' <<<"$notes" | awk '$2 != 0' | wc -l)
  if [ "$spilled" != 0 ]; then
    echo "$1: $spilled kernels spill vector registers"
    return 1
  fi
  echo "$1: $(grep -c '\.vgpr_spill_count' <<<"$notes") kernels"
}

passed=0
failed=0
for source in $(find kernels/gpu -name '*.cu' -not -path '*/sm90/*' -not -name '*_benchmark.cu' | sort); do
  if check "$source"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
