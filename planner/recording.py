"""The on-disk format of one recorded drive.

```
<drive>/meta.json              what was driven, once (schema 1)
<drive>/samples.jsonl          one line a sample, flushed after its pictures are written
<drive>/rgb/NNNNNN.jpg         planning camera, JPEG 92
<drive>/bev/NNNNNN.png         bird's-eye history: T_obs rasters of 3 channels, one below the other
<drive>/semantic/NNNNNN.png    coarse semantic tags of the same camera (optional)
```
Every file can be looked at with ordinary tools, and nothing is pickled. A drive that was cut short, even by
`kill -9`, is readable to its last whole sample: a line stands in `samples.jsonl` only once its pictures do.
Frames and units are those of `tickdrive.planner.types`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tickdrive.planner.errors import DataError, did_you_mean
from tickdrive.planner.files import write_atomically

SCHEMA = 1
SPLITS = ("train", "val_route", "val_town")
LIGHT_STATES = ("none", "green", "yellow", "red")
SEMANTIC_SHAPE = (32, 64)
JPEG_QUALITY = 92
BEV_PLANES = 3

# CARLA's tags that are small in the picture and matter most, most important first: a cell takes one of them
# as soon as `_SMALL_PIXELS` of it show one.
_SMALL_TAGS = (7, 12, 13, 8, 18, 19, 14, 15, 16)
_SMALL_PIXELS = 3


@dataclass(frozen=True)
class RecordingMeta:
    """What holds for a whole drive.

    Attributes:
        town: map name.
        route_id: route, unique within its town.
        seed: of the traffic.
        split: "train", "val_route" (routes kept apart) or "val_town" (towns kept apart).
        decisions: names of the decision classes, in the order of their numbers.
        period_s: time between samples.
        dt_s: time between waypoints.
        config_hash: of the agent's rig configuration.
        status_layout: of `agents/status.py`.
        bev: geometry of the raster, as `agents/preprocess.py` had it.
        camera: pose and field of view of the camera in this drive, jitter included.
        weather: weather parameters of the drive.
        extra: anything else worth knowing.
        schema: version of this format.
    """

    town: str
    route_id: str
    seed: int
    split: str
    decisions: tuple[str, ...]
    period_s: float = 0.25
    dt_s: float = 0.5
    config_hash: str = ""
    status_layout: int = 1
    bev: Mapping[str, Any] = field(default_factory=dict)
    camera: Mapping[str, Any] = field(default_factory=dict)
    weather: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(f"A recording has split {self.split!r}.", did_you_mean(self.split, SPLITS))
        object.__setattr__(self, "decisions", tuple(self.decisions))


@dataclass(frozen=True)
class RecordedSample:
    """One observation and what the expert would do from it.

    Attributes:
        frame: simulator frame.
        sim_s: simulated time.
        image: (H, W, 3) uint8 RGB.
        lidar_bev: (T_obs, 3, H, W) uint8, oldest first.
        ego_status: (n_status, width) float32, oldest first.
        waypoints_in_ego: (T, 2) metres, the expert's plan.
        decision: name of the expert's decision.
        light_state: of the light that governs the ego: none, green, yellow, red.
        lead_distance_m: bumper to bumper to the vehicle ahead; None where there is none.
        lead_speed_mps: its speed.
        target_speed_mps: speed the expert wants.
        ego_pose: x, y [m, world], yaw [degrees].
        speed_mps: of the ego.
        perturbed: whether the drive had been pushed off its course shortly before.
        semantic: (32, 64) uint8 tags (see `shrink_semantic`), or None.
        extra: JSON-able numbers and strings worth keeping.
    """

    frame: int
    sim_s: float
    image: np.ndarray
    lidar_bev: np.ndarray
    ego_status: np.ndarray
    waypoints_in_ego: np.ndarray
    decision: str
    light_state: str = "none"
    lead_distance_m: float | None = None
    lead_speed_mps: float | None = None
    target_speed_mps: float = 0.0
    ego_pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    speed_mps: float = 0.0
    perturbed: bool = False
    semantic: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleLine:
    """A line of `samples.jsonl`: everything but the pictures, as `RecordedSample` describes it."""

    index: int
    frame: int
    sim_s: float
    ego_status: list[list[float]]
    waypoints_in_ego: list[list[float]]
    decision: str
    light_state: str
    lead_distance_m: float | None
    lead_speed_mps: float | None
    target_speed_mps: float
    ego_pose: list[float]
    speed_mps: float
    perturbed: bool
    semantic: bool
    extra: dict[str, Any] = field(default_factory=dict)


def shrink_semantic(tags: np.ndarray, shape: tuple[int, int] = SEMANTIC_SHAPE) -> np.ndarray:
    """Coarse map of semantic tags that does not lose lights and people.

    Args:
        tags: (H, W) uint8 CARLA tags; H and W are multiples of the coarse shape.
        shape: rows and columns of the result.

    Returns:
        `shape` uint8: the tag at the cell's centre, or a small important one that has 3 pixels in the cell.

    Raises:
        DataError: the size does not divide.
    """
    rows, columns = shape
    if tags.ndim != 2 or tags.shape[0] % rows or tags.shape[1] % columns:
        raise DataError(
            f"A semantic picture of shape {tags.shape} was given.",
            f"Give height and width that are multiples of {rows} and {columns}.",
        )
    high, wide = tags.shape[0] // rows, tags.shape[1] // columns
    out = np.ascontiguousarray(tags[high // 2 :: high, wide // 2 :: wide])
    cells = tags.reshape(rows, high, columns, wide)
    for tag in reversed(_SMALL_TAGS):
        out[np.count_nonzero(cells == tag, axis=(1, 3)) >= _SMALL_PIXELS] = tag
    return out


class RecordingWriter:
    """Writes one drive.

    Args:
        folder: made here; must not hold a drive yet.
        meta: what is driven.

    Raises:
        DataError: the folder holds a drive already.
    """

    def __init__(self, folder: str | Path, meta: RecordingMeta) -> None:
        self.folder = Path(folder)
        self.meta = meta
        self.count = 0
        if (self.folder / "meta.json").exists():
            raise DataError(f"{self.folder} holds a recording already.", "Record into another folder.")
        for name in ("rgb", "bev", "semantic"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_atomically(
            self.folder / "meta.json", (json.dumps(asdict(meta), indent=2) + "\n").encode("utf-8")
        )
        self._lines = open(self.folder / "samples.jsonl", "w", encoding="utf-8")  # noqa: SIM115 - see close

    def append(self, sample: RecordedSample) -> None:
        """Write a sample.

        Raises:
            DataError: a shape, a class name or a number of the sample is not valid; nothing is written.
        """
        line = self._line(sample)
        stem = f"{self.count:06d}"
        bgr = sample.image[:, :, ::-1]
        _write(self.folder / "rgb" / f"{stem}.jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        frames, planes, rows, columns = sample.lidar_bev.shape
        stacked = sample.lidar_bev.transpose(0, 2, 3, 1).reshape(frames * rows, columns, planes)
        _write(self.folder / "bev" / f"{stem}.png", stacked, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if sample.semantic is not None:
            _write(self.folder / "semantic" / f"{stem}.png", sample.semantic, [])
        self._lines.write(json.dumps(asdict(line), allow_nan=False) + "\n")
        self._lines.flush()
        self.count += 1

    def close(self) -> None:
        """Close the file; what was appended is already on its way to the disk."""
        self._lines.close()

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, sample: RecordedSample) -> SampleLine:
        where = f"Sample {self.count} of {self.folder.name}"
        if sample.decision not in self.meta.decisions:
            raise DataError(
                f"{where}: decision {sample.decision!r}.", did_you_mean(sample.decision, self.meta.decisions)
            )
        if sample.light_state not in LIGHT_STATES:
            raise DataError(
                f"{where}: light state {sample.light_state!r}.",
                did_you_mean(sample.light_state, LIGHT_STATES),
            )
        _check_picture(where, "image", sample.image, 3, -1)
        _check_picture(where, "lidar_bev", sample.lidar_bev, 4, 1)
        if sample.semantic is not None:
            _check_picture(where, "semantic", sample.semantic, 2, None)
        for name in ("ego_status", "waypoints_in_ego"):
            if not np.isfinite(getattr(sample, name)).all():
                raise DataError(f"{where}: {name} is not finite.", "Do not record such a frame.")
        return SampleLine(
            index=self.count,
            frame=int(sample.frame),
            sim_s=float(sample.sim_s),
            ego_status=_rounded(sample.ego_status),
            waypoints_in_ego=_rounded(sample.waypoints_in_ego),
            decision=sample.decision,
            light_state=sample.light_state,
            lead_distance_m=_number(sample.lead_distance_m),
            lead_speed_mps=_number(sample.lead_speed_mps),
            target_speed_mps=float(sample.target_speed_mps),
            ego_pose=[round(float(value), 4) for value in sample.ego_pose],
            speed_mps=float(sample.speed_mps),
            perturbed=bool(sample.perturbed),
            semantic=sample.semantic is not None,
            extra=dict(sample.extra),
        )


@dataclass(frozen=True)
class Recording:
    """A drive on disk, its lines read and checked, its pictures not yet.

    Attributes:
        folder: where it is.
        meta: what was driven.
        lines: its samples.
        messages: what was skipped, in words; empty for a drive that ended well.
    """

    folder: Path
    meta: RecordingMeta
    lines: tuple[SampleLine, ...]
    messages: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path) -> Recording:
        """Read `meta.json` and `samples.jsonl`.

        A last line that is cut short, and samples at the end whose pictures are missing, are skipped and told
        of in `messages`.

        Raises:
            DataError: no recording, another schema, or damage before the end.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        lines, messages = _read_lines(folder)
        kept = list(lines)
        while kept and not all(
            path.is_file() and path.stat().st_size for path in _pictures(folder, kept[-1])
        ):
            kept.pop()
        if len(kept) < len(lines):
            messages.append(
                f"{folder}: skipped {len(lines) - len(kept)} sample(s) at the end without pictures."
            )
        return cls(folder, meta, tuple(kept), tuple(messages))

    def image(self, line: SampleLine) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return cv2.cvtColor(
            _read(self.folder / "rgb" / f"{line.index:06d}.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )

    def lidar_bev(self, line: SampleLine) -> np.ndarray:
        """(T_obs, 3, H, W) uint8, oldest first; rasters are square."""
        stacked = _read(self.folder / "bev" / f"{line.index:06d}.png", cv2.IMREAD_COLOR)
        side = stacked.shape[1]
        if stacked.shape[0] % side:
            raise DataError(
                f"{self.folder}: bev picture {line.index} has shape {stacked.shape}.", "Record it again."
            )
        return stacked.reshape(-1, side, side, BEV_PLANES).transpose(0, 3, 1, 2)

    def semantic(self, line: SampleLine) -> np.ndarray | None:
        """(32, 64) uint8 tags, or None where none were recorded."""
        if not line.semantic:
            return None
        return _read(self.folder / "semantic" / f"{line.index:06d}.png", cv2.IMREAD_GRAYSCALE)


def find_recordings(roots: Sequence[str | Path]) -> list[Recording]:
    """Open every drive below some folders, sorted by path.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    folders = sorted({path.parent for root in roots for path in Path(root).rglob("meta.json")})
    if not folders:
        raise DataError(
            f"There is no recording below {', '.join(map(str, roots))}.", "Make some with `tickdrive record`."
        )
    return [Recording.open(folder) for folder in folders]


def _read_meta(folder: Path) -> RecordingMeta:
    path = folder / "meta.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}).", "Check the path, or record it again.") from error
    known = {item.name for item in fields(RecordingMeta)}
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        got = document.get("schema") if isinstance(document, dict) else None
        raise DataError(f"{path} is of schema {got!r}; this program reads {SCHEMA}.", "Record it again.")
    for key in document:
        if key not in known:
            raise DataError(f"{path} has an unknown key {key!r}.", did_you_mean(key, known))
    try:
        return RecordingMeta(**document)
    except TypeError as error:
        raise DataError(f"{path}: {error}.", "Record it again.") from error


def _read_lines(folder: Path) -> tuple[list[SampleLine], list[str]]:
    path = folder / "samples.jsonl"
    try:
        rows = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Record it again.") from error
    lines: list[SampleLine] = []
    messages: list[str] = []
    for number, row in enumerate(rows):
        if not row:
            continue
        try:
            line = SampleLine(**json.loads(row))
        except (ValueError, TypeError) as error:
            if number == len(rows) - 1:  # only the last row can lack its newline
                messages.append(f"{path}: skipped the last line, which is cut short.")
                break
            raise DataError(
                f"{path}: line {number + 1} is damaged ({error}).", "Remove it or record again."
            ) from error
        if line.index != len(lines):
            raise DataError(
                f"{path}: line {number + 1} has index {line.index}, not {len(lines)}.", "Record it again."
            )
        lines.append(line)
    return lines, messages


def _pictures(folder: Path, line: SampleLine) -> list[Path]:
    stem = f"{line.index:06d}"
    paths = [folder / "rgb" / f"{stem}.jpg", folder / "bev" / f"{stem}.png"]
    return [*paths, folder / "semantic" / f"{stem}.png"] if line.semantic else paths


def _write(path: Path, picture: np.ndarray, options: list[int]) -> None:
    done, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(picture), options)
    if not done:
        raise DataError(f"{path} could not be encoded.", "")
    path.write_bytes(encoded.tobytes())


def _read(path: Path, mode: int) -> np.ndarray:
    try:
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), mode)
    except (OSError, cv2.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}).", "Remove the drive or record it again."
        ) from error
    if picture is None:
        raise DataError(f"{path} is no picture.", "Remove the drive or record it again.")
    return picture


def _check_picture(where: str, name: str, picture: np.ndarray, ndim: int, plane_axis: int | None) -> None:
    planes_fit = plane_axis is None or (picture.ndim == ndim and picture.shape[plane_axis] == 3)
    if picture.dtype != np.uint8 or picture.ndim != ndim or not planes_fit:
        raise DataError(
            f"{where}: {name} is {picture.dtype} {picture.shape}.",
            "Give uint8 of the documented shape, with 3 planes.",
        )


def _rounded(array: np.ndarray) -> list[list[float]]:
    # float32 itself carries seven digits; five after the point are a hundredth of a millimetre
    return [[round(float(value), 5) for value in row] for row in array]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
