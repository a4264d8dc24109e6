"""What a person or a function can ask for, on one store under one policy. The commands translate to these and back."""

import uuid
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from . import audit, due, fleet, lifecycle, trust
from .changes import Marks
from .errors import ConfigurationError, ExistsError, KmsError, NotFoundError, RefusedError
from .fleet import Fleet, Limits, Order, Planned, Progress, Report
from .holdings import location
from .journal import Journal
from .keyring import Keyring
from .manifest import Entry, History
from .material import KeyMaterial
from .model import MAX_MATERIAL_BYTES, Claim, KeySpec, KeyState, Operation, Outcome, State, Status, VersionRecord
from .names import RESERVED_KEY, check_name
from .plan import NEVER, Work
from .policy import KeyPolicy, RotationPolicy, Tick
from .rotation import Given, Run, Tools
from .verification import verify


class KeyStatus(Struct, frozen=True):
    """One key, for people and dashboards. Times are UTC, ages whole days."""

    key: str
    active: int
    """Number of the active version; 0 for none."""
    age_days: int = 0
    material_age_days: int = 0
    """Of the secret bytes themselves: older than the version after a rollback."""
    limit_days: int = 0
    """0 if no policy names the key."""
    next_at: datetime | None = None
    overdue: bool = False
    paused: bool = False
    moved: str = ""
    """Address of the ledger where the key goes on; it is not rotated here."""
    in_progress: str = ""
    versions: tuple[VersionRecord, ...] = ()
    problem: str = ""


class Fetched(Struct, frozen=True):
    """A version, and its material if it was asked for."""

    key: str
    record: VersionRecord
    material: KeyMaterial | None


def check_import(material: KeyMaterial, created: datetime | None, now: datetime) -> datetime | None:
    """`created` in UTC; ConfigurationError for material or a time that no import can have."""
    if not 1 <= len(material) <= MAX_MATERIAL_BYTES:
        raise ConfigurationError(
            f"material of {len(material)} bytes is outside 1 to {MAX_MATERIAL_BYTES}", "is it the right file?"
        )
    return _in_use_since(created, now)


