"""Nothing lost: the campaigns.

    python -m tests.faults [--seed N] [--only CAMPAIGN] [--store STORE] [--jobs N] [--json FILE] [--short]

Each campaign is a row of units (`tests.faults.units`), each unit a process of its own with randomness of its own, which
comes from the seed and its name. What a unit came to lies beside FILE, in faults/<seed>-<sources>/. Interrupted, say
with Ctrl-C, the same command with the same seed goes on where it was, as long as neither library nor campaigns have
changed. Prints a line per unit, then a table by campaign and store, and writes that as JSON. The exit status is 1 if
there was a violation, or if not all units are through. `--short` is what `make test` has.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .campaigns import CAMPAIGNS, all_units
from .leaks import Search
from .units import Room, Tally, Unit

ROOT = Path(__file__).parents[2]
_UNIT = "{:<64} {:>7} {:>8} {:>8} {:>10} {:>8}"
_ROW = "{:<12} {:<7} {:>8} {:>9} {:>9} {:>10} {:>8}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is wanted; 1 if there was a violation."""
    options = _options(arguments)
    wanted = [
        unit
        for unit in all_units(short=options.short)
        if (not options.only or unit.campaign in options.only) and (not options.store or unit.store in options.store)
    ]
    if options.unit:
        (unit,) = (unit for unit in wanted if unit.id == options.unit)
        tally = run(unit, options.seed)
        options.to.write_bytes(msgspec.json.encode(tally))
        return 0
    kept = options.json.parent.resolve() / "faults" / f"{options.seed}-{sources()}"
    kept.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}: {len(wanted)} units; what they come to is in {kept}")
    say(_UNIT.format("unit", "cases", "faults", "signals", "violations", "seconds"))
    done: dict[str, Tally] = {}
    try:
        for unit, tally in _each(wanted, options, kept):
            done[unit.id] = tally
            tell(unit, tally)
    except KeyboardInterrupt:
        say(f"interrupted: --seed {options.seed} goes on from here")
    violations = summary([unit for unit in wanted if unit.id in done], done, options)
    return int(bool(violations) or len(done) < len(wanted))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Try to lose a key.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", choices=CAMPAIGNS, action="append", help="a campaign; may be given again")
    parser.add_argument("--store", action="append", help="a store; may be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "faults.json", metavar="FILE")
    parser.add_argument("--unit", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def sources() -> str:
    """A name for library and campaigns as they are: what was found about others says nothing of these."""
    digest = hashlib.sha256()
    for folder in ("core", "functions", "tests/faults", "tests/support"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not file.name.startswith("test_"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def run(unit: Unit, seed: int) -> Tally:
    """One unit, in this process. Whatever ends it is a violation; so is material in what it wrote."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="daena-faults-", ignore_cleanup_errors=True) as folder:
        room = Room(Path(folder), random.Random(f"{seed} {unit.id}"))
        try:
            unit.work(room)
        except Exception as problem:  # noqa: BLE001  # whatever it is, it was not to be
            room.violation(f"the unit ended in {type(problem).__name__}: {problem}")
        search = Search(room.materials)
        for leak in search.folder(room.folder):
            room.violation(f"material in {leak}")
        room.figure("files searched for material", search.files)
    room.tally.seconds = round(time.monotonic() - started, 1)
    return room.tally


def _each(wanted: Iterable[Unit], options: argparse.Namespace, kept: Path) -> Iterator[tuple[Unit, Tally]]:
    """Each in a process of its own, so many at once; those that are through already are taken as they are."""
    with ThreadPoolExecutor(options.jobs) as pool:
        started = [(unit, pool.submit(in_process, unit, options.seed, kept, short=options.short)) for unit in wanted]
        try:
            for unit, result in started:
                yield unit, result.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_process(unit: Unit, seed: int, kept: Path, *, short: bool) -> Tally:
    """One unit in a process of its own; or what it came to before, if that is in `kept`."""
    file = kept / f"{unit.id}.json"
    if not file.exists():
        half = file.with_suffix(".half")
        what = ["--unit", unit.id, "--seed", str(seed), "--to", str(half), *(["--short"] * short)]
        with file.with_suffix(".log").open("wb") as log:
            status = subprocess.run(
                [sys.executable, "-m", "tests.faults", *what], cwd=ROOT, stdout=log, stderr=log, check=False
            ).returncode
        if status or not half.exists():
            return Tally(violations=[f"its process ended with {status}: see {file.with_suffix('.log')}"])
        half.rename(file)
    return msgspec.json.decode(file.read_bytes(), type=Tally)


def tell(unit: Unit, tally: Tally) -> None:
    """A unit that is through."""
    counts = (tally.cases, tally.faults, tally.signals, len(tally.violations))
    say(_UNIT.format(unit.id, *(f"{count:,}" for count in counts), f"{tally.seconds:.1f}"))
    for story in tally.violations[:3]:
        say("\n".join(f"    {line}" for line in f"VIOLATION: {story}".splitlines()))


class Row(msgspec.Struct):
    """What the units of one campaign on one store came to, together."""

    campaign: str
    store: str
    units: int = 0
    cases: int = 0
    faults: int = 0
    signals: int = 0
    violations: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    stories: list[str] = msgspec.field(default_factory=list)

    def add(self, tally: Tally) -> None:
        """One unit more. Of a figure the largest is told."""
        self.units += 1
        self.cases += tally.cases
        self.faults += tally.faults
        self.signals += tally.signals
        self.violations += len(tally.violations)
        self.seconds = round(self.seconds + tally.seconds, 1)
        self.stories += tally.violations
        for name, value in tally.figures.items():
            self.figures[name] = max(value, self.figures.get(name, value))

    def tell(self) -> None:
        """A line of the table, and its figures."""
        counts = (self.cases, self.faults, self.signals, self.violations)
        say(_ROW.format(self.campaign, self.store, *(f"{count:,}" for count in counts), f"{self.seconds:.0f}"))
        for name, value in self.figures.items():
            say(f"    {name}: {value:,g}")


def summary(wanted: Iterable[Unit], done: Mapping[str, Tally], options: argparse.Namespace) -> int:
    """The table by campaign and store, and the same as JSON; how many violations there were."""
    rows: dict[tuple[str, str], Row] = {}
    total = Row("all", "")
    for unit in wanted:
        rows.setdefault((unit.campaign, unit.store), Row(unit.campaign, unit.store)).add(done[unit.id])
        total.add(done[unit.id])
    total.figures.clear()
    say("")
    say(_ROW.format("campaign", "store", "cases", "faults", "signals", "violations", "seconds"))
    for row in (*rows.values(), total):
        row.tell()
    document = {
        "seed": options.seed,
        "sources": sources(),
        "campaigns": [msgspec.to_builtins(r) for r in rows.values()],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return total.violations


def say(line: str) -> None:
    """One line, at once: a campaign may take minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
