"""One run over a small model of ledger and store, one read or write at a time.

What is real here: the rules (`plan`), the manifest's state (`manifest.advance`), every record. What is modelled: the
ledger (a conditional append), the store (what it would show, of either kind), and how `rotation.Run` carries out each
step, cut into its single reads and writes. Between any two of them a run may sleep as long as it likes. A run that
stops for good is one that sleeps for ever: nobody can tell, so that needs no moves of its own.

Time is abstract: whether a claim has expired is a choice, and so is whether its lease lasts when a run looks at it
right before a write that takes no condition. Each run takes another's expired claim once, and its own once, which
keeps the model finite.

The abstractions: a version id is a function of what it names (a published version: number and material; a staged
copy also counts how often its run staged it), so that worlds which differ in names only are one world. `digest`, a
running hash, is left blank for the same reason. The anchor beside the key is left out: it can only make a run look
again, or let it begin with an older head, which is a run that slept after reading it.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any, NamedTuple

from msgspec.structs import replace

from daena_kms import plan
from daena_kms.errors import IntegrityError
from daena_kms.manifest import ENDING, Draft, Event, advance
from daena_kms.model import Claim, KeyState, Observed, Operation, State, StoredVersion, VersionRecord
from daena_kms.plan import View, Work

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_UNTIL = NOW + timedelta(minutes=15)
EXPIRED = NOW + timedelta(hours=1)
TICK = "the tick"
SPEC = "AES-256"
BAD = "the check failed"
NOTHING = Observed(exists=False)


class Rule(StrEnum):
    """A rule that can be left out, to see that the checks notice."""

    CLAIM = "claim"
    """The append to the manifest is conditional."""
    PLANNED = "planned"
    """Promote compares with the version the plan was based on, where the store can."""
    BURN = "burn"
    """A take-over that does not find the claimed material gives the number up."""
    SCAN = "scan"
    """Claimed versions that no entry knows are looked for, and named, also where readers no longer get them."""
    HEAL = "heal"
    """A tick compares what readers get with the manifest."""


class Setting(NamedTuple):
    """What is explored: the kind of store, what may go wrong besides sleeping, and which rule is left out."""

    fenced: bool
    split_looks: bool = False
    """A look reads the manifest first, and the store at any time later; otherwise both at once."""
    failing_checks: bool = False
    """What was staged may fail its check."""
    stale_looks: bool = False
    """A look may miss the copy that was staged last."""
    creation: bool = False
    """The key is not there yet, and every run means to create it."""
    same_request: bool = False
    """Every run was started by the same request, delivered more than once."""
    runs: int = 2
    """With more than two, none claims its own again when its lease has ended: else there is no end to it."""
    without: Rule | None = None

    @property
    def kind(self) -> str:
        return "fenced" if self.fenced else "unfenced"

    @property
    def variant(self) -> str:
        names = ("split_looks", "failing_checks", "stale_looks", "creation", "same_request")
        told = [name.replace("_", " ") for name in names if getattr(self, name)]
        return ", ".join(told + [f"{self.runs} runs"] * (self.runs != 2)) or "basic"


class Version(NamedTuple):
    """A number and the name of its material, as the checks speak of it."""

    number: int
    material: str

    def __str__(self) -> str:
        return f"{self.number}={self.material}"


class Ledger(NamedTuple):
    """The head of the key's manifest, and what the whole of it says."""

    sequence: int
    state: KeyState
    claims: tuple[Version, ...]
    """Every version that was ever claimed."""
    known: frozenset[Version]
    """Every version that an entry calls active or adopted."""
    requests: frozenset[str] = frozenset()
    """Every request that an entry names."""
    carried_out: frozenset[str] = frozenset()
    """Every request that a rotation was ended for."""


class World(NamedTuple):
    """What outlives every run. The store's state is what it would show."""

    ledger: Ledger
    store: Observed


class Known(dict[int, str]):
    """Number -> fingerprint; never changed once it is made."""

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none because it could be changed
        return hash(tuple(sorted(self.items())))


