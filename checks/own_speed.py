"""`qwick bench --json` as a child of a check (`children.py`): same arguments, same report."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from telling import give

from qwick.cli.bench import bench


def main() -> None:
    """Run the verb and hand over what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        bench.main([*sys.argv[1:], "--json"], standalone_mode=False)
    give(json.loads(printed.getvalue()))


if __name__ == "__main__":
    main()
