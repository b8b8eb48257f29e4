"""How often the system took the processor away from this process."""

from __future__ import annotations

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def involuntary_switches() -> int | None:
    """Involuntary context switches of all threads so far; None where the system does not count them."""
    return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