class Phase(Enum):
    """Which single read or write comes next."""

    LOOK = "read the manifest's head"
    OBSERVE = "observe the store"
    SETTLE_OBSERVE = "observe the store, to settle"
    SETTLE = "read the head again: did it stand still?"
    ACT = "the first side effect of the next step"
    PUBLISH = "the last look was good: write"
    RECORD = "the store is done: append it"


class Memory(NamedTuple):
    """What one run remembers, perhaps out of date."""

    work: Work
    phase: Phase = Phase.LOOK
    sequence: int = 0
    """Of the head it has read; the head's state is in the view."""
    view: View = View(KeyState(), NOTHING)
    prepared: str = ""
    """The material it could stage."""
    stagings: int = 0
    """How often it has staged that."""
    left: tuple[StoredVersion, ...] = ()
    """Staged copies it is about to take away before anything else."""
    took_over: bool = False
    """It has taken another run's claim once, and never sees one expire again."""
    renewed: bool = False
    """The same of a claim of its own."""
    bad: str = ""
    """The material that failed its check."""

    @property
    def name(self) -> str:
        return self.work.run


class Move(NamedTuple):
    """One read or write by one run, and what came of it. `run` is None once the run has ended."""

    label: str
    run: Memory | None
    world: World
    problem: str = ""


