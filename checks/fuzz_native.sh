#!/usr/bin/env bash
# What native code sees of a file's bytes (packing and its way back, the tables of byte pair encoding) under libFuzzer with
# AddressSanitizer and UndefinedBehaviorSanitizer. Run from anywhere: checks/fuzz_native.sh [seconds for each, default 60]
# Needs clang with its runtime (Debian: clang-14 libclang-rt-14-dev; CLANG names another). What is learnt stays in
# build/fuzz/corpus-*, so that a later run goes on from there; an input that fails is left in build/fuzz. Exit code 1: one did.
set -euo pipefail
usage="usage: checks/fuzz_native.sh [--help] [SECONDS]"
[[ ${1:-} == --help ]] && { printf '%s\n\n' "$usage"; sed -n '2,5s/^# //p' "$0"; exit; }
cd "$(dirname "$0")/.."
seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "the seconds are '$seconds'; allowed: a whole number from 1" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
clang=${CLANG:-$(command -v clang++ || command -v clang++-14 || command -v clang++-19 || echo clang++)}
out=build/fuzz
mkdir -p "$out"
stored=$("$python" -c 'from qwick.quant.types import StoredType
print(",".join(f"\"{t.name.lower()}\"" for t in StoredType))')

failed=0
for target in ${TARGETS:-pack bpe}; do
  number=$([[ $target == pack ]] && echo 1 || echo 2)
  "$clang" -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -Wno-psabi -DQWICK_TARGET="$number" "-DQWICK_STORED=$stored" -Icsrc checks/fuzz_native.cpp \
    csrc/bpe.cpp csrc/pack.cpp csrc/packed.cpp csrc/pool.cpp csrc/stored.cpp -pthread -o "$out/$target"
  mkdir -p "$out/corpus-$target"
  echo "== $target, $seconds s"
  "$out/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
    -artifact_prefix="$out/$target-" "$out/corpus-$target" </dev/null >"$out/$target.log" 2>&1 || failed=1
  grep -E 'INITED|DONE|ERROR|runtime error|SUMMARY|Test unit|stat::(number_of_executed|new_units|peak)' "$out/$target.log" || true
  grep -q DONE "$out/$target.log" || { echo "$target did not come to its end: $out/$target.log" >&2; failed=1; }
done
exit "$failed"
