"""The referee: qwick beside other engines on one machine. See `__main__.py`."""
