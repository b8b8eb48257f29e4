"""`LooseVersion`: numbers compare as numbers, words as words."""

from __future__ import annotations

import re
from functools import total_ordering


@total_ordering
class LooseVersion:
    """A version of any form."""

    def __init__(self, vstring: str) -> None:
        self.vstring = vstring
        parts = re.findall(r"\d+|[a-z]+", vstring.lower())
        self.version: list[int | str] = [int(part) if part.isdigit() else part for part in parts]

    def __str__(self) -> str:
        return self.vstring

    def __eq__(self, other: object) -> bool:
        return self._key() == _key_of(other)

    def __lt__(self, other: object) -> bool:
        return self._key() < _key_of(other)

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[int, int, str], ...]:
        # a word comes before a number, so that 1.0rc1 is older than 1.0.1
        return tuple((1, part, "") if isinstance(part, int) else (0, 0, part) for part in self.version)


def _key_of(other: object) -> tuple[tuple[int, int, str], ...]:
    version = other if isinstance(other, LooseVersion) else LooseVersion(str(other))
    return version._key()
