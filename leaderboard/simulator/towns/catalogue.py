"""The shipped towns, OpenDRIVE files beside this module made by `scripts/make_towns.py`, and a user's own."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

from tickdrive.planner.errors import ServerError, did_you_mean

_SUFFIX = ".xodr"
LARGE_MAPS = ("Town11", "Town12", "Town13", "Town15")
"""CARLA streams these in tiles; here they are towns like others, once their OpenDRIVE file is given."""


@lru_cache(maxsize=1)
def town_names() -> tuple[str, ...]:
    """Names of the shipped towns, in alphabetical order."""
    folder = resources.files(__package__)
    return tuple(sorted(f.name[: -len(_SUFFIX)] for f in folder.iterdir() if f.name.endswith(_SUFFIX)))


@lru_cache(maxsize=8)
def read_town(name: str) -> str:
    """OpenDRIVE text of a shipped town.

    Raises:
        ServerError: there is no such town.
    """
    if name not in town_names():
        raise ServerError(f"There is no town {name!r}.", did_you_mean(name, town_names()))
    return (resources.files(__package__) / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def shipped_files() -> dict[str, Path]:
    """The shipped towns: name -> OpenDRIVE file."""
    return {name: Path(__file__).with_name(f"{name}{_SUFFIX}") for name in town_names()}


def is_shipped(name: str, xodr: str) -> bool:
    """Whether `xodr` is, to the letter, the shipped town of that name."""
    return name in town_names() and read_town(name) == xodr


def town_files(folder: Path) -> dict[str, Path]:
    """Towns of a folder: name -> OpenDRIVE file.

    Raises:
        ServerError: it is no folder, or holds no OpenDRIVE file.
    """
    if not folder.is_dir():
        raise ServerError(f"{folder} is no folder.", f"Name one with towns as <name>{_SUFFIX}.")
    files = {path.stem: path for path in sorted(folder.glob(f"*{_SUFFIX}")) if path.is_file()}
    if not files:
        raise ServerError(
            f"{folder} holds no {_SUFFIX} file.", f"Name a folder with towns as <name>{_SUFFIX}."
        )
    return files


def read_xodr(path: Path) -> str:
    """Text of an OpenDRIVE file.

    Raises:
        ServerError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"{path} cannot be read: {error}.", "Give an OpenDRIVE file.") from error
