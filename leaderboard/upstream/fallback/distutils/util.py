"""`strtobool`."""

from __future__ import annotations

_TRUE = ("y", "yes", "t", "true", "on", "1")
_FALSE = ("n", "no", "f", "false", "off", "0")


def strtobool(val: str) -> int:
    """1 or 0 for a word.

    Raises:
        ValueError: it is none of the known ones.
    """
    word = val.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"{val!r} is none of {', '.join(_TRUE + _FALSE)}")
    return int(word in _TRUE)
