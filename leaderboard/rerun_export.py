"""A run as a recording for the rerun viewer (https://rerun.io). Needs rerun-sdk (extra `rerun`).

Timelines `sim` (simulated time) and `tick`. Entities: `latency/…` milliseconds of the total, every stage and
the budget; `reasoning/…` probabilities; `ego/…` speed and control; `map/driven` the way driven, coloured by
latency, `map/ego` and `map/plan` in the world frame (x right, y down: CARLA's map seen from above);
`camera` and `lidar` (ego frame, y turned to the left as the viewer is right-handed) where the run has a
`frames` folder; `events` misses and rungs. The planner samples one plan a tick: there are no others to show.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tickdrive.agents.tick_log import iter_ticks
from tickdrive.leaderboard.frames import FRAMES_FOLDER, LIDAR_UNIT_M
from tickdrive.leaderboard.tick_table import TickTable, read_table
from tickdrive.planner.errors import DataError

_CHUNK_TICKS = 1000
_UNDER, _OVER = np.array([40, 160, 90, 255]), np.array([220, 40, 40, 255])


@dataclass(frozen=True)
class Recorded:
    """What went into a recording.

    Attributes:
        ticks: of the log.
        plans: ticks with a plan.
        images: camera frames.
        lidars: ticks with LiDAR points.
        damage: what was wrong with the log.
    """

    ticks: int
    plans: int
    images: int
    lidars: int
    damage: tuple[str, ...]


def write_rerun(run: Path, path: Path, budget_ms: float) -> Recorded:
    """Write a run's recording.

    Args:
        run: its folder, or a log; camera frames are `frames/<frame>.jpg` beside the log.
        path: the .rrd; replaced only when the new one is whole.
        budget_ms: drawn in the latency plot, and the colour of the driven way.

    Raises:
        DataError: rerun-sdk is missing, the log cannot be read or is empty, the file cannot be written.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise DataError(
            "rerun-sdk is not installed.", "Recordings need it: pip install 'tickdrive[rerun]'."
        ) from error
    table = read_table(run)
    if not len(table):
        raise DataError(f"{table.path} holds no ticks.", "Drive at least one tick.")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / "recording.rrd"
            stream = rr.RecordingStream("tickdrive")
            stream.save(temporary, default_blueprint=_blueprint())
            _send_table(rr, stream, table, budget_ms)
            plans = _send_plans(rr, stream, table)
            images = _send_images(rr, stream, table)
            lidars = _send_lidar(rr, stream, table)
            stream.flush()
            stream.disconnect()
            os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"Recording {path} cannot be written: {error.strerror}.",
            "Name a file in a folder that can be written.",
        ) from error
    return Recorded(len(table), plans, images, lidars, table.damage)


def _send_table(rr: Any, stream: Any, table: TickTable, budget_ms: float) -> None:
    """Scalars, the driven way, and events."""
    latency = {"total": table.total_ms, **table.stage_ms, "other": table.other_ms}
    latency["budget"] = np.full(len(table), budget_ms)
    series = {f"latency/{name}": values for name, values in latency.items()}
    series["latency/outside"] = table.outside_ms
    series |= {f"ego/{name}": getattr(table, name) for name in ("speed_mps", "throttle", "steer", "brake")}
    for entity, values in series.items():
        _send_scalars(rr, stream, table, entity, values)
    known = np.flatnonzero(~np.isnan(table.x_m))
    positions = np.stack([table.x_m, table.y_m], axis=1)
    share = np.clip(table.total_ms[known] / budget_ms, 0.0, 1.0)[:, None]
    colors = np.where(
        (table.total_ms[known] > budget_ms)[:, None], _OVER, _UNDER * share + 255 * (1 - share) * 0.8
    ).astype(np.uint8)
    colors[:, 3] = 255
    stream.log("map/driven", rr.Points2D(positions[known], colors=colors, radii=0.4), static=True)
    stream.send_columns("map/ego", _times(rr, table, known), rr.Points2D.columns(positions=positions[known]))
    missed = table.total_ms > budget_ms
    rungs = [table.rung.names[code] for code in table.rung.codes]
    told = [
        (k, "WARN" if missed[k] else "INFO", _event(rungs[k], float(table.total_ms[k]), budget_ms))
        for k in range(len(table))
        if missed[k] or rungs[k] != "planned"
    ]
    if told:
        ticks, levels, texts = zip(*told, strict=True)
        times = _times(rr, table, np.array(ticks))
        stream.send_columns("events", times, rr.TextLog.columns(text=texts, level=levels))


def _event(rung: str, total_ms: float, budget_ms: float) -> str:
    missed = f"missed the budget by {total_ms - budget_ms:.1f} ms" if total_ms > budget_ms else ""
    return ", ".join(filter(None, [missed, rung if rung != "planned" else ""]))


