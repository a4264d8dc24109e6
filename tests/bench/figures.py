"""What the bench prints and writes: one figure a line, each beside its floor or peer."""

import os
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import cryptography
import msgspec
from msgspec import Struct


class Scale(Struct, frozen=True):
    """How much of everything a run measures."""

    rotated_keys: int = 1_000
    rotation_rounds: int = 5
    planned_keys: tuple[int, ...] = (100, 1_000, 10_000)
    plan_rounds: int = 7
    manifest_entries: tuple[int, ...] = (10, 100, 1_000)
    append_rounds: int = 200
    chain_rounds: int = 9
    process_rounds: int = 15
    memory_rounds: int = 3
    aws_keys: int = 32
    aws_rounds: int = 7
    aws_counted_keys: int = 3
    azure_keys: int = 32
    azure_rounds: int = 5
    gcp_keys: int = 32
    gcp_rounds: int = 5
    gcp_counted_keys: int = 3
    gcp_window_rounds: int = 2
    cold_rounds: int = 11


FULL = Scale()
QUICK = Scale(
    rotated_keys=40,
    rotation_rounds=2,
    planned_keys=(50, 200),
    plan_rounds=3,
    manifest_entries=(10, 50),
    append_rounds=20,
    chain_rounds=3,
    process_rounds=3,
    memory_rounds=1,
    aws_keys=4,
    aws_rounds=2,
    aws_counted_keys=1,
    azure_keys=4,
    azure_rounds=2,
    gcp_keys=4,
    gcp_rounds=2,
    gcp_counted_keys=1,
    gcp_window_rounds=1,
    cold_rounds=2,
)


class Figure(Struct, frozen=True):
    """One measured value and what it is held against; both are medians over the same rounds."""

    group: str
    name: str
    ours: float
    unit: str
    peer: float
    peer_is: str
    ratio: float
    """ours / peer, the median of the rounds' own ratios: what a noisy machine disturbs least."""
    aim: str = ""


def compared(
    group: str,
    name: str,
    ours: Sequence[float],
    unit: str,
    peer: Sequence[float],
    peer_is: str,
    aim: str = "",
) -> Figure:
    """A figure from rounds in which ours and its peer were measured side by side."""
    ratio = median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    return Figure(group, name, median(ours), unit, median(peer), peer_is, ratio, aim)


def table(figures: Iterable[Figure]) -> str:
    """Aligned text, a heading for each group."""
    heading = ("", "ours", "floor or peer", "ratio", "unit", "held against", "aim")
    rows: list[tuple[str, ...]] = [heading]
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            rows.append((group, "", "", "", "", "", ""))
        rows.append(_row(figure))
    widths = [max(len(row[i]) for row in rows if any(row[1:])) for i in range(len(heading))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        f"  {figure.name}",
        _short(figure.ours),
        _short(figure.peer),
        f"{figure.ratio:.2f}",
        figure.unit,
        figure.peer_is,
        figure.aim,
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if not any(row[1:]):
        return f"\n{row[0]}"
    name, *values = row
    numbers = [value.rjust(width) for value, width in zip(values[:3], widths[1:4], strict=True)]
    texts = [value.ljust(width) for value, width in zip(values[3:], widths[4:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *numbers, *texts]).rstrip()


def _short(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def write_json(path: Path, figures: Sequence[Figure], notes: Sequence[str], *, quick: bool) -> None:
    """Everything that was printed, for a program; no path and no host name in it."""
    document = {
        "quick": quick,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "cryptography": cryptography.__version__,
        "notes": notes,
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
