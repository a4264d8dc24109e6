"""`python -m tests.bench [--quick] [--only WORD] [--json FILE]`: figures, each beside its floor or peer, in turns.

It asserts nothing about time. Ratios are the figures to rely on: both sides of each were measured in this run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import (
    aws_cold_start,
    aws_rotations,
    azure_cold_start,
    azure_rotations,
    gcp_cold_start,
    gcp_rotations,
    manifests,
    plans,
    processes,
    rotations,
)
from .durable import Floor
from .figures import FULL, QUICK, Figure, Scale, table, write_json

Measured = tuple[list[Figure], list[str]]
BUILD = Path(__file__).parents[2] / "build"


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Figures, each beside its floor.")
    parser.add_argument("--quick", action="store_true", help="everything small: shows that it runs, not how fast")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only parts that have it in their names, such as gcp"
    )
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", metavar="FILE")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=BUILD))  # the disk that is measured is the repository's
    try:
        figures, notes = measure(folder, QUICK if options.quick else FULL, options.only)
    finally:
        shutil.rmtree(folder)
    print(table(figures))
    print("\n" + "\n".join(notes))
    write_json(options.json, figures, notes, quick=options.quick)


def measure(folder: Path, scale: Scale, only: str = "") -> Measured:
    """Every figure, and what has to be said about them."""
    figures: list[Figure] = []
    notes: list[str] = []
    for name, part in _parts(folder, scale).items():
        if only in name:
            started = time.monotonic()
            more, told = part()
            figures += more
            notes += told
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return figures, notes


def _parts(folder: Path, scale: Scale) -> dict[str, Callable[[], Measured]]:
    return {
        "rotations": lambda: _rotations(folder, scale),
        "plans": lambda: (plans.measure(folder, scale), []),
        "manifests": lambda: (manifests.measure(folder, scale), []),
        "processes": lambda: (processes.start(scale), []),
        "memory": lambda: (processes.memory(folder, scale), []),
        "aws rotations": lambda: aws_rotations.measure(scale),
        "aws cold start": lambda: (aws_cold_start.measure(folder, scale), []),
        "azure rotations": lambda: azure_rotations.measure(scale),
        "azure cold start": lambda: (azure_cold_start.measure(scale), []),
        "gcp rotations": lambda: gcp_rotations.measure(scale),
        "gcp cold start": lambda: (gcp_cold_start.measure(folder, scale), []),
    }


def _rotations(folder: Path, scale: Scale) -> Measured:
    figures, writes = rotations.measure(folder, scale)
    what_it_does = " ".join((Floor.__doc__ or "").split())
    return figures, [f"Counted in this run: {writes}.", f"The floor of rotations: {what_it_does}"]


if __name__ == "__main__":
    main()
