"""Writing files that a crash must not damage."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that no reader, and no crash, ever meets a part of it."""
    with opened_atomically(path) as file:
        file.write(payload)


@contextmanager
def opened_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece: it takes its name when the block ends, and is gone if it fails.

    A device or pipe (`/dev/stdout`) is written to: to put a file in its place would take it from everybody.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
