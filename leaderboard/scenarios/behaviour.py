"""How scenarios act over time: generators that yield once per tick.

A behaviour is a generator: what it does between two `yield` happens in one tick, and it ends by returning.
Sequences are plain code with `yield from`; what goes on at the same time is put together by `first_of` and
`all_of` (the parallels of upstream's behaviour trees). Closing a behaviour, which `first_of` does with those
that did not win, runs its `finally` blocks: there lights are given back and vehicles let go.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias

Behaviour: TypeAlias = Generator[None, None, None]


def until(condition: Callable[[], bool]) -> Behaviour:
    """Wait; where the condition holds at once no tick passes."""
    while not condition():
        yield


def forever() -> Behaviour:
    """Never ends by itself."""
    while True:
        yield


def each_tick(step: Callable[[], bool]) -> Behaviour:
    """Call `step` every tick until it says that it is done."""
    while not step():
        yield


def sequence(*behaviours: Behaviour) -> Behaviour:
    """One after the other."""
    for behaviour in behaviours:
        yield from behaviour


def first_of(*behaviours: Behaviour) -> Behaviour:
    """All at the same time, until the first of them ends; the others are closed."""
    try:
        while True:
            for behaviour in behaviours:
                if _ends(behaviour):
                    return
            yield
    finally:
        for behaviour in behaviours:
            behaviour.close()


def all_of(*behaviours: Behaviour) -> Behaviour:
    """All at the same time, until the last of them has ended."""
    running = list(behaviours)
    try:
        while running:
            running = [behaviour for behaviour in running if not _ends(behaviour)]
            if running:
                yield
    finally:
        for behaviour in behaviours:
            behaviour.close()


def _ends(behaviour: Behaviour) -> bool:
    try:
        next(behaviour)
    except StopIteration:
        return True
    return False
