#!/usr/bin/env bash
# The C++ tests for 64-bit ARM: cross-compiled and run in an emulator, or as they are on such a machine.
#   scripts/test_arm.sh [--required]    with --required, missing tools are a failure and not a reason to skip
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/arm options=(-DGOSSAMER_TESTS=ON)

have_tools() { command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } >/dev/null

if [ "$(uname -m)" != aarch64 ]; then
  if ! have_tools && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -q && apt-get install -qy g++-aarch64-linux-gnu qemu-user; } || true
  fi
  if ! have_tools; then
    echo "test-arm: skipped: no aarch64-linux-gnu-g++ or no qemu-aarch64; on Debian and Ubuntu:" >&2
    echo "  apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    [ "${1:-}" != --required ]
    exit
  fi
  options+=(-DCMAKE_TOOLCHAIN_FILE=csrc/aarch64.cmake)
fi

cmake -S . -B $folder "${options[@]}"
cmake --build $folder --parallel "$(nproc)"
ctest --test-dir $folder --output-on-failure --parallel 2
# A CPU without dotprod: nothing outside of the NEON level may use it.
QEMU_CPU=cortex-a72 ctest --test-dir $folder --output-on-failure --tests-regex rows_test