def _send_plans(rr: Any, stream: Any, table: TickTable) -> int:
    """Plans and reasoning, which the table does not hold. Returns how many plans."""
    ticks = enumerate(iter_ticks(table.path))
    plans = 0
    while chunk := list(islice(ticks, _CHUNK_TICKS)):
        strips = [_in_world(table, k, tick.get("plan")) for k, tick in chunk]
        # Without a plan an empty row: the viewer would go on showing the last one.
        lengths = [int(len(strip) > 0) for strip in strips]
        plans += sum(lengths)
        indices = np.array([k for k, _ in chunk])
        columns = rr.LineStrips2D.columns(strips=[strip for strip in strips if len(strip)])
        stream.send_columns("map/plan", _times(rr, table, indices), columns.partition(lengths))
        _send_reasoning(rr, stream, table, chunk)
    return plans


def _send_reasoning(
    rr: Any, stream: Any, table: TickTable, chunk: Sequence[tuple[int, Mapping[str, Any]]]
) -> None:
    names = dict.fromkeys(name for _, tick in chunk for name in tick.get("reasoning") or ())
    for name in names:
        said = [(k, tick["reasoning"][name]) for k, tick in chunk if name in (tick.get("reasoning") or ())]
        indices, values = (np.array(column) for column in zip(*said, strict=True))
        columns = rr.Scalars.columns(scalars=values)
        stream.send_columns(f"reasoning/{name}", _times(rr, table, indices), columns)


def _send_images(rr: Any, stream: Any, table: TickTable) -> int:
    """The camera's frames, where they were kept. Returns how many."""
    folder = table.path.parent / FRAMES_FOLDER
    sent = 0
    for index, frame in enumerate(table.frame):
        path = folder / f"{frame}.jpg"
        if not path.exists():
            continue
        image = rr.EncodedImage.columns(blob=[path.read_bytes()], media_type=["image/jpeg"])
        stream.send_columns("camera", _times(rr, table, np.array([index])), image)
        sent += 1
    return sent


def _send_lidar(rr: Any, stream: Any, table: TickTable) -> int:
    """The LiDAR's points, where they were kept. Returns of how many ticks."""
    folder = table.path.parent / FRAMES_FOLDER
    sent = 0
    for index, frame in enumerate(table.frame):
        path = folder / f"{frame}.lidar.npz"
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as kept:
            points = kept["points_in_ego"].astype(np.float32) * LIDAR_UNIT_M
        columns = rr.Points3D.columns(positions=points * np.array([1.0, -1.0, 1.0], np.float32))
        stream.send_columns("lidar", _times(rr, table, np.array([index])), columns.partition([len(points)]))
        sent += 1
    return sent


def _send_scalars(rr: Any, stream: Any, table: TickTable, entity: str, values: np.ndarray) -> None:
    known = np.flatnonzero(~np.isnan(values))
    if len(known):
        columns = rr.Scalars.columns(scalars=values[known].astype(np.float64))
        stream.send_columns(entity, _times(rr, table, known), columns)


def _times(rr: Any, table: TickTable, ticks: np.ndarray) -> list[Any]:
    columns = [rr.TimeColumn("tick", sequence=ticks)]
    if not np.isnan(table.sim_s).any():
        nanoseconds = np.round(table.sim_s[ticks] * 1e9).astype("timedelta64[ns]")
        columns.append(rr.TimeColumn("sim", duration=nanoseconds))
    return columns


def _in_world(table: TickTable, index: int, plan: Any) -> np.ndarray:
    """(T + 1, 2) from the ego along the plan [m, world]; (0, 2) where there is none."""
    place = np.array([table.x_m[index], table.y_m[index]], np.float64)
    yaw = np.radians(float(table.yaw_deg[index]))
    if plan is None or np.isnan(yaw) or np.isnan(place).any():
        return np.empty((0, 2))
    points = np.vstack([np.zeros((1, 2)), np.array(plan, np.float64)])
    points = points[~np.isnan(points).any(axis=1)]
    rotation = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    return points @ rotation + place


def _blueprint() -> Any:
    import rerun.blueprint as rrb

    latency = rrb.TimeSeriesView(name="latency, ms", origin="latency")
    beside = rrb.Vertical(
        rrb.Spatial2DView(name="camera", origin="camera"),
        rrb.Spatial3DView(name="LiDAR", origin="lidar"),
        rrb.TimeSeriesView(name="reasoning", origin="reasoning"),
        rrb.TimeSeriesView(name="ego", origin="ego"),
        rrb.TextLogView(name="misses and rungs", origin="events"),
    )
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(rrb.Spatial2DView(name="map", origin="map"), beside), latency, row_shares=[2, 1]
        )
    )
