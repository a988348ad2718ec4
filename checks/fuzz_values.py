"""Public functions with values that nobody should pass: a result or one of qwick's errors, always.

Each example takes one function of the table in tests/values, one of its arguments and a made-up
value (wrong types, NaN, huge numbers, half UTF-16 pairs, nested lists, iterators without end ...),
sound values for the others, and calls it on a small model and a small store. What must come within
a minute is a result, if the value is of a kind that the argument takes, or an error of ours.

    python -m checks.fuzz_values                     # 20,000 examples, some minutes
    python -m checks.fuzz_values --examples 500 --seed 7 --json

Exit code 1: something else came. The example is shown as small as it could be made.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from qwick import settings as variables
from qwick.errors import shown
from values.hostile import TREES, UNSHOWABLE, endless
from values.kinds import judge
from values.table import TABLE
from values.world import World

BATCH = 200  # examples between two looks at the progress
NAMES = sorted(name for name, case in TABLE.items() if case.arguments)


def try_examples(world: World, count: int, start: int) -> str | None:
    """Run `count` examples; return what went wrong, or None."""

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def example(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES))
        case = TABLE[name]
        argument = data.draw(st.sampled_from(sorted(case.arguments)))
        value: Any = data.draw(TREES)
        rare = data.draw(st.integers(0, 9 * (len(UNSHOWABLE) + len(endless()))))
        if rare and rare % 9 == 0:
            value = (*UNSHOWABLE, *endless())[rare // 9 - 1]
        places = {n: data.draw(st.integers(0, len(k.sound) - 1)) for n, k in case.arguments.items()}
        others = {n: case.arguments[n].sound[place] for n, place in places.items() if n != argument}
        problem = judge(case, world, argument, value, **others)
        assert problem is None, f"{name}({argument}={shown(value, 300)}): {problem}"

    try:
        example()
    except AssertionError as error:
        return str(error).splitlines()[0]
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the check and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.fuzz_values",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=20_000, help="[20000]")
    parser.add_argument("--seed", type=int, help="default: a new one each time")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    arguments = parser.parse_args(argv)
    if arguments.examples < 1:
        parser.error(f"--examples is {arguments.examples}; allowed: 1 or more")
    begun, chosen = time.perf_counter(), arguments.seed
    chosen = random.SystemRandom().randrange(2**32) if chosen is None else chosen
    problem, done = None, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        variables.HOME.changed(f"{folder}/home"),
        variables.OFFLINE.changed("1"),
        click.progressbar(
            length=arguments.examples,
            file=sys.stderr,
            hidden=arguments.json or not sys.stderr.isatty(),
        ) as bar,
    ):
        world = World(Path(folder))
        while done < arguments.examples and problem is None:
            count = min(BATCH, arguments.examples - done)
            problem = try_examples(world, count, chosen + done)
            done += count
            bar.update(count)
        world.close()
    if problem is not None:
        print(f"fuzz_values: {problem}", file=sys.stderr)
    told = {
        "fuzz_values": "holds" if problem is None else "fails",
        "examples": done,
        "seed": chosen,
        "functions": len(NAMES),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(told))
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
