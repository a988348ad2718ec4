#!/usr/bin/env bash
# The native code under AddressSanitizer and UndefinedBehaviorSanitizer: builds the extension with both into build/sanitize
# (Debian: g++ alone is enough), runs the kernel tests on it, and then has it read, decode and pack 10,000 damaged
# checkpoints. Run from anywhere: checks/sanitizers.sh [-- PYTEST ARGUMENTS]; with arguments the tests alone are run.
# Needs an environment with qwick's test extras; PYTHON names its interpreter (default .venv/bin/python).
usage="usage: checks/sanitizers.sh [--help] [-- PYTEST ARGUMENTS]"
case "${1:-}" in
  -h | --help)
    printf '%s\n\n' "$usage"
    sed -n '2,/^[^#]/s/^# //p' "$0"
    exit 0
    ;;
  "") arguments=() ;;
  --) shift && arguments=("$@") ;;
  *)
    printf '%s\n%s: no such option: %s\n' "$usage" "$0" "$1" >&2
    exit 2
    ;;
esac
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/build/sanitize
given=$(command -v "${PYTHON:-.venv/bin/python}")

# An environment of its own sees the sanitized package first, then what the given one has installed. By path alone: the
# hook of an editable installation would bring the plain extension instead.
python=$build/venv/bin/python
[ -x "$python" ] || "$given" -m venv "$build/venv"
requirements() { "$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'; }
mapfile -t requires < <(requirements)
"$python" -m pip install -q cmake ninja "${requires[@]}"
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }
printf '%s\n' "$build/src" "$(site "$given")" >"$(site "$python")/sanitized.pth"

# No vptr check: it needs the run-time type information of the Python side.
flags="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g"
"$python" -m cmake -S . -B "$build" -G Ninja -DCMAKE_MAKE_PROGRAM="$build/venv/bin/ninja" -DCMAKE_BUILD_TYPE=None \
  -DCMAKE_CXX_FLAGS="$flags" -DQWICK_OPTIMIZE=-O1 -DQWICK_EMULATIONS=ON -DPython_EXECUTABLE="$python" \
  -DSKBUILD_SABI_VERSION=3.10 -DSKBUILD_SABI_COMPONENT=Development.SABIModule
"$python" -m cmake --build "$build"
rm -rf "$build/src" && cp -r src "$build/src" && cp "$build"/_native*.so "$build/src/qwick/native/"

LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
# The interpreter itself leaks at exit; the C++ side is asked about by name in its own tests.
export LD_PRELOAD ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
loaded=$("$python" -c 'import qwick.native._native as native; print(native.__file__)')
case $loaded in
  "$build"/*) ;;
  *)
    echo "not the sanitized extension, but $loaded is loaded" >&2
    exit 1
    ;;
esac
# Faults are told on the real stderr, which pytest would otherwise hold when the process ends.
"$python" -m pytest -p no:cacheprovider --capture=sys tests/native "${arguments[@]}"
if [ "${#arguments[@]}" = 0 ]; then
  "$python" -m checks.fuzz_readers --synthetic --unlimited --count 10000 --seconds 20
fi
