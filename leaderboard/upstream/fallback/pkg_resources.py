"""Stand-in for what upstream asks of `pkg_resources`: the version of an installed distribution."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution

DistributionNotFound = PackageNotFoundError


def get_distribution(name: str) -> Distribution:
    """An installed distribution; has `version`.

    Raises:
        DistributionNotFound: it is not installed.
    """
    return distribution(name)