class Service:
    """Everything that can be done, given a store and an initialised ledger."""

    def __init__(
        self,
        tools: Tools,
        policy: RotationPolicy,
        *,
        tick: Tick,
        limits: Limits,
        monotonic: Callable[[], float],
        prefix: str = "",
    ) -> None:
        self.tools = tools
        self.policy = policy
        self.tick = tick
        self.fleet = Fleet(tools, policy, tick, limits, monotonic)
        self._prefix = prefix

    @property
    def journal(self) -> Journal:
        return self.tools.journal

    @property
    def keyring(self) -> Keyring:
        return self.tools.journal.keyring

    # --- many keys

    def plan(self, order: Order) -> list[Planned]:
        """What `rotate` would do now. Changes nothing."""
        self._check_order(order)
        return self.fleet.plan(order, self.tools.clock())

    def rotate(self, order: Order, progress: Progress = lambda _: None) -> Report:
        """Rotate what is due, or what the order forces."""
        self._check_order(order)
        return self.fleet.run(order, progress=progress)

    def dry_run(self, order: Order) -> Report:
        """A report of what `rotate` would do."""
        now = self.tools.clock()
        return Report(now, now, self.tools.policy_digest, fleet.dry_run(self.plan(order)))

    def status(self, keys: Sequence[str] = ()) -> list[KeyStatus]:
        """Every key of the store and the policy, or those named. Raises NotFoundError for an unknown one."""
        rows = self.fleet.listed()
        for key in keys:
            self._check_known(key, rows)
        return [self._status(key) for key in sorted(keys or {*rows, *self.policy.keys, *self._recorded()})]

    def verify(self, keys: Sequence[str] = ()) -> list[audit.KeyAudit]:
        """Hold manifests, heads and store against each other, for every key or those named."""
        rows = self.fleet.listed()
        for key in keys:
            self._check_known(key, rows)
        now, store, ledger = self.tools.clock(), self.tools.store, self.journal.ledger
        wanted = sorted(keys or {*rows, *self._recorded()})
        root = trust.read_root(ledger)
        doubt = trust.doubt(ledger, root, store.observe(RESERVED_KEY).anchor, self.keyring.fingerprints)
        return [
            *audit.verify_root(ledger, root, doubt),
            *(audit.verify_key(store, ledger, self.keyring, key, now) for key in wanted),
        ]

    # --- one key

    def create(self, key: str, *, anew: bool = False, reason: str = "") -> Outcome:
        """Make a new key. Raises ExistsError if the store or the manifest has it (`anew`: if the store has it)."""
        check_name(key, self._prefix)
        seen = self.tools.store.observe(key)
        if seen.newest is not None or (self._state(key).active is not None and not anew):
            where = "the store" if seen.newest is not None else "the manifest"
            raise ExistsError(f"{where} has a key {key} already", "choose another name; `status` shows what there is")
        return self._run(key, Operation.CREATE, forced=True, anew=anew, reason=reason)

    def rotate_now(self, key: str, reason: str = "") -> Outcome:
        """Rotate a key, due or not, in a policy or not. Raises NotFoundError for one that is not there."""
        if self._state(key).active is None:
            raise NotFoundError(f"there is no key {key}", "see `status` for the keys there are; `create` makes one")
        return self._run(key, Operation.ROTATE, forced=True, reason=reason)

    def import_key(self, key: str, material: KeyMaterial, *, created: datetime | None, reason: str = "") -> Outcome:
        """Take in a key that lived elsewhere, with the time since when it is in use. Refuses an existing key."""
        check_name(key, self._prefix)
        now = self.tools.clock()
        created = check_import(material, created, now)
        state, newest = self._state(key), self.tools.store.observe(key).newest
        if state.active is not None or (newest is not None and state.claim is None):
            raise ExistsError(f"there is a key {key} already", "import under another name, or `rotate` this one")
        work = Work(
            key,
            uuid.uuid4().hex,
            Operation.IMPORT,
            forced=True,
            created=created or now,
            fingerprint=self.keyring.fingerprints.of(key, material),
            reason=reason,
        )
        return Run(self.tools, work, self.policy.keys.get(key), given=Given(material)).execute()

    def bring(self, key: str, material: KeyMaterial, *, reason: str = "") -> Outcome:
        """Make material from elsewhere the next version of a key; the key itself, if there is none.

        Bringing what is active already changes nothing. Raises RefusedError for material that the key had before.
        """
        check_name(key, self._prefix)
        check_import(material, None, self.tools.clock())
        if self._state(key).active is None:
            return self.import_key(key, material, created=None, reason=reason)
        fits = self.keyring.fingerprints.fits
        record = next((v for v in self._versions(key).values() if fits(key, material, v.fingerprint)), None)
        if record is not None and record.state is State.ACTIVE:
            return Outcome(key, Status.DONE, f"version {record.number} has that material", number=record.number)
        if record is not None:
            raise RefusedError(
                f"version {record.number} of {key} had that material", f"`rollback {key}` makes it active again"
            )
        fingerprint = self.keyring.fingerprints.of(key, material)
        work = Work(
            key, uuid.uuid4().hex, Operation.IMPORT, forced=True, onto=True, fingerprint=fingerprint, reason=reason
        )
        return Run(self.tools, work, self.policy.keys.get(key), given=Given(material)).execute()

    def get(self, key: str, number: int = 0, *, reveal: bool = False) -> Fetched:
        """A version of a key: the active one, or by number. With `reveal` its material, verified."""
        state = self._state(key)
        if state.active is None:
            raise NotFoundError(f"there is no key {key}", "see `status` for the keys there are")
        versions = {state.active.number: state.active} if number in (0, state.active.number) else self._versions(key)
        record = lifecycle.version_of(key, versions, number or state.active.number)
        if not reveal:
            return Fetched(key, record, None)
        if record.state not in (State.ACTIVE, State.DECRYPT_ONLY):
            raise RefusedError(f"version {record.number} of {key} is {record.state}", "`enable` undoes a disabled one")
        material = self.tools.store.read(key, location(record))
        verify(key, record.spec, record.fingerprint, material, self.keyring.fingerprints)
        return Fetched(key, record, material)

    def history(self, key: str) -> list[Entry]:
        """Every manifest entry of a key, verified."""
        check_name(key, self._prefix)
        entries = self.journal.history(key)
        if not entries:
            raise NotFoundError(f"there is no manifest of {key}", "see `status` for the keys there are")
        return entries

    def rollback(self, key: str, number: int = 0, reason: str = "") -> Outcome:
        """Make an earlier version's material active again, as a new number: the previous one, or by number."""
        state = self._state(key)
        if state.active is None or (state.previous is None and not number):
            raise RefusedError(f"{key} has no previous version", "see `status`")
        source = number or (state.previous.number if state.previous else 0)
        lifecycle.check_rollback(key, lifecycle.version_of(key, self._versions(key), source))
        return self._run(key, Operation.ROLLBACK, number=source, forced=True, reason=reason)

    def compromised(self, key: str, number: int, reason: str = "") -> Outcome:
        """Mark a version's material as known to others; if it is active, rotate at once."""
        active = self._marks(key).compromised(key, number, self.tools.clock(), reason)
        if not active:
            return Outcome(key, Status.DONE, f"compromised: version {number} is marked", number=number)
        return self._run(key, Operation.ROTATE, cutoff=NEVER, reason=f"version {number} is compromised")

    def disable(self, key: str, number: int, reason: str = "") -> Outcome:
        """Make an earlier version unreadable. `enable` undoes it."""
        lifecycle.check_disable(key, lifecycle.version_of(key, self._versions(key), number))
        return self._run(key, Operation.DISABLE, number=number, reason=reason)

    def enable(self, key: str, number: int, reason: str = "") -> Outcome:
        """Make a disabled version readable again."""
        lifecycle.check_enable(key, lifecycle.version_of(key, self._versions(key), number))
        return self._run(key, Operation.ENABLE, number=number, reason=reason)

    def destroy(self, key: str, number: int, *, cancel: bool = False, reason: str = "") -> Outcome:
        """Ask for a version's destruction, which waits as long as the policy says; or take that back."""
        marks, policy = self._marks(key), self._needs_policy(key)
        if cancel:
            marks.cancel_destroy(key, number, policy, reason)
            return Outcome(key, Status.DONE, f"destroy-cancelled: version {number} stays", number=number)
        at = marks.schedule_destroy(key, number, policy, self.tools.clock(), reason)
        message = f"destroy-scheduled: version {number} is destroyed by the first run after {at:%Y-%m-%d %H:%M} UTC"
        notes = (self.tools.store.destruction,) if self.tools.store.destruction else ()
        return Outcome(key, Status.DONE, message, number=number, next_at=at, notes=notes)

    def pause(self, key: str, reason: str = "") -> Outcome:
        """Stop rotating a key until `resume`."""
        self._marks(key).pause(key, reason)
        return Outcome(key, Status.DONE, "paused: not rotated until `resume`")

    def resume(self, key: str, reason: str = "") -> Outcome:
        """End a pause, or let a key that waits for a person be tried again."""
        self._marks(key).resume(key, reason)
        return Outcome(key, Status.DONE, "resumed: rotated again when it is due")

    def adopt(self, key: str, *, created: datetime | None = None, reason: str = "") -> Outcome:
        """Take in what lies in the store under that name, in place: a key without a manifest, or drift."""
        check_name(key, self._prefix)
        if self.tools.store.observe(key).newest is None:
            raise NotFoundError(f"the store has no key {key}", "see `status` for the keys there are")
        created = _in_use_since(created, self.tools.clock())
        if self.journal.ledger.sequences(key) and not self.verify([key])[-1].problems:
            raise RefusedError(f"the manifest knows all that the store has of {key}", "nothing to adopt")
        work = Work(key, uuid.uuid4().hex, Operation.ADOPT, forced=True, created=created, reason=reason)
        return Run(self.tools, work, self.policy.keys.get(key)).execute()

    def repair(self, key: str, reason: str = "") -> Outcome:
        """Start a new signed segment behind objects that are no entries, and store the head beside the key again."""
        marks = self._marks(key)
        if not self.journal.ledger.sequences(key):
            raise NotFoundError(f"there is no manifest of {key}", "see `status` for the keys there are")
        count = marks.repair(key, reason)
        message = (
            f"repaired: {count} objects that are no entries are named and stepped over" if count else "sound already"
        )
        return Outcome(key, Status.DONE, message)

    def renew(self, trigger: str) -> trust.Initialised:
        """New signing and fingerprint keys, announced by a signature of the old."""
        return trust.renew(self.tools.store, self.journal.ledger, clock=self.tools.clock, trigger=trigger)

    def stay(self, key: str, reason: str, left: Claim | None) -> None:
        """Give up a migration of this key that was left half done, by that claim: it is rotated here again."""
        self._marks(key).stay(key, self.tools.clock(), reason, left)

    def hold_up(self, key: str, reason: str = "") -> bool:
        """See that a run that brings this key here asks again before it records anything; False if there is none."""
        return self._marks(key).hold_up(key, self.tools.clock(), reason)

    # --- for those who work on many keys

    def known(self) -> set[str]:
        """Every key that the store or the ledger has."""
        return {*self.fleet.listed(), *self._recorded()}

    def state(self, key: str) -> KeyState:
        """What a key's manifest says of it now."""
        return self._state(key)

    def check_name(self, key: str) -> None:
        """Raise ConfigurationError for a name that no store takes."""
        check_name(key, self._prefix)

    # --- helpers

    def _run(self, key: str, operation: Operation, **wanted: object) -> Outcome:
        work = Work(key, uuid.uuid4().hex, operation, **wanted)  # type: ignore[arg-type]  # the callers above name fields
        return Run(self.tools, work, self.policy.keys.get(key) or self._policy_like(key)).execute()

    def _policy_like(self, key: str) -> KeyPolicy:
        """For what a person asks of a key that no policy names: more of what it is."""
        active = self._state(key).active
        return KeyPolicy(spec=KeySpec.parse(active.spec)) if active else KeyPolicy()

    def _marks(self, key: str) -> Marks:
        check_name(key, self._prefix)  # above all: never the ledger's own chain
        return Marks(self.tools.store, self.journal)

    def _state(self, key: str) -> KeyState:
        check_name(key, self._prefix)
        return self.journal.head(key, self.tools.store.observe(key).anchor).state

    def _versions(self, key: str) -> dict[int, VersionRecord]:
        return History(self.history(key)).versions

    def _recorded(self) -> list[str]:
        return [key for key in self.journal.ledger.names() if "--" not in key]

    def _needs_policy(self, key: str) -> KeyPolicy:
        if key not in self.policy.keys:
            raise ConfigurationError(f"no policy names {key}", "add [keys." + key + "] to the policy file")
        return self.policy.keys[key]

    def _check_order(self, order: Order) -> None:
        for key in order.keys:
            check_name(key, self._prefix)
            if order.force:
                self._needs_policy(key)

    def _check_known(self, key: str, rows: Container[str]) -> None:
        check_name(key, self._prefix)
        if key not in rows and key not in self.policy.keys and key not in self._recorded():
            raise NotFoundError(f"there is no key {key!r}", "see `status` for the keys there are")

    def _status(self, key: str) -> KeyStatus:
        policy = self.policy.keys.get(key)
        limit = policy.rotate_after_days if policy else 0
        try:
            seen = self.tools.store.observe(key)
            state, versions = self.journal.head(key, seen.anchor).state, History(self.journal.history(key)).versions
        except KmsError as problem:
            return KeyStatus(key, 0, limit_days=limit, problem=problem.message)
        active, now = state.active, self.tools.clock()
        if active is None:
            return KeyStatus(key, 0, limit_days=limit, in_progress=_held(state), problem="does not exist")
        return KeyStatus(
            key=key,
            active=active.number,
            age_days=max(0, (now - active.active_since).days),
            material_age_days=max(0, (now - active.made_at).days),
            limit_days=limit,
            next_at=due.due_at(key, policy, active.active_since, self.tick) if policy and not state.moved else None,
            overdue=policy is not None and not state.moved and due.overdue(policy, active.active_since, now),
            paused=state.paused,
            moved=state.moved,
            in_progress=_held(state),
            versions=tuple(versions[number] for number in sorted(versions)),
            problem="" if seen.newest is not None else "the store has no such key",
        )


def _in_use_since(created: datetime | None, now: datetime) -> datetime | None:
    """A time that a person gave, in UTC. Raises ConfigurationError for one without a zone, or in the future."""
    if created is None:
        return None
    if created.tzinfo is None:
        raise ConfigurationError(f"{created} has no time zone", "give a time in UTC")
    if created > now + timedelta(days=1):
        raise ConfigurationError(f"{created:%Y-%m-%d} is in the future", "give the day since when the key is in use")
    return created.astimezone(UTC)


def _held(state: KeyState) -> str:
    if state.claim is None:
        return ""
    return f"{state.claim.work}, until {state.claim.lease_until:%H:%M} UTC"
