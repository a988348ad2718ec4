#!/usr/bin/env bash
# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: builds the extension with both into build/sanitize and
# runs the kernel tests on it (Debian: g++ alone is enough). Run from anywhere: checks/sanitizers.sh [-- pytest arguments]
# Needs an environment with qwick's test extras, cmake and ninja; PYTHON names it (default .venv/bin/python).
usage="usage: checks/sanitizers.sh [--help] [-- PYTEST ARGUMENTS]"
case "${1:-}" in
  -h | --help)
    printf '%s\n\n' "$usage"
    sed -n '2,/^[^#]/s/^# //p' "$0"
    exit 0
    ;;
  "") ;;
  --) shift ;;
  *)
    printf '%s\n%s: no such option: %s\n' "$usage" "$0" "$1" >&2
    exit 2
    ;;
esac
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
build=build/sanitize
"$python" -m cmake --version >/dev/null 2>&1 && cmake=("$python" -m cmake) || cmake=(cmake)

# No vptr check: it needs the run-time type information of the Python side.
flags="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g"
"${cmake[@]}" -S . -B "$build" -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="$flags" -DQWICK_OPTIMIZE=-O1 \
  -DPython_EXECUTABLE="$(command -v "$python")" -DSKBUILD_SABI_VERSION=3.10 -DSKBUILD_SABI_COMPONENT=Development.SABIModule
"${cmake[@]}" --build "$build" --parallel

# A package tree of its own, with the sanitized extension in it.
rm -rf "$build/src" && cp -r src "$build/src" && cp "$build"/_native*.so "$build/src/qwick/native/"
# The interpreter itself leaks at exit; the C++ side is asked about by name in its own tests.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH="$build/src" \
  "$python" -m pytest -p no:cacheprovider tests/native "$@"
