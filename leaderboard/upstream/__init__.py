"""Runs the CARLA leaderboards and Bench2Drive as their authors wrote them: `tickdrive evaluate --suite …`."""

from pathlib import Path


def probe_agent_path() -> Path:
    """File of the agent of `tickdrive bench scenarios`; only an upstream leaderboard can import it."""
    return Path(__file__).with_name("probe_agent.py")


def reckless_agent_path() -> Path:
    """File of the agent of `tickdrive bench criteria`; likewise."""
    return Path(__file__).with_name("reckless_agent.py")
