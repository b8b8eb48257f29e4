"""Which of a run's camera pictures go into its report, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

_SMALL_WIDTH = 384
_SMALL_QUALITY = 60
_BASE64 = 4 / 3


@dataclass(frozen=True)
class Candidate:
    """A picture that may be shown: of which route's which frame, when, and how much it is wanted.

    Attributes:
        route: place of the route in the report.
        frame: the simulator's frame.
        sim_s: simulated seconds.
        infraction: whether one became known in this frame.
        over_ms: by how much the tick missed the budget; 0 where it did not.
    """

    route: int
    frame: int
    path: Path
    sim_s: float
    infraction: bool
    over_ms: float


@dataclass(frozen=True)
class Chosen:
    """What fits.

    Attributes:
        jpeg: (route, frame) -> bytes of the JPEG file.
        offered: pictures that there were.
        shrunk: whether they were made smaller.
    """

    jpeg: Mapping[tuple[int, int], bytes]
    offered: int
    shrunk: bool

    @property
    def note(self) -> str:
        """A sentence where the report shows less than was kept; else empty."""
        left_out = self.offered - len(self.jpeg)
        if left_out:
            return (
                f"{left_out} of {self.offered} camera pictures were left out to keep the file small "
                "(--max-mb); the nearest is shown."
            )
        return ""


def choose(candidates: Sequence[Candidate], max_bytes: int) -> Chosen:
    """Take as many pictures as fit, the wanted ones first.

    Pictures as they are where all fit; else smaller ones (384 pixels wide); else fewer: infractions, one a
    second, the worst misses, the rest. A picture that cannot be read is none.

    Args:
        candidates: of all routes.
        max_bytes: what their base64 text may take together.
    """
    sizes = sum(candidate.path.stat().st_size for candidate in candidates)
    shrunk = sizes * _BASE64 > max_bytes
    jpeg: dict[tuple[int, int], bytes] = {}
    left = max_bytes / _BASE64
    unreadable = 0
    for candidate in by_want(candidates):
        data = _small(candidate.path) if shrunk else _whole(candidate.path)
        if data is None:
            unreadable += 1
        elif len(data) <= left:
            left -= len(data)
            jpeg[candidate.route, candidate.frame] = data
        else:
            break  # a smaller one further on would make what is shown depend on picture content
    return Chosen(jpeg, len(candidates) - unreadable, shrunk)


def by_want(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Infractions, then one a second (any first part of these evenly spread), the worst misses, the rest."""
    infractions, seconds, others = [], [], []
    seen: set[tuple[int, int]] = set()
    for candidate in candidates:
        second = (candidate.route, int(candidate.sim_s))
        if candidate.infraction:
            infractions.append(candidate)
        elif second not in seen:
            seconds.append(candidate)
        else:
            others.append(candidate)
        seen.add(second)
    others.sort(key=lambda candidate: (-candidate.over_ms, candidate.route, candidate.frame))
    bits = max(len(seconds) - 1, 1).bit_length()
    spread = sorted(range(2**bits), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))
    return [*infractions, *(seconds[place] for place in spread if place < len(seconds)), *others]


def _whole(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if data.startswith(b"\xff\xd8") and data.rstrip(b"\0").endswith(b"\xff\xd9") else None


def _small(path: Path) -> bytes | None:
    image = cv2.imread(str(path))
    if image is None:
        return None
    height, width = image.shape[:2]
    if width > _SMALL_WIDTH:
        size = (_SMALL_WIDTH, round(height * _SMALL_WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _SMALL_QUALITY])
    return data.tobytes() if ok else None