class Engine:
    """How a run carries out what the rules say, one read or write at a time: `rotation.Run` over the model."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.taken: set[str] = set()
        """The kinds of step that were taken by some run."""
        self._phases: dict[Phase, Callable[[Memory, World], list[Move]]] = {
            Phase.LOOK: self._look,
            Phase.OBSERVE: self._observe,
            Phase.SETTLE_OBSERVE: self._settle_observe,
            Phase.SETTLE: self._settle,
            Phase.ACT: self._act,
            Phase.PUBLISH: self._publish,
            Phase.RECORD: self._record,
        }
        self._steps: dict[type[plan.Step], Callable[[Memory, World, Any], list[Move]]] = {
            plan.Done: self._done,
            plan.Refuse: self._refuse,
            plan.Look: self._start_settling,
            plan.Claiming: self._claim,
            plan.TakeOver: self._take_over,
            plan.Stage: self._stage,
            plan.Verify: self._verify,
            plan.Promote: self._promote,
            plan.Finish: self._finish,
            plan.Discard: self._discard,
            plan.Adopt: self._adopt,
            plan.Republish: self._last_look,
            plan.Tidy: self._tidy,
        }

    def moves(self, run: Memory, world: World) -> list[Move]:
        """Everything this run may do next in this world."""
        if run.left:
            return [self._take_away(run, world)]
        return self._phases[run.phase](run, world)

    # --- looking

    def _look(self, run: Memory, world: World) -> list[Move]:
        read = run._replace(sequence=world.ledger.sequence, view=View(world.ledger.state, NOTHING))
        if self.setting.split_looks:
            return [Move("reads the manifest", read._replace(phase=Phase.OBSERVE), world)]
        return self._observe(read, world)

    def _observe(self, run: Memory, world: World) -> list[Move]:
        return [
            Move(label, run._replace(phase=Phase.ACT, view=replace(run.view, seen=seen)), world)
            for label, seen in self._sights(run, world.store)
        ]

    def _start_settling(self, run: Memory, world: World, _: plan.Look) -> list[Move]:
        read = run._replace(sequence=world.ledger.sequence, view=View(world.ledger.state, NOTHING))
        if self.setting.split_looks:
            return [Move("reads the manifest, to settle", read._replace(phase=Phase.SETTLE_OBSERVE), world)]
        return [end for seen in self._settle_observe(read, world) if seen.run for end in self._settle(seen.run, world)]

    def _settle_observe(self, run: Memory, world: World) -> list[Move]:
        return [
            Move(label, run._replace(phase=Phase.SETTLE, view=View(run.view.state, seen)), world)
            for label, seen in self._sights(run, world.store)
        ]

    def _settle(self, run: Memory, world: World) -> list[Move]:
        ledger = world.ledger
        if not _is_head(run, ledger):
            again = run._replace(
                phase=Phase.SETTLE_OBSERVE, sequence=ledger.sequence, view=View(ledger.state, run.view.seen)
            )
            return [Move("finds that the manifest went on", again, world)]
        known = None if self.setting.fenced else Known(ledger.known)  # with compare-and-set no rule reads it
        settled = View(ledger.state, run.view.seen, settled=True, known=known, requests=ledger.requests)
        return [Move("looks, and nothing moved meanwhile", run._replace(phase=Phase.ACT, view=settled), world)]

    def _sights(self, run: Memory, store: Observed) -> list[tuple[str, Observed]]:
        sights = [("looks", store)]
        if self.setting.stale_looks and store.staged and run.name != TICK:
            stale = replace(store, staged=store.staged[:-1])
            sights.append((f"looks, but misses {store.staged[-1].fingerprint}", stale))
        return sights

    # --- the steps

    def next_steps(self, run: Memory) -> list[plan.Step]:
        """What the rules say: once for each time it may be, as far as that makes a difference."""
        found: list[plan.Step] = []
        for now in _times(run):
            step = self._next_step(run, now)
            if step not in found:
                found.append(step)
        return found

    def _next_step(self, run: Memory, now: datetime) -> plan.Step:
        return plan.next_step(run.work, self._view(run), now, fenced=self.setting.fenced)

    def _going_on(self, run: Memory) -> plan.Step:
        """The step that this run has begun: it has seen nothing since, so the rules say the same."""
        return self._next_step(run, NOW)

    def _view(self, run: Memory) -> View:
        """What the rules are shown: what the run has seen, but for what a rule that is left out would look at."""
        if self.setting.without is Rule.SCAN:
            return _without_covered(run.view)
        if self.setting.without is Rule.HEAL:
            return _without_doubt(run.view)
        return run.view

    def _act(self, run: Memory, world: World) -> list[Move]:
        return [move for step in self.next_steps(run) for move in self._take(run, world, step)]

    def _take(self, run: Memory, world: World, step: plan.Step) -> list[Move]:
        self.taken.add(type(step).__name__)
        return self._steps[type(step)](run, world, step)

    def _done(self, _: Memory, world: World, step: plan.Done) -> list[Move]:
        return [Move(f"ends: {step.status}", None, world)]

    def _refuse(self, run: Memory, world: World, step: plan.Refuse) -> list[Move]:
        """Nobody else writes here: only what a run has itself found bad may be refused."""
        right = any(version.fingerprint == run.bad for version in run.view.seen.versions)
        problem = "" if right else f"{run.name} refuses what is in order: {step.message}"
        return [Move(f"refuses: {step.message}", None, world, problem)]

    def _claim(self, run: Memory, world: World, step: plan.Claiming) -> list[Move]:
        if step.burning is not None and self.setting.without is Rule.BURN:
            return self._usurp(run, world, step.burning)
        version = _fresh(world.ledger, step.number)
        claim = Claim(
            step.operation,
            step.number,
            run.name,
            LEASE_UNTIL,
            "",
            rotation_id=_rotation(step.number),
            fingerprint=version.material,
            spec=SPEC,
            made_at=NOW,
            planned=step.planned,
            request=step.request,
        )
        held = step.burning
        own = run.work.claimed or held is None or plan.same_work(run.work, held)
        work = replace(run.work, holding=version.material, claimed=own)
        claimed = _having_taken(run, held)._replace(work=work, prepared=version.material, stagings=0)
        draft = Draft(Event.ROTATION_STARTED, step.number, claim=claim)
        twice = any(version.number == given.number for given in world.ledger.claims)
        label = f"claims {version}" if held is None else f"gives {held.fingerprint} up and claims {version}"
        (move,) = self._append(run._replace(prepared=""), world, draft, claimed, label)
        if move.run is not None and move.run.phase is Phase.ACT and twice:
            return [move._replace(problem=f"number {version.number} is given out twice")]
        return [move]

    def _usurp(self, run: Memory, world: World, held: Claim) -> list[Move]:
        """Without the rule: the same number, with material of its own."""
        version = _fresh(world.ledger, held.number)
        claim = replace(held, run=run.name, lease_until=LEASE_UNTIL, fingerprint=version.material)
        work = replace(run.work, holding=version.material)
        taken = _having_taken(run, held)._replace(work=work, prepared=version.material, stagings=0)
        written = world.ledger._replace(state=replace(run.view.state, claim=claim))
        label = f"takes over with {version} of its own"
        return self._write_entry(run._replace(prepared=""), world, written, taken, label)

    def _take_over(self, run: Memory, world: World, _: plan.TakeOver) -> list[Move]:
        claim = replace(_open(run), run=run.name, lease_until=LEASE_UNTIL)
        draft = Draft(Event.ROTATION_RESUMED, claim.number, claim=claim)
        work = replace(run.work, claimed=run.work.claimed or plan.same_work(run.work, claim))
        verb = "claims {} again" if _open(run).run == run.name else "takes {} over"
        after = _having_taken(run, _open(run))._replace(work=work)
        return self._append(run, world, draft, after, verb.format(claim.fingerprint))

    def _stage(self, run: Memory, world: World, _: plan.Stage) -> list[Move]:
        claim = _open(run)
        wrong = "" if run.prepared == claim.fingerprint else f"stages {run.prepared!r} as {claim.fingerprint}"
        version_id = claim.rotation_id if self.setting.fenced else f"{claim.fingerprint}.{run.stagings}"
        copy = StoredVersion(claim.number, version_id, claim.fingerprint, staged=True)
        stored = _find(world.store, version_id) or copy
        store = world.store
        if stored is copy:
            store = replace(store, exists=True, staged=(*store.staged, copy))
        staged = run._replace(view=plan.with_staged(run.view, stored), stagings=run.stagings + 1)
        return [Move(f"stages {claim.fingerprint}", staged, world._replace(store=store), wrong)]

    def _verify(self, run: Memory, world: World, step: plan.Verify) -> list[Move]:
        version = step.version
        stored = _find(world.store, version.version_id)
        if stored is None:
            return [_conflict(run, world, f"does not find {version.fingerprint} any more")]
        expected = _expected(run.view.state, version.number)
        good = run._replace(work=replace(run.work, verified=expected))
        bad = run._replace(work=replace(run.work, rejected=expected, rejected_why=BAD), bad=expected)
        if stored.fingerprint != expected:
            return [Move(f"finds {stored.fingerprint} instead of {expected}", bad, world)]
        moves = [Move(f"verifies {expected}", good, world)]
        if self.setting.failing_checks and run.name != TICK:
            moves.append(Move(f"finds {expected} bad", bad, world))
        return moves

    def _promote(self, run: Memory, world: World, step: plan.Promote) -> list[Move]:
        if not self.setting.fenced:
            return self._last_look(run, world, step)
        found = _find(world.store, step.version.version_id)
        if found is None:
            return [_conflict(run, world, f"does not find {step.version.fingerprint} any more")]
        matches = _id(world.store.newest) in {_id(step.planned), _id(found)}
        if not matches and self.setting.without is not Rule.PLANNED:
            return [_conflict(run, world, "is fenced off")]
        published = replace(found, staged=False)
        promoted = run._replace(view=plan.with_promoted(run.view, published))
        after = _publish_in(world, published, found)
        return [Move(f"promotes {found.fingerprint}", promoted, after, _unverified(run, found))]

    def _last_look(self, run: Memory, world: World, _: plan.Promote | plan.Republish) -> list[Move]:
        """Right before a write that takes no condition: the head, and the lease."""
        if not _is_head(run, world.ledger):
            return [_conflict(run, world, "looks once more: the manifest has moved on")]
        moves = [Move("looks once more", run._replace(phase=Phase.PUBLISH), world)]
        if run.name != TICK and run.view.state.claim is not None:
            moves.append(_conflict(run, world, "looks once more: its lease ends"))
        return moves

    def _publish(self, run: Memory, world: World) -> list[Move]:
        """The write itself, on a store that takes no condition: what the run has read and verified, staged or not."""
        step = self._going_on(run)
        if isinstance(step, plan.Republish):
            again = run._replace(phase=Phase.RECORD)
            return [Move(f"republishes {step.version.fingerprint}", again, _publish_in(world, step.version))]
        if not isinstance(step, plan.Promote):
            raise TypeError(step)
        version = Version(step.version.number, step.version.fingerprint)
        published = _publish_in(world, _published(version))
        seeing = run._replace(phase=Phase.OBSERVE)
        return [Move(f"publishes {version.material}", seeing, published, _unverified(run, step.version))]

    def _finish(self, run: Memory, world: World, step: plan.Finish) -> list[Move]:
        claim, strays = _open(run), () if self.setting.without is Rule.SCAN else step.strays
        active = _record(Version(claim.number, claim.fingerprint), State.ACTIVE)
        changes = [active, *_deactivated(run.view.state), *_adopted(run.view.state, strays)]
        draft = Draft(ENDING[claim.operation], claim.number, changes=tuple(changes))
        named = "".join(f", names {stray.fingerprint}" for stray in strays)
        (move,) = self._append(run, world, draft, run, f"records that {claim.fingerprint} is active{named}")
        before, after = world.ledger, move.world.ledger
        if after is before or not claim.request:
            return [move]
        problem = f"{claim.request} is carried out twice" if claim.request in before.carried_out else move.problem
        done = after._replace(carried_out=before.carried_out | {claim.request})
        return [move._replace(world=move.world._replace(ledger=done), problem=problem)]

    def _discard(self, run: Memory, world: World, step: plan.Discard) -> list[Move]:
        claimed = _open(run).fingerprint
        if claimed != run.bad and self.setting.without is not Rule.BURN:
            return [Move(f"gives {claimed} up", None, world, f"{run.name} gives up {claimed}, which did not fail")]
        if step.version is None:
            return self._record_discarded(run, world, step)
        store = _without(world.store, step.version)
        waiting = run._replace(phase=Phase.RECORD)
        return [Move(f"discards {step.version.fingerprint}", waiting, world._replace(store=store))]

    def _record_discarded(self, run: Memory, world: World, step: plan.Discard) -> list[Move]:
        draft = Draft(Event.DISCARDED, _open(run).number, retry_at=EXPIRED)
        gone = (step.version,) if step.version is not None else ()
        work = replace(run.work, claimed=True)
        done = run._replace(work=work, view=plan.without_staged(run.view, gone))
        return self._append(run, world, draft, done, f"gives {_open(run).fingerprint} up")

    def _adopt(self, run: Memory, world: World, step: plan.Adopt) -> list[Move]:
        state, found = run.view.state, list(step.strays)
        changes = _adopted(state, step.strays)
        if step.active is not None:
            found.append(step.active)
            version = Version(step.active.number, _expected(state, step.active.number))
            changes = [*changes, _record(version, State.ACTIVE), *_deactivated(state)]
        label = f"adopts {', '.join(v.fingerprint for v in found)}"
        return self._append(run, world, Draft(Event.ADOPTED, found[0].number, changes=tuple(changes)), run, label)

    def _record(self, run: Memory, world: World) -> list[Move]:
        """The second half of a step that changes the store first."""
        step = self._going_on(run)
        if isinstance(step, plan.Discard):
            return self._record_discarded(run, world, step)
        active = run.view.state.active
        if active is None:
            raise AssertionError("only an active version is published again")
        draft = Draft(Event.REPUBLISHED, active.number, changes=(active,))
        looking = _forgetting(run)
        return self._append(run, world, draft, looking, f"records that {active.fingerprint} was republished")

    def _tidy(self, run: Memory, world: World, step: plan.Tidy) -> list[Move]:
        cleared = plan.without_staged(run.view, step.copies)
        return [self._take_away(run._replace(view=cleared, left=step.copies), world)]

    def _take_away(self, run: Memory, world: World) -> Move:
        first, *others = run.left
        store = _without(world.store, first)
        return Move(f"takes {first.fingerprint} away", run._replace(left=tuple(others)), world._replace(store=store))

    # --- the manifest

    def _append(self, run: Memory, world: World, draft: Draft, after: Memory, label: str) -> list[Move]:
        """Write the entry that follows the head this run knows; `after` is the run once that is done."""
        try:
            state = replace(advance(run.view.state, draft), digest="")
        except IntegrityError as problem:
            return [Move(label, None, world, f"{run.name} writes what cannot be: {problem.message}")]
        given_up = _open(run).request if draft.event is Event.DISCARDED else ""
        written = world.ledger._replace(
            state=state,
            known=world.ledger.known.union(Version(r.number, r.fingerprint) for r in draft.changes),
            requests=world.ledger.requests - {given_up},  # asked again, it is tried again
        )
        return self._write_entry(run, world, written, after, label)

    def _write_entry(self, run: Memory, world: World, written: Ledger, after: Memory, label: str) -> list[Move]:
        if not _is_head(run, world.ledger) and self.setting.without is not Rule.CLAIM:
            return [_conflict(run, world, f"{label}: loses the append")]
        written = written._replace(sequence=written.sequence + 1)
        claim = written.state.claim
        if claim is not None:
            claimed = Version(claim.number, claim.fingerprint)
            claims = written.claims if claimed in written.claims else (*written.claims, claimed)
            written = written._replace(claims=claims, requests=written.requests | {claim.request})
        if after.phase is not Phase.LOOK:
            view = replace(after.view, state=written.state, settled=False)
            after = after._replace(phase=Phase.ACT, sequence=written.sequence, view=view)
        return [Move(label, after, world._replace(ledger=written))]


# --- the beginning


def first_world(setting: Setting) -> World:
    """Version 1 is active and published; or there is nothing yet."""
    if setting.creation:
        return World(Ledger(0, KeyState(), (), frozenset()), NOTHING)
    version = Version(1, "1a")
    state = KeyState(highest=1, active=_record(version, State.ACTIVE))
    stored = replace(_published(version), version_id=_rotation(1)) if setting.fenced else _published(version)
    store = Observed(exists=True, newest=stored, versions=(stored,))
    return World(Ledger(2, state, (version,), frozenset({version})), store)


def first_memory(setting: Setting, name: str) -> Memory:
    """A run that is asked for a new version, whatever the age of the one before; or for the first one."""
    if setting.creation:
        return Memory(Work("key", name, Operation.CREATE))
    request = "the request" if setting.same_request else f"the request of {name}"
    return Memory(Work("key", name, Operation.ROTATE, forced=True, request=request), renewed=setting.runs > 2)


def next_tick(world: World) -> Memory:
    """A run that wants nothing but order: no key is due."""
    if world.store.newest is None:
        return Memory(Work("key", TICK, Operation.CREATE))
    return Memory(Work("key", TICK, Operation.ROTATE, cutoff=datetime.min.replace(tzinfo=UTC)))


# --- the ledger and the store as data


def _without_covered(view: View) -> View:
    """The view without the burnt numbers that lie under the newest version."""
    burnt = {(lost.number, lost.fingerprint) for lost in view.state.burnt}
    seen = view.seen
    shown = tuple(v for v in seen.versions if v == seen.newest or (v.number, v.fingerprint) not in burnt)
    return replace(view, seen=replace(seen, versions=shown))


def _without_doubt(view: View) -> View:
    """The view of a run that takes it for granted that readers get what the manifest says, if no claim is open."""
    active = view.state.active
    if view.state.claim is not None or active is None:
        return view
    return replace(view, seen=replace(view.seen, newest=view.seen.published(active.number, active.fingerprint)))


def _is_head(run: Memory, ledger: Ledger) -> bool:
    return (run.sequence, run.view.state) == (ledger.sequence, ledger.state)


def _forgetting(run: Memory) -> Memory:
    """The run once it has to look again: it keeps its work, and nothing it saw."""
    return run._replace(phase=Phase.LOOK, sequence=0, view=View(KeyState(), NOTHING))


def _times(run: Memory) -> tuple[datetime, ...]:
    """When it may be: before the open claim's lease ends, or after. To the tick, all leases but its own have ended."""
    claim = run.view.state.claim
    if claim is None:
        return (NOW,)
    own = claim.run == run.name
    if run.name == TICK:
        return (NOW,) if own else (EXPIRED,)
    return (NOW,) if (run.renewed if own else run.took_over) else (NOW, EXPIRED)


