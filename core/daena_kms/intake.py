"""Bringing a key's versions into a store, and taking them out to another: what RESTORE and MIGRATE claims announce.

Each version keeps its number and is staged, read back, verified and published like any other; the active one is
published last, so that it is what readers get. All of it can be done twice: what lies there already is read and left.
Nothing that lies there is overwritten, and no number gets a second material.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from . import holdings, plan
from .errors import ConfigurationError, IntegrityError, NotFoundError, RefusedError
from .holdings import Held, Holding
from .manifest import STARTED, History
from .material import KeyMaterial
from .model import Burnt, Claim, KeySpec, KeyState, Observed, Operation, State, StoredVersion, VersionRecord
from .stores.base import NewVersion
from .verification import verify

if TYPE_CHECKING:
    from .rotation import Run

EXISTS_HINT = "nothing was overwritten; restore into another store, or under another prefix"


def announced(run: "Run", holding: Holding, history: History, state: KeyState, seen: Observed) -> tuple[Burnt, ...]:
    """Every number that is brought, with its material's name here. Changes nothing.

    Raises RefusedError if anything stands in the way: then nothing is brought, and nothing says that it was tried.
    """
    _check_on_its_way(run)
    _check_room(run.key, state, seen)
    _check_not_our_past(run, holding, state)
    brought = tuple(_named(run, each, history) for each in _brought(holding, history))
    if open_claim := state.claim:
        missing = {each.number for each in open_claim.brings} - {each.number for each in brought}
        if missing:
            raise RefusedError(
                f"another run left {run.key} half done, and has brought version {min(missing)}, which is not here",
                plan.HALF_DONE_HINT[Operation.RESTORE].replace("KEY", run.key),
            )
    return brought


def _check_on_its_way(run: "Run") -> None:
    if run.given.still is not None:
        run.given.still()


def _check_room(key: str, state: KeyState, seen: Observed) -> None:
    if seen.rival:
        raise RefusedError(f"somebody else rotates {key}: two rotators would fight", seen.rival)
    if seen.crowded:
        raise RefusedError(f"a version of {key} cannot be marked as ours: {seen.crowded}", "take some away")
    if seen.newest is not None and not state.moved and not state.coming:
        raise RefusedError(f"there is a key {key} already", EXISTS_HINT)


def _check_not_our_past(run: "Run", holding: Holding, state: KeyState) -> None:
    """A key that has moved away comes back from where it is, or from a backup made there: not from an earlier one."""
    if not state.moved or run.given.still is not None:
        return
    gone = [entry.destination for entry in run.past.history().entries if entry.destination is not None][-1]
    if (holding.origin.ledger, holding.origin.public_key) != (gone.ledger, gone.public_key):
        raise RefusedError(
            f"{run.key} has moved to {state.moved}, and this was not read there",
            "two stores would rotate it: bring it back from there with `migrate`, or from a backup made there",
        )


def _brought(holding: Holding, history: History) -> list[Held]:
    """The versions whose material is to lie here, the active one last. What was destroyed here for good stays so."""
    gone = {v.number for v in history.versions.values() if v.state is State.DESTROYED and not v.lost}
    numbers = [held.record.number for held in holding.versions]
    if len(set(numbers)) < len(numbers) or not all(1 <= number <= holding.highest for number in numbers):
        raise RefusedError(f"the versions of {holding.key} are not numbered as ours are", "nothing was changed")
    for held in holding.versions:
        record = held.record
        if held.material is None and record.state in holdings.READABLE:
            raise RefusedError(
                f"version {record.number} of {holding.key} is {record.state}, but its material is missing"
            )
        if record.state is State.ACTIVE and record.number in gone:
            raise RefusedError(
                f"version {record.number} of {holding.key} would become active, but was destroyed here",
                "restore into another store",
            )
    brought = [held for held in holding.versions if held.material is not None and held.record.number not in gone]
    active = sum(held.record.state is State.ACTIVE for held in brought)
    if active != 1:
        raise RefusedError(f"{holding.key} has {active or 'no'} active versions there", "see `history` there")
    return sorted(brought, key=lambda held: (held.record.state is State.ACTIVE, held.record.number))


def _named(run: "Run", held: Held, history: History) -> Burnt:
    """A number and the one material it may have here; RefusedError if it has another."""
    record, material = held.record, _material(held)
    known = history.versions.get(record.number)
    name = known.fingerprint if known is not None else history.claimed.get(record.number, "")
    try:
        if KeySpec.parse(record.spec).length != len(material):
            raise RefusedError(f"version {record.number} of {run.key} is no {record.spec}", "nothing was changed")
        if name:
            run.fingerprints.check(run.key, material, name)
    except (IntegrityError, ConfigurationError):
        raise RefusedError(
            f"number {record.number} of {run.key} belongs to other material here",
            "a number keeps its material for ever",
        ) from None
    return Burnt(record.number, name or run.fingerprints.of(run.key, material), record.spec, record.made_at)


def _material(held: Held) -> KeyMaterial:
    if held.material is None:
        raise AssertionError("only versions with material are brought")
    return held.material


# --- taking in


def take_in(run: "Run", claim: Claim, view: plan.View) -> list[VersionRecord]:
    """Publish everything that the claim announced, and say what the key's versions are then."""
    holding, history = _held_by(run), run.past.history()
    names = {named.number: named for named in claim.brings}
    view = _woken(run, view, names)
    placed: dict[int, StoredVersion] = {}
    newest = view.seen.newest
    for held in _brought(holding, history):
        named = names[held.record.number]
        lying = _lying(run, view, held, named)
        active = held.record.state is State.ACTIVE
        if lying is None or (active and (newest is None or newest.version_id != lying.version_id)):
            lying = newest = _publish(run, view, held, named, lying, newest)
        placed[named.number] = lying
    _take_copies_away(run, view, names)
    records = _records(run, holding, history, view, names, placed)
    for record in records:
        if record.state is State.DISABLED and record.number in placed:
            run.last_look(view)
            run.store.disable(run.key, holdings.location(record))
    _check_on_its_way(run)  # right before it is recorded: from then on it is rotated here
    return records


