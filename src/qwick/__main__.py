"""`python -m qwick`: the command line."""

from __future__ import annotations

import sys


def _main() -> int:
    from qwick.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
