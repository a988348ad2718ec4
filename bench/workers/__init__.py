"""One program per engine, run in that engine's own interpreter. See `common.py`."""
