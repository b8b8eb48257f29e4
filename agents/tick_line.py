"""A tick line of the log, typed: what reading a log decodes into, instead of a dict a tick.

`TickLine` holds what summaries need and forgives what it can: keys that it does not know, keys that are not
there. `WholeTickLine` holds everything that `TickLog` writes and forgives nothing; it decides whether a tick
fits the columns of the Parquet form.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class SpanLine(Struct, gc=False):
    """A timed stage; parent None directly under the tick."""

    name: str
    ms: float
    parent: str | None = None


class EgoLine(Struct, gc=False):
    """Where the ego believed it was: metres [world], degrees, m/s."""

    position_in_world: list[float | None] | None = None
    yaw_deg: float | None = None
    speed_mps: float | None = None


class ControlLine(Struct, gc=False):
    """Pedals and wheel."""

    throttle: float | None = None
    steer: float | None = None
    brake: float | None = None


class LatencyLine(Struct, gc=False):
    """What the latency model said of the plan in force (`tick_log.LatencyRecord`)."""

    mode: str = ""
    us: Int64 | None = None
    observed_frame: Int64 | None = None
    busy: bool = False
    past_horizon: bool = False


class TickLine(Struct, tag_field="type", tag="tick", kw_only=True, gc=False):
    """What summaries need of a tick; `docs/formats.md` tells the keys."""

    total_ms: float
    frame: Int64 = -1
    sim_s: float | None = None
    spans: list[SpanLine] = []
    other_ms: float = 0.0
    outside_ms: float | None = None
    steps: Int32 = 0
    rung: str = ""
    guarded: bool = False
    engine: str = ""
    predicted_ms: float | None = None
    preempted: Int32 | None = None
    latency: LatencyLine | None = None
    ego: EgoLine | None = None
    control: ControlLine | None = None


class WholeSpan(SpanLine, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A timed stage with all its keys."""

    parent: str | None
    start_ms: float


class WholeEgo(Struct, forbid_unknown_fields=True, gc=False):
    """The ego's keys that have columns; each may be absent, none may be null."""

    position_in_world: list[float] | UnsetType = UNSET
    yaw_deg: float | UnsetType = UNSET
    speed_mps: float | UnsetType = UNSET
    acceleration_mps2: float | UnsetType = UNSET
    yaw_rate_dps: float | UnsetType = UNSET
    source: str | UnsetType = UNSET
    command: str | UnsetType = UNSET
    remaining_m: float | UnsetType = UNSET


class WholeControl(Struct, forbid_unknown_fields=True, gc=False):
    """Pedals and wheel; each may be absent, none may be null."""

    throttle: float | UnsetType = UNSET
    steer: float | UnsetType = UNSET
    brake: float | UnsetType = UNSET


class WholeLatency(Struct, forbid_unknown_fields=True, gc=False):
    """The latency model's say with all its keys."""

    mode: str
    us: Int64 | None
    observed_frame: Int64 | None
    busy: bool
    past_horizon: bool


class WholeTickLine(Struct, tag_field="type", tag="tick", forbid_unknown_fields=True, kw_only=True, gc=False):
    """A tick with every key that `TickLog` writes, and no other."""

    frame: Int64
    sim_s: float
    total_ms: float
    spans: list[WholeSpan]
    other_ms: float
    outside_ms: float | None
    steps: Int32
    granularity: str
    rung: str
    guarded: bool
    engine: str
    predicted_ms: float | None
    preempted: Int32 | None
    latency: WholeLatency | None
    reasoning: dict[str, float] | None
    ego: WholeEgo
    plan: list[list[float]] | None
    control: WholeControl


tick_decoder = msgspec.json.Decoder(TickLine)
whole_tick_decoder = msgspec.json.Decoder(WholeTickLine)
