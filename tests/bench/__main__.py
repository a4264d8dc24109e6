"""`python -m tests.bench [--quick] [--json FILE]`: figures, each beside its floor or peer, measured in turns.

It asserts nothing about time. Ratios are the figures to rely on: both sides of each were measured in this run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from . import aws_cold_start, aws_rotations, azure_cold_start, azure_rotations, manifests, plans, processes, rotations
from .durable import Floor
from .figures import FULL, QUICK, Figure, Scale, table, write_json

T = TypeVar("T")
BUILD = Path(__file__).parents[2] / "build"


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Figures, each beside its floor.")
    parser.add_argument("--quick", action="store_true", help="everything small: shows that it runs, not how fast")
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", metavar="FILE")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=BUILD))  # the disk that is measured is the repository's
    try:
        figures, notes = measure(folder, QUICK if options.quick else FULL)
    finally:
        shutil.rmtree(folder)
    print(table(figures))
    print("\n" + "\n".join(notes))
    write_json(options.json, figures, notes, quick=options.quick)


def measure(folder: Path, scale: Scale) -> tuple[list[Figure], list[str]]:
    """Every figure, and what has to be said about them."""
    figures: list[Figure] = []
    rotated, writes = _told("rotations", lambda: rotations.measure(folder, scale))
    figures += rotated
    figures += _told("plans", lambda: plans.measure(folder, scale))
    figures += _told("manifests", lambda: manifests.measure(folder, scale))
    figures += _told("processes", lambda: processes.start(scale))
    figures += _told("memory", lambda: processes.memory(folder, scale))
    on_aws, calls = _told("aws rotations", lambda: aws_rotations.measure(scale))
    figures += on_aws
    figures += _told("aws cold start", lambda: aws_cold_start.measure(folder, scale))
    on_azure, asked = _told("azure rotations", lambda: azure_rotations.measure(scale))
    figures += on_azure
    figures += _told("azure cold start", lambda: azure_cold_start.measure(scale))
    what_it_does = " ".join((Floor.__doc__ or "").split())
    return figures, [f"Counted in this run: {writes}.", f"The floor of rotations: {what_it_does}", *calls, *asked]


def _told(what: str, work: Callable[[], T]) -> T:
    started = time.monotonic()
    result = work()
    print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return result


if __name__ == "__main__":
    main()
