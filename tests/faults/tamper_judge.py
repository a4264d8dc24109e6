"""What must hold of each tampering: `verify` finds it, a verifier of its own agrees, and no run makes it worse."""

import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from daena_kms.errors import KmsError
from daena_kms.manifest import Entry, open_entry
from daena_kms.model import Outcome, Status
from tests.support.manifest_reader import RESERVED

from .tamper_chains import Case
from .tamper_hands import HANDS
from .tamper_scene import KEYS, House, SurpriseError, Verdict, tried
from .units import Room

if TYPE_CHECKING:
    from .tamper_stores import Deed

WENT_ON = {Status.CREATED, Status.ROTATED}


class Judge:
    """Tampers with a house, looks at what comes of it, and puts it back."""

    def __init__(self, house: House, room: Room) -> None:
        self.house = house
        self.room = room
        self.hands = HANDS[house.name](house)
        self.before = self.hands.save()
        self.seen = self.hands.state()
        self.now = house.clock.now
        self.count: Counter[str] = Counter()
        self.followed: Counter[str] = Counter()
        """Those of them over which runs went, too."""
        self.unnoticed: Counter[str] = Counter()
        """By kind: how often a run that had to rotate the key went on, because it does not look there."""
        self.unfound: Counter[str] = Counter()
        """By kind: how often `verify` had nothing to find, or could not."""
        self.left: Counter[str] = Counter()
        """By kind: how often a run put nothing right, and nothing stopped it: `verify` goes on telling."""
        room.materials |= {material for each in house.materials.values() for material in each.values()}

    def restore(self) -> None:
        """As it was before the attacker came."""
        self.before()
        self.house.ledger.objects = dict(self.house.past)
        self.house.clock.now = self.now

    def report(self) -> None:
        """Tell what nobody noticed, as shares of each kind in percent."""
        for kind, count in self.count.items():
            if self.unnoticed[kind]:
                self.room.figure(
                    f"% that a rotation goes on over: {kind}", 100 * self.unnoticed[kind] / self.followed[kind]
                )
            if self.unfound[kind]:
                self.room.figure(f"% that verify does not find: {kind}", 100 * self.unfound[kind] / count)
            if self.left[kind]:
                self.room.figure(f"% that verify alone tells of: {kind}", 100 * self.left[kind] / count)

    # --- a ledger

    def ledger(self, case: Case, *, wholly: bool = True, besides: Callable[[], None] | None = None) -> None:
        """Judge one tampering with the ledger; `wholly`: with what ticks do then, not with verifiers alone.

        `besides`: what is done to the store with it.
        """
        self.count[case.kind] += 1
        problems: list[str] = []
        try:
            self._tamper(case)
            if besides is not None:
                besides()
            problems += self._verifiers(case, alone=besides is None)
            if wholly:
                problems += self._gets(case.key, active=besides is None)
                problems += self._runs(case)
        except SurpriseError as surprise:
            problems.append(f"no error of ours: {surprise}")
        finally:
            self.restore()
        self.tell(f"{case.kind}: {case.name} of {case.key}", problems)

    def tell(self, done: str, problems: list[str]) -> None:
        """One more case, and its violations."""
        self.room.case(faults=1)
        for problem in problems:
            self.room.violation(f"{self.house.name}: {done}; {problem}")

    def _tamper(self, case: Case) -> None:
        objects = self.house.ledger.objects
        for place, data in case.changes.items():
            objects.pop(place, None)
            if data is not None:
                objects[place] = data

    def _verifiers(self, case: Case, *, alone: bool) -> list[str]:
        """`alone`: nothing but the ledger was tampered with; otherwise the store may tell `verify` more."""
        keys = KEYS if case.key == RESERVED else (case.key,)
        verdict = self.house.verified(keys)
        independent = [self.house.independent(key) for key in keys]
        problems = []
        if any(independent) != verdict.bad and (alone or not verdict.bad):
            problems.append(f"verify says {verdict.problems}, the independent verifier {independent}")
        if not verdict.bad:
            self.unfound[case.kind] += 1
            problems += ["verify finds nothing"] if case.found else []
        elif case.blames and not self.names(verdict, case):
            problems.append(f"verify does not name it: {verdict.problems}, expected one of {case.blames}")
        return problems

    @staticmethod
    def names(verdict: Verdict, case: Case) -> bool:
        """True if what was tampered with is named."""
        return any(blame in problem for problem in verdict.problems for blame in case.blames)

    def _gets(self, key: str, *, active: bool = True) -> list[str]:
        """What `get` gives is right, or nothing; `active`: so is what it gives to who names no number."""
        problems = []
        for name in KEYS if key == RESERVED else (key,):
            numbers = self.house.materials[name]
            for number in (*numbers, 0)[: len(numbers) + active]:
                got = self.house.got(name, number)
                right = numbers.get(number or max(numbers))
                if got is not None and got != right:
                    problems.append(f"get {name} {number} gives other bytes")
        return problems

    def _runs(self, case: Case) -> list[str]:
        """A tick at rest, one that must rotate; then the bytes are put back, and all is well."""
        self.followed[case.kind] += 1
        house, problems = self.house, list[str]()
        tampered = dict(house.ledger.objects)
        seen = self.hands.state() if not case.found else self.seen
        house.tick()
        if case.found and (house.ledger.objects != tampered or self.hands.state() != seen):
            problems.append("a tick at rest changed something")
        house.clock.move(days=91)
        outcomes = house.tick()
        went_on = self._went_on(case.key, outcomes)
        self.unnoticed[case.kind] += went_on
        problems += self.nothing_lost()
        if not case.found:
            return problems
        written = {p: data for p, data in house.ledger.objects.items() if tampered.get(p) != data}
        if taken := [place for place in written if place in house.past]:
            return [*problems, f"a run wrote {taken} anew"]
        house.ledger.objects = house.past | written
        return problems + self.well(f"put back ({_told(outcomes)})")

    def _went_on(self, key: str, outcomes: dict[str, Outcome]) -> bool:
        return any(outcomes[k].status in WENT_ON for k in (KEYS if key == RESERVED else (key,)) if k in outcomes)

    # --- a store

    def store(self, deed: "Deed") -> None:
        """Judge one tampering with the store."""
        problems: list[str] = []
        try:
            if isinstance(tried(deed.do, lambda problem: problem), KmsError):
                return  # not even a person with all rights can do that there
            self.count[deed.kind] += 1
            self.followed[deed.kind] += 1
            problems += self._found(deed)
            problems += self._ticks(deed)
        except SurpriseError as surprise:
            problems.append(f"no error of ours: {surprise}")
        finally:
            self.restore()
        self.tell(f"{deed.kind}: {deed.name}", problems)

    def _found(self, deed: "Deed") -> list[str]:
        """`get` gives what is right, or nothing; and if something is not as it was, `verify` says so."""
        problems = [problem for key in KEYS for problem in self._gets(key)]
        verdict, harm = self.house.verified(), self._harm()
        if not verdict.bad:
            self.unfound[deed.kind] += 1
            problems += [f"verify finds nothing, but {harm}"] if harm else []
        return problems

    def _harm(self) -> str:
        """What is not as it was, to whoever reads the store past any manifest."""
        house = self.house
        for key in KEYS:
            for number, material in house.materials[key].items():
                if house.raw(key, house.records[key][number]) != material:
                    return f"version {number} of {key} does not give what it was"
            if self._newest(key) != house.materials[key][max(house.materials[key])]:
                return f"readers of {key} do not get the active version"
        return ""

    def _newest(self, key: str) -> bytes | None:
        """What readers get who name no version."""
        house = self.house
        newest = tried(lambda: house.store.observe(key).newest, lambda _: None)
        found: bytes | None = newest and tried(lambda: house.store.read(key, newest).reveal(), lambda _: None)
        return found

    def _ticks(self, deed: "Deed") -> list[str]:
        """Runs, at rest and to rotate; then what was done is undone, if it was not put right, and all is well."""
        house, problems = self.house, list[str]()
        before = {key: self._newest(key) for key in KEYS}
        outcomes: dict[str, Outcome] = {}
        for days in (0, 91):
            house.clock.move(days=days)
            outcomes = house.tick(*deed.keys)
            for key in deed.keys or KEYS:
                problems += self.published(key) if self._newest(key) != before[key] else []
                problems += self._gets(key, active=False)
        self.unnoticed[deed.kind] += any(o.status in WENT_ON for o in outcomes.values())
        left = house.verified().problems
        if not left:
            return problems + [problem for key in KEYS for problem in self._readable(key)]
        if deed.undo is not None:
            deed.undo()
        elif house.ledger.objects == house.past:
            self.before()
        else:
            self.left[deed.kind] += 1  # nothing but `verify` will tell
            return problems
        return problems + self.well(f"undone ({_told(outcomes)})")

    # --- both

    def nothing_lost(self) -> list[str]:
        """Every version is in the store as it was; what readers get is known to an entry that we signed."""
        house, problems = self.house, list[str]()
        for key in KEYS:
            for number, material in house.materials[key].items():
                if house.raw(key, house.records[key][number]) != material:
                    problems.append(f"version {number} of {key} is not in the store any more")
            problems += self.published(key)
        return problems

    def published(self, key: str) -> list[str]:
        """What readers get is what was, or what a new signed entry names as active."""
        house = self.house
        newest = house.store.observe(key).newest
        if newest is None:
            return [f"readers of {key} get nothing"]
        material = tried(lambda: house.store.read(key, newest), lambda _: None)
        if material is None:
            return [f"readers of {key} get what cannot be read"]
        if material.reveal() == house.materials[key][max(house.materials[key])]:
            return []
        fits = house.keyring.fingerprints.fits
        named = [name for e in self._signed(key) for name in (e.state.active, e.state.claim) if name is not None]
        if not any(fits(key, material, name.fingerprint) for name in named):
            return [f"readers of {key} get what no entry names"]
        return []

    def _signed(self, key: str) -> list[Entry]:
        found = []
        for sequence, data in sorted(self.house.objects_of(key).items()):
            if self.house.past.get((key, sequence)) == data:
                continue
            try:
                found.append(open_entry(data, key=key, sequence=sequence, trust=self.house.keyring.trust))
            except Exception:  # noqa: BLE001, S112  # what is no entry names nothing
                continue
        return found

    def _readable(self, key: str) -> list[str]:
        """Every version of a key can be got."""
        house = self.house
        lost = [number for number, material in house.materials[key].items() if house.got(key, number) != material]
        return [f"version {number} of {key} cannot be got" for number in lost]

    def well(self, when: str) -> list[str]:
        """Nothing is wrong, every version can be got, and the next scheduled run does its work."""
        house, problems = self.house, list[str]()
        house.clock.move(minutes=61)
        outcomes = house.tick()
        if bad := {k: o.message for k, o in outcomes.items() if o.status not in (*WENT_ON, Status.NOT_DUE)}:
            problems.append(f"{when}: the next tick fails: {bad}")
        if found := house.verified().problems:
            problems.append(f"{when}: verify still says {found}")
        problems += [f"{when}: {problem}" for key in KEYS for problem in self._readable(key)]
        house.clock.move(days=91)
        if bad := {k: o.message for k, o in house.tick().items() if o.status is not Status.ROTATED}:
            problems.append(f"{when}: a tick 91 days later does not rotate: {bad}")
        return problems


def _told(outcomes: dict[str, Outcome]) -> str:
    return json.dumps({key: f"{outcome.status}: {outcome.message}" for key, outcome in outcomes.items()})