def _held_by(run: "Run") -> Holding:
    if run.given.holding is None:
        raise AssertionError("only a run that holds the versions brings them")
    return run.given.holding


def _woken(run: "Run", view: plan.View, names: Mapping[int, Burnt]) -> plan.View:
    """What was seen, once disabled versions that nothing names were read: an earlier try may have brought them.

    Where versions carry no marks, only their material says which one each is.
    """
    asleep = [v for v in view.seen.versions if not (run.store.marked or v.enabled or v.number or v.destroyed)]
    if not asleep:
        return view
    for version in asleep:
        run.last_look(view)
        run.store.enable(run.key, version)
    seen = run.recognised(run.store.observe(run.key), run.past.history())
    ids = {version.version_id for version in asleep}
    for version in seen.versions:
        if version.version_id in ids and version.number not in names:
            run.store.disable(run.key, version)
    return replace(view, seen=seen)


def _lying(run: "Run", view: plan.View, held: Held, named: Burnt) -> StoredVersion | None:
    """The version, where it lies here already: brought by an earlier try, or the key comes back. Read, if it can be.

    One that was disabled when the key went away, and is not where it comes from, is enabled again.
    """
    found = next((v for v in view.seen.versions if v.holds(named.number, named.fingerprint)), None)
    if found is None or (not found.enabled and held.record.state is State.DISABLED):
        return found
    if not found.enabled:
        run.last_look(view)
        run.store.enable(run.key, found)
    verify(run.key, named.spec, named.fingerprint, run.store.read(run.key, found), run.fingerprints)
    return replace(found, enabled=True)


def _publish(
    run: "Run", view: plan.View, held: Held, named: Burnt, lying: StoredVersion | None, newest: StoredVersion | None
) -> StoredVersion:
    run.last_look(view)
    staged = lying or _stage(run, view, held, named)
    material = run.store.read(run.key, staged)
    try:
        verify(run.key, named.spec, named.fingerprint, material, run.fingerprints)
    except IntegrityError:
        if lying is None:
            run.store.discard(run.key, staged)
        raise
    run.last_look(view)
    published = run.store.promote(run.key, staged, newest, material)
    if not run.store.fenced and lying is None:
        run.store.discard(run.key, staged)  # a copy; what readers get was written beside it
    return published