def _having_taken(run: Memory, held: Claim | None) -> Memory:
    """The run once it has taken or given up an expired claim; None for none."""
    if held is None:
        return run
    return run._replace(renewed=True) if held.run == run.name else run._replace(took_over=True)


def _conflict(run: Memory, world: World, label: str) -> Move:
    return Move(label, _forgetting(run), world)


def _open(run: Memory) -> Claim:
    if run.view.state.claim is None:
        raise AssertionError("this step needs an open claim")
    return run.view.state.claim


def _rotation(number: int) -> str:
    return f"rotation-{number}"


def _fresh(ledger: Ledger, number: int) -> Version:
    """New material for that number: 2a for the first claim of number 2. There is a 2b only if a rule is missing."""
    given = sum(version.number == number for version in ledger.claims)
    return Version(number, f"{number}{'abcdefgh'[given]}")


def _published(version: Version) -> StoredVersion:
    """How a store without compare-and-set shows a published version. Copies of it are one."""
    return StoredVersion(version.number, f"{version.material}.live", version.material)


def _id(version: StoredVersion | None) -> str:
    return version.version_id if version is not None else ""


def _find(store: Observed, version_id: str) -> StoredVersion | None:
    return next((v for v in (*store.staged, *store.versions) if v.version_id == version_id), None)


