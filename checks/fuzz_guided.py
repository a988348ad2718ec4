"""The readers under a coverage-guided fuzzer: inputs that reach new code are changed further.

    python -m checks.fuzz_guided gguf --seconds 300
    python -m checks.fuzz_guided safetensors --seconds 300
    python -m checks.fuzz_guided folder --seconds 300       # the input is config.json

Needs atheris (libFuzzer for Python: github.com/google/atheris), which fits few versions of Python
and sees no code that is installed editable: give it an environment of its own,

    python3 -m venv build/fuzz/venv && build/fuzz/venv/bin/pip install atheris '.[test]'
    build/fuzz/venv/bin/python -m checks.fuzz_guided gguf

What is learnt stays in build/fuzz/corpus-TARGET, so that a later run goes on from there. An input
that fails is left in build/fuzz; give it as --input to see it again. Exit code 1: something failed;
77: atheris is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from checks import NOT_CHECKED

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "fuzz"
INSTRUMENTED = ("qwick.formats", "qwick.text.recognise", "qwick.text.tokenizer", "qwick.model.arch")
# atheris keeps the result of every comparison that is no bool: here arrays, 100 KB for each input.
LEFT_OUT = ("qwick.formats.strings",)
SECONDS_EACH = 5

# The file of a sound checkpoint that the input takes the place of: specimen, name.
TARGETS = {
    "gguf": ("gguf", "m.gguf"),
    "split": ("split", "m-00002-of-00003.gguf"),
    "safetensors": ("folder", "model.safetensors"),
    "folder": ("folder", "config.json"),
    "index": ("sharded", "model.safetensors.index.json"),
    "tokenizer": ("folder", "tokenizer.json"),
}


def tester(target: str, folder: Path) -> Callable[[bytes], None]:
    """Return what reads an input in its place in `folder`; any error but ours goes through."""
    from checks.hostile import Case, read, specimens

    specimen, name = TARGETS[target]
    sound = specimens(None)[specimen]
    Case(specimen, {n: raw for n, raw in sound.files.items() if n != name}, "").write(folder)
    path = folder / name
    entry = folder / (sound.entry or "")

    def test(raw: bytes) -> None:
        path.unlink(missing_ok=True)  # what is mapped still may not change
        path.write_bytes(raw)
        try:
            read(entry)
        except BaseException as error:
            # A panic of the tokenizers library is no Exception, and atheris would let it pass.
            if isinstance(error, (Exception, KeyboardInterrupt, SystemExit)):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return test


def seeds(target: str, corpus: Path) -> None:
    """Put the sound file, and some that were damaged by kind, into the corpus."""
    import random

    from checks.damage import Parts, damage_gguf, damage_json, damage_safetensors
    from checks.hostile import specimens

    specimen, name = TARGETS[target]
    raw = specimens(None)[specimen].files[name]
    assert raw
    rng = random.Random(0)
    for number in range(60):
        path = corpus / f"seed-{number}"
        if number == 0:
            path.write_bytes(raw)
        elif name.endswith(".gguf"):
            parts = Parts.of(raw)
            damage_gguf(parts, rng)
            path.write_bytes(parts.bytes(rng)[: 1 << 14])
        else:
            damaged = damage_json if name.endswith(".json") else damage_safetensors
            path.write_bytes(damaged(raw, rng)[: 1 << 17])


def main() -> int:
    """Set atheris up and run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--input", type=Path, help="read this input once, without the fuzzer")
    given = parser.parse_args()
    os.environ.setdefault("QWICK_THREADS", "1")
    folder = OUT / f"{given.target}-files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if given.input is not None:
        tester(given.target, folder)(given.input.read_bytes())
        return 0
    try:
        import atheris
    except ImportError:
        print(f"atheris is not installed.\n\n{__doc__}", file=sys.stderr)
        return NOT_CHECKED
    with atheris.instrument_imports(include=list(INSTRUMENTED), exclude=list(LEFT_OUT)):
        test = tester(given.target, folder)
    corpus = OUT / f"corpus-{given.target}"
    corpus.mkdir(exist_ok=True)
    seeds(given.target, corpus)
    options = [f"-max_total_time={given.seconds}", f"-timeout={SECONDS_EACH}", "-max_len=131072"]
    options += ["-rss_limit_mb=2048", f"-artifact_prefix={OUT}/{given.target}-"]
    options += ["-print_final_stats=1", "-use_value_profile=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
