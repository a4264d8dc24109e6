"""Keys on the move, at size: migrated, backed up and restored by processes that are killed at random.

    python -m tests.faults.moves [--seed N] [--keys N] [--versions N] [--thousand N] [--only PART] [--json FILE]

Three parts, on the strict doubles over sockets. `migrate`: two round tours over the four stores in which each ordered
pair A→B occurs once, and is followed by a move to a third store. `restore`: a backup restored into every store, then a
backup of each of these, restored into the next. `thousand`: 1,000 keys from the local store to AWS on a terminal, with
a progress bar. Then everything that was written is searched for material. Prints a line per case; the exit status is 1
if anything was not as it must be.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from daena_kms import console

from . import checks
from .killing import Runner
from .leaks import search
from .restores import Safe, backed_up, restored
from .scene import STORES, Doubles, Place, Scene, Violation
from .thousand import migrated_on_a_terminal

# Of each ordered pair A→B what comes next: B→C, and C is neither. Two closed tours come of it, of four moves and eight.
TOURS = (
    ("local", "aws", "azure", "gcp", "local", "aws"),
    ("local", "azure", "aws", "gcp", "azure", "local", "gcp", "aws", "local", "azure"),
)
PARTS = ("migrate", "restore", "thousand")
KILLS = (2, 4)
_LINE = "{:<9} {:<44} {:>6} {:>6} {:>11} {:>9}"


class Case(msgspec.Struct):
    """One move, backup or restore, with its checks."""

    part: str
    name: str
    runs: int = 0
    kills: int = 0
    seconds: float = 0.0
    problem: str = ""
    note: str = ""


class Campaign:
    """The cases, as they are done."""

    def __init__(self, folder: Path, keys: int, versions: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.scene = Scene(folder, Doubles(), keys, versions)
        self.runner = Runner(self.scene, self.chance)
        self.cases: list[Case] = []

    def case(self, part: str, name: str, work: Callable[[], object]) -> bool:
        """Do one, and tell of it; whether all was as it must be."""
        made, started = Case(part, name), time.monotonic()
        runs, kills = self.runner.runs, self.runner.kills
        try:
            made.note = str(work() or "")
        except Exception as problem:  # noqa: BLE001  # whatever it is, it was not to be
            made.problem = f"{type(problem).__name__}: {problem}"
        made.runs, made.kills = self.runner.runs - runs, self.runner.kills - kills
        made.seconds = round(time.monotonic() - started, 1)
        self.cases.append(made)
        say(_LINE.format(part, name, made.runs, made.kills, int(bool(made.problem)), f"{made.seconds:.1f}"))
        for text in filter(None, (made.note, made.problem and f"VIOLATION: {made.problem}")):
            say(f"    {text}")
        return not made.problem

    def kills(self) -> int:
        """How often the next one is to be killed."""
        return self.chance.randint(*KILLS)

    # --- migrate

    def tour(self, stores: Sequence[str]) -> Place | None:
        """Keys go from store to store, each time to a place that is empty. The last place; None if they got lost."""
        way: list[Place] = []

        def make() -> None:
            way.append(self.scene.lived_in())
            checks.all_arrived(self.scene, way[0])

        if not self.case("migrate", f"made at {stores[0]}", make):
            return None
        for provider in stores[1:]:
            target = self.scene.place(provider)
            name = f"{way[-1].provider} → {provider}"
            if not self.case("migrate", name, partial(self.move, way, target)):
                return None
        self.case("migrate", f"all {len(way)} places", partial(self.all_sound, way))
        return way[-1]

    def move(self, way: list[Place], target: Place, kills: int | None = None) -> None:
        """One move, and all that must be so after it. `way` is where the keys were before, and has the target then."""
        source = way[-1]
        wanted: list[str | Path] = ["migrate", "--from", source.file, "--to", target.file]
        kind = f"{source.provider} → {target.provider}"
        between = partial(self.tick, source, target)
        self.runner.to_its_end(kind, wanted, kills=self.kills() if kills is None else kills, between=between)
        self.check_moved(way, target)

    def check_moved(self, way: list[Place], target: Place) -> None:
        """What must be so after a move."""
        source = way[-1]
        way.append(target)
        checks.all_arrived(self.scene, target)
        checks.untouched(self.scene, source)
        checks.in_one_place(self.scene, way)
        checks.agrees(self.runner, target, "--from", str(source.file))
        checks.sound(self.scene, target)
        checks.sound(self.scene, source)
        checks.rotates_nothing(self.scene, source)

    def tick(self, source: Place, target: Place) -> None:
        """The scheduler of one of both places comes in between."""
        checks.harmless_tick(self.scene, self.chance.choice((source, target)))

    def all_sound(self, way: Sequence[Place]) -> None:
        """Nothing that was done later has changed what came before."""
        for place in way:
            checks.sound(self.scene, place)
            checks.untouched(self.scene, place)
        for place in way[:-1]:
            checks.rotates_nothing(self.scene, place)
        checks.in_one_place(self.scene, way)

    # --- restore

    def restores(self) -> None:
        """A backup restored into every store, then one of each of these, restored into the next store."""
        safe = Safe(self.scene.folder)
        first = self.scene.lived_in()  # local
        for number, source in enumerate(self.fan(safe, first, "the first", only=STORES), 1):
            self.fan(safe, source, source.provider, only=[STORES[number % len(STORES)]])

    def fan(self, safe: Safe, source: Place, name: str, only: Sequence[str]) -> list[Place]:
        """One backup, restored into empty places on each of those stores; the places."""
        made: list[Place] = []
        if not self.case("restore", f"backup of {name}", partial(backed_up, self.runner, safe, source, self.kills())):
            return made
        for provider in only:
            target = self.scene.place(provider)
            work = partial(restored, self.runner, safe, source, target, self.kills())
            if self.case("restore", f"{name} → file → {provider}", work):
                made.append(target)
        return made

    # --- all of it

    def thousand(self, count: int) -> None:
        """Many keys, on a terminal."""
        folder = self.scene.folder / "thousand"
        folder.mkdir()
        many = Scene(folder, self.scene.doubles, count, 1)
        runner = Runner(many, self.chance)
        self.case("thousand", f"{count:,} keys, local → aws", partial(migrated_on_a_terminal, runner))
        self.scene.places += many.places

    def leaks(self) -> None:
        """Search everything."""

        def work() -> str:
            found = search(self.scene)
            if found.leaks:
                raise Violation("; ".join(found.leaks[:20]))
            return f"{found.files:,} files and {found.records:,} records, {found.bytes / 1e6:.0f} MB: no material"

        self.case("leaks", "everything written", work)

    def run(self, parts: Sequence[str], thousand: int) -> None:
        """The parts that are wanted, and the search."""
        with self.scene.doubles.entered():
            if "migrate" in parts:
                for stores in TOURS:
                    self.tour(stores)
            if "restore" in parts:
                self.restores()
            if "thousand" in parts:
                self.thousand(thousand)
            self.leaks()


def run(seed: int, *, keys: int, versions: int, thousand: int, parts: Sequence[str], file: Path) -> int:
    """The campaign, told and written; 1 if there was a violation."""
    folder, started = Path(tempfile.mkdtemp(prefix="daena-moves-")), time.monotonic()
    say(f"seed {seed}: {keys} keys × {versions} versions")
    say(_LINE.format("part", "case", "runs", "kills", "violations", "seconds"))
    campaign = Campaign(folder, keys, versions, seed)
    with logged(folder / "said" / "campaign.log"):
        campaign.run(parts, thousand)
    cases = campaign.cases
    violations = sum(bool(case.problem) for case in cases)
    total = Case("all", f"seed {seed}", sum(c.runs for c in cases), sum(c.kills for c in cases))
    total.seconds = round(time.monotonic() - started, 1)
    say(_LINE.format(f"{len(cases)} cases", total.name, total.runs, total.kills, violations, f"{total.seconds:.1f}"))
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"seed": seed, "keys": keys, "versions": versions, "cases": [msgspec.to_builtins(c) for c in cases]}
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if violations:
        say(f"    everything is left in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(violations))


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """What this process logs goes to a file, with all its fields, to be searched like everything else."""
    library, handler = logging.getLogger("daena_kms"), logging.FileHandler(file)
    handler.setFormatter(console.log_handler().formatter)
    library.addHandler(handler)
    library.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        library.removeHandler(handler)
        handler.close()


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.moves", description="Move keys, and be killed.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--versions", type=int, default=4)
    parser.add_argument("--thousand", type=int, default=1000, help="keys of that part")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given again")
    parser.add_argument("--json", type=Path, default=Path("build/moves.json"), metavar="FILE")
    o = parser.parse_args(arguments)
    how = {"keys": o.keys, "versions": o.versions, "thousand": o.thousand, "parts": o.only or PARTS, "file": o.json}
    return run(o.seed, **how)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the doubles' processes are ended at exit
    sys.exit(main())
