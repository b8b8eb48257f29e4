from __future__ import annotations

import pytest

from tickdrive.planner.tracing import Tracer


class FakeClock:
    """Advances by hand, in milliseconds."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def tick(self, ms: float) -> None:
        self.now_ns += int(ms * 1e6)


def test_children_and_other_add_up_to_the_total():
    clock = FakeClock()
    tracer = Tracer(clock)
    tracer.begin()
    clock.tick(1)
    with tracer.span("planner"):
        clock.tick(2)
        with tracer.span("encode"):
            clock.tick(3)
        with tracer.span("denoise"):
            clock.tick(4)
    with tracer.span("control"):
        clock.tick(5)
    trace = tracer.end()
    assert [(s.name, s.parent, s.start_ms, s.ms) for s in trace.spans] == [
        ("planner", None, 1.0, 9.0),
        ("encode", "planner", 3.0, 3.0),
        ("denoise", "planner", 6.0, 4.0),
        ("control", None, 10.0, 5.0),
    ]
    assert trace.total_ms == 15.0
    assert trace.other_ms == 1.0


def test_a_span_left_by_an_exception_is_kept_with_its_time():
    clock = FakeClock()
    tracer = Tracer(clock)
    tracer.begin()
    with pytest.raises(ValueError), tracer.span("outer"), tracer.span("failing"):
        clock.tick(7)
        raise ValueError
    trace = tracer.end()
    assert [(s.name, s.ms) for s in trace.spans] == [("outer", 7.0), ("failing", 7.0)]


def test_spans_outside_a_tick_record_nothing_and_a_new_tick_starts_empty():
    tracer = Tracer(FakeClock())
    with tracer.span("unwatched"):
        pass
    tracer.begin()
    assert tracer.end().spans == ()
    tracer.begin()
    with tracer.span("a"):
        tracer.begin()
    assert tracer.end().spans == ()


def test_a_span_measured_elsewhere_ends_now_below_the_open_one():
    clock = FakeClock()
    tracer = Tracer(clock)
    tracer.begin()
    with tracer.span("planner"):
        clock.tick(10)
        tracer.add("denoise", 4.0)
    (_, child) = tracer.end().spans
    assert (child.name, child.parent, child.start_ms, child.ms) == ("denoise", "planner", 6.0, 4.0)
