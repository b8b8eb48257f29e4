"""What commands share: the console, errors without a traceback, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tickdrive.planner.errors import DataError
from tickdrive.planner.files import write_atomically

console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write a command's machine form; nothing when no `--json` was given.

    Raises:
        DataError: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2, default=str) + "\n").encode())
    except OSError as error:
        raise DataError(
            f"--json {path} cannot be written: {error.strerror}.",
            "Name a file in a folder that can be written.",
        ) from error


def warn_if_nothing_to_resume(resume: bool, results: Path) -> None:
    """Say that `--resume` starts from the first route; no error: a loop resumes until all is done.

    Args:
        resume: whether it was given.
        results: the file that it would go on with.
    """
    if resume and not results.exists():
        error_console.print(
            f"nothing to resume: there is no {results}; all routes are driven",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def results_json(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The form of all benchmarks: ``{"schema": 1, "results": [...]}``."""
    return {"schema": 1, "results": [dict(row) for row in rows]}


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], json_file: Path | None) -> None:
    """Print a benchmark's rows as a table and write them as JSON."""
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, justify="right" if isinstance(rows[0].get(name), (int, float)) else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    console.print(table)
    write_json(json_file, results_json(rows))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