def _without(store: Observed, version: StoredVersion) -> Observed:
    return replace(store, staged=tuple(v for v in store.staged if v.version_id != version.version_id))


def _publish_in(world: World, published: StoredVersion, staged: StoredVersion | None = None) -> World:
    """The world in which readers get `published`; `staged` is what it was made of, if that is gone by it."""
    store = world.store if staged is None else _without(world.store, staged)
    versions = {v.version_id: v for v in (*store.versions, published)}
    ordered = tuple(sorted(versions.values(), key=lambda v: (v.number, v.version_id)))
    return world._replace(store=replace(store, newest=published, versions=ordered))


def _unverified(run: Memory, version: StoredVersion) -> str:
    if run.work.verified == version.fingerprint:
        return ""
    return f"{run.name} publishes {version.fingerprint}, which it has not verified"


def _expected(state: KeyState, number: int) -> str:
    """The material that a claim gave that number."""
    if state.claim is not None and state.claim.number == number:
        return state.claim.fingerprint
    return next(burnt.fingerprint for burnt in state.burnt if burnt.number == number)


def _record(version: Version, state: State) -> VersionRecord:
    return VersionRecord(version.number, f"{version.material}.live", version.material, SPEC, state, NOW, NOW)


def _deactivated(state: KeyState) -> list[VersionRecord]:
    return [replace(state.active, state=State.DECRYPT_ONLY)] if state.active is not None else []


def _adopted(state: KeyState, strays: Iterable[StoredVersion]) -> list[VersionRecord]:
    versions = (Version(stray.number, _expected(state, stray.number)) for stray in strays)
    return [_record(version, State.DECRYPT_ONLY) for version in versions]
