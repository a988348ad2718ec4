"""A config's keys, read with their type and range; errors name key, value and limit.

Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwick.errors import ConfigError


class Config:
    """Typed look-ups. A key whose value is null counts as missing, as it does in transformers."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def count(self, key: str, limit: int, default: int | None = None) -> int:
        """Return a whole number from 1 to the limit; ConfigError, as all of these."""
        value = self._get(key, default)
        if type(value) is not int or not 1 <= value <= limit:
            raise refused_key(key, value, f"allowed: a whole number from 1 to {limit}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from low to high."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise refused_key(key, value, f"allowed: {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(key, default)
        if type(value) is not bool:
            raise refused_key(key, value, "allowed: true or false")
        return value

    def expect(self, key: str, implemented: str | bool | int) -> None:
        """Refuse any value but the one that is implemented; a missing key is that one."""
        value = self._get(key, implemented)
        if type(value) is not type(implemented) or value != implemented:
            raise refused_key(key, value, f"implemented: {implemented!r}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"the config has no key {key!r}")
        return value


def refused_key(key: str, value: object, allowed: str, hint: str | None = None) -> ConfigError:
    """Return the error for a key whose value will not do."""
    return ConfigError(f"the config says {key}={value!r:.100}; {allowed}", hint=hint)
