"""What benchmark and profile measure with: plans that take turns, the device's bandwidth, what ran where."""

from __future__ import annotations

import platform
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_BANDWIDTH_BYTES = 256 * 2**20
_BANDWIDTH_TRIES = 7


def take_turns(
    forms: Sequence[Callable[[int], object]], seconds: float, min_runs: int = 5
) -> list[list[float]]:
    """Time several things in turn, so that a slow moment of the machine falls on all of them.

    Args:
        forms: each called with the number of the turn; ends when its result is on the host.
        seconds: of measuring for each, at least.
        min_runs: for each, at least.

    Returns:
        Milliseconds of each run of each.
    """
    times: list[list[float]] = [[] for _ in forms]
    order = list(range(len(forms)))
    shuffled = random.Random(0)
    turn = 0
    while order:
        shuffled.shuffle(order)  # nobody always runs behind the same neighbour, on what it left in the caches
        for index in order:
            start = time.perf_counter_ns()
            forms[index](turn)
            times[index].append((time.perf_counter_ns() - start) / 1e6)
        turn += 1
        order = [i for i in order if len(times[i]) < min_runs or sum(times[i]) < 1000.0 * seconds]
    return times


def memory_bandwidth_gb_s(device: torch.device) -> float:
    """What reading memory reaches: the best of some sums over 256 MB of fp32, with torch's threads.

    That is more than any cache here holds; a loop whose weights fit a cache may read faster.
    """
    data = torch.ones(_BANDWIDTH_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(_BANDWIDTH_TRIES):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter_ns()
        float(data.sum())  # waits for the device
        best = min(best, (time.perf_counter_ns() - start) / 1e9)
    return _BANDWIDTH_BYTES / best / 1e9


def device_name(device: torch.device) -> str:
    """Model of a device, for example of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver_version(device: torch.device) -> str | None:
    """Version of the NVIDIA driver behind a CUDA device; None on the CPU, or where it cannot be told."""
    if device.type != "cuda":
        return None
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return found.group() if found else None