def _stage(run: "Run", view: plan.View, held: Held, named: Burnt) -> StoredVersion:
    spec = KeySpec.parse(named.spec)
    prepared = run.store.prepare(run.key, named.number, spec, _material(held))
    rotation_id = plan.rotation_id(run.key, view.state.incarnation, named.number)
    return run.store.stage(run.key, NewVersion(named.number, rotation_id, named.fingerprint, spec.name), prepared)


def _take_copies_away(run: "Run", view: plan.View, names: Mapping[int, Burnt]) -> None:
    """What a run that died has left staged. Where a version is moved when it is published, it is no copy."""
    if run.store.fenced:
        return
    for copy in view.seen.staged:
        if copy.number in names:
            run.store.discard(run.key, copy)


def _records(
    run: "Run",
    holding: Holding,
    history: History,
    view: plan.View,
    names: Mapping[int, Burnt],
    placed: Mapping[int, StoredVersion],
) -> list[VersionRecord]:
    """Every version there now is: what was brought, what came along without material, and what is missing now."""
    now, back = run.tools.clock(), bool(view.state.moved)
    brought = {held.record.number: held.record for held in holding.versions}
    records = []
    for number, record in sorted(brought.items()):
        own = history.versions.get(number)
        merged = _merged(record, own, back=back)
        if merged == own and own.state is State.DESTROYED:
            continue  # nothing is said again of its place, where something else may lie by now
        if number in placed:
            merged = replace(merged, version_id=placed[number].version_id, fingerprint=names[number].fingerprint)
        elif merged.state is State.DISABLED:
            merged = replace(merged, state=State.DESTROYED, lost=True, destroy_at=None)  # it stays where it was
        records.append(merged)
    lying = {version.number for version in view.seen.versions}
    for number, own in sorted(history.versions.items()):
        if number not in brought and own.state is not State.DESTROYED:
            records.append(_left_behind(own, now, there=number in lying))
    return records


def _merged(record: VersionRecord, own: VersionRecord | None, *, back: bool) -> VersionRecord:
    """What is brought, and what is known here: a key that comes back has changed elsewhere, a backup may be older."""
    if own is None:
        return record
    if own.state is State.DESTROYED and not own.lost:
        return own
    record = replace(record, compromised=record.compromised or own.compromised)
    if back or own.lost:
        return record
    if record.state is State.ACTIVE:
        return record
    disabled = own.state is State.DISABLED and record.state is State.DECRYPT_ONLY
    state = State.DISABLED if disabled else record.state
    return replace(record, state=state, destroy_at=record.destroy_at or own.destroy_at)


def _left_behind(own: VersionRecord, now: datetime, *, there: bool) -> VersionRecord:
    """A version that only this manifest knows: newer than the backup, as a rule, and lost with the store."""
    ended = own.deactivated_at or now
    if there and own.state is State.ACTIVE:
        return replace(own, state=State.DECRYPT_ONLY, deactivated_at=ended)
    return own if there else replace(own, state=State.DESTROYED, lost=True, deactivated_at=ended)


# --- going elsewhere


def carry_out(run: "Run", _: Claim, view: plan.View) -> list[VersionRecord]:
    """Let every version be read by whoever brings them to the other store. No version here changes."""
    if run.given.carry is None:
        raise AssertionError("only a run that knows the way takes a key elsewhere")
    history = run.past.history()

    def read() -> Holding:
        held = [_taken(run, view, record) for record in holdings.records(history)]
        return holdings.holding_of(run.journal, run.key, run.head, held)

    since = max(entry.sequence for entry in history.entries if entry.event in STARTED)
    run.arrived = run.given.carry(read, since)
    return []


def _taken(run: "Run", view: plan.View, record: VersionRecord) -> Held:
    if record.state in holdings.READABLE:
        return Held(record, holdings.read(run.store, run.fingerprints, run.key, record))
    if record.state is not State.DISABLED:
        return Held(record)
    run.last_look(view)
    run.store.enable(run.key, holdings.location(record))  # for the moment of reading; the claim says why
    try:
        return Held(record, holdings.read(run.store, run.fingerprints, run.key, record))
    except (NotFoundError, RefusedError) as problem:  # not left behind for a read that came too early
        raise RefusedError(
            f"version {record.number} of {run.key} is disabled, and was not given out once it was enabled: "
            f"{problem.message}",
            f"try again; if it is gone, `adopt {run.key}` takes note of that",
        ) from None
    finally:
        run.store.disable(run.key, holdings.location(record))
