"""Where a plan's milliseconds go: the study's table as a tree, whose children add up to their parent.

The parts of an engine (`PlannerEngine.parts`) are wrapped in spans of the project's tracer while a few plans
run. On CUDA each span waits for the device at both ends, so that a part is charged what it took; what
queueing without waiting saves is the difference between `watched_ms` and `plan_ms`. What no part covers is
the row `other`; with it, children are their parent to the last digit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tickdrive.planner.engine import Inputs, Part, PlannerEngine
from tickdrive.planner.tracing import TickTrace, Tracer

OTHER = "other"
ROOT = "plan"
MODEL = "model forward"
_STAGES = {"encode": "encoder block", "hoist": "hoist (once a plan)", "denoise": "denoising loop"}
"""Names in the profile of the spans that engines open themselves."""
_STEP = "step"
"""Span of one denoising step: no level of the tree, where all steps are added up."""


@dataclass
class Node:
    """A part of a plan.

    Attributes:
        name: of the part.
        total_ms: of a whole plan, all calls added up.
        calls: in a plan.
        children: in the order in which they first ran; `other` last.
    """

    name: str
    total_ms: float = 0.0
    calls: float = 0.0
    children: list[Node] = field(default_factory=list)

    def child(self, name: str) -> Node:
        """The child of that name, made where there is none."""
        for node in self.children:
            if node.name == name:
                return node
        self.children.append(Node(name))
        return self.children[-1]

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
        """Every node below and including this, parents first, each with its path."""
        path = (*path, self.name)
        yield path, self
        for node in self.children:
            yield from node.walk(path)


@dataclass(frozen=True)
class Profile:
    """Result of `profile_engine`.

    Attributes:
        engine: label of what ran.
        batch: plans at once.
        steps: denoising steps.
        plan_ms: median of whole plans that nobody watched.
        watched_ms: mean of the plans that were taken apart; the root of the tree.
        runs: plans that were taken apart.
        apart: whether the engine's parts can be told apart, beyond its stages.
        root: the tree.
    """

    engine: str
    batch: int
    steps: int
    plan_ms: float
    watched_ms: float
    runs: int
    apart: bool
    root: Node

    def rows(self) -> list[dict[str, Any]]:
        """The tree as rows: `path`, `name`, `depth`, `plan_ms`, `step_ms`, `calls`, `share` of the plan."""
        return [
            {
                "path": "/".join(path),
                "name": node.name,
                "depth": len(path) - 1,
                "plan_ms": node.total_ms,
                "step_ms": node.total_ms / self.steps,
                "calls": node.calls,
                "share": node.total_ms / self.root.total_ms,
            }
            for path, node in self.root.walk()
        ]


def profile_engine(
    engine: PlannerEngine, sets: Sequence[Inputs], steps: int, runs: int = 10, tracer: Tracer | None = None
) -> Profile:
    """Take plans apart.

    Args:
        engine: warm for these inputs; as it was afterwards.
        sets: inputs that take turns.
        steps: denoising steps.
        runs: plans to take apart, and as many to time whole; the quicker half counts for the tree.
        tracer: to use; for tests.
    """
    parts = engine.parts()
    tracer = tracer or Tracer()
    whole_ms = []
    for turn in range(runs):
        start = time.perf_counter_ns()
        engine.plan(*sets[turn % len(sets)], steps)
        whole_ms.append((time.perf_counter_ns() - start) / 1e6)
    traces: list[TickTrace] = []
    with watched(parts, tracer, str(engine.device)):
        for turn in range(runs):
            tracer.begin()
            engine.plan(*sets[turn % len(sets)], steps, tracer)
            traces.append(tracer.end())
    # means add up, medians do not: the mean of those plans that nothing else slowed down
    quick = sorted(traces, key=lambda trace: trace.total_ms)[: (runs + 1) // 2]
    root = Node(ROOT)
    for trace in quick:
        _add(root, trace)
    _finish(root, len(quick))
    return Profile(
        engine=engine.label,
        batch=len(sets[0][2]),
        steps=steps,
        plan_ms=float(np.median(whole_ms)),
        watched_ms=root.total_ms,
        runs=len(quick),
        apart=any(node.name == MODEL for _, node in root.walk()),
        root=root,
    )


@contextmanager
def watched(parts: Sequence[Part], tracer: Tracer, device: str) -> Iterator[None]:
    """Put each part's method in a span while the block runs."""
    try:
        for part in parts:
            setattr(part.owner, part.method, _in_span(part, tracer, device))
        yield
    finally:
        for part in parts:
            vars(part.owner).pop(part.method, None)  # the class's own shows again


def _in_span(part: Part, tracer: Tracer, device: str) -> Callable[..., Any]:
    method = getattr(part.owner, part.method)
    numbered = "{0}" in part.label

    @functools.wraps(method)
    def run(*given: Any, **named: Any) -> Any:
        label = part.label.format(given[0] + 1) if numbered else part.label
        with tracer.span(label, device):
            return method(*given, **named)

    return run


def _add(root: Node, trace: TickTrace) -> None:
    """Add one plan's spans to the tree."""
    root.total_ms += trace.total_ms
    root.calls += 1
    latest: dict[str, Node] = {}  # the node of the span opened last under each name; parents come first
    for span in trace.spans:
        parent = root if span.parent is None else latest[span.parent]
        if span.name == _STEP:
            latest[_STEP] = parent
            continue
        node = parent.child(_STAGES.get(span.name, span.name))
        node.total_ms += span.ms
        node.calls += 1
        latest[span.name] = node


def _finish(node: Node, runs: int) -> None:
    """Sums to means, and what no child covers to `other`."""
    node.total_ms /= runs
    node.calls /= runs
    for child in node.children:
        _finish(child, runs)
    if node.children:
        rest = node.total_ms - sum(child.total_ms for child in node.children)
        node.children.append(Node(OTHER, rest, node.calls))
