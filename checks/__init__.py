"""Heavy runs, each a command: `python -m checks.NAME --help`. CONTRIBUTING.md lists them."""

NOT_CHECKED = 77
"""Exit code of a check that something was missing for, as automake and meson have it."""
