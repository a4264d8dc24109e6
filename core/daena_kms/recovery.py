"""Many keys at once, out of a store and into another: restore, migrate, and comparing what two places hold.

Each key is a run of its own under its own claim, like a rotation; one bad key never stops the others.
"""

import uuid
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from . import holdings, many
from .audit import KeyAudit
from .errors import (
    ConfigurationError,
    ConflictError,
    KmsError,
    NotFoundError,
    RefusedError,
)
from .fleet import Progress, Report
from .holdings import Held, Holding, StaysError
from .keyring import Fingerprints
from .manifest import EMPTY, Head, History
from .model import Link, Operation, Outcome, State, Status, VersionRecord
from .plan import Work
from .rotation import Given, Run
from .service import Service

# --- restore


def restore(
    target: Service,
    held: Sequence[Holding],
    *,
    reason: str = "",
    dry_run: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Bring keys into a store, with their numbers and states. What is there already is left as it is, and refused.

    A key that an earlier try left half done is brought to its end.
    """
    by_key = {holding.key: holding for holding in held}

    def one(key: str) -> Outcome:
        return _rehearsed(target, by_key[key]) if dry_run else _bring(target, by_key[key], reason)

    return _each(target, sorted(by_key), one, progress)


def _bring(target: Service, holding: Holding, reason: str) -> Outcome:
    there = _there_already(target, holding)
    return _noted(target, holding, there or _restoring(target, Given(holding=holding), holding, reason).execute())


def _restoring(target: Service, given: Given, holding: Holding, reason: str) -> Run:
    target.check_name(holding.key)
    work = Work(
        holding.key,
        uuid.uuid4().hex,
        Operation.RESTORE,
        number=holding.highest,
        forced=True,
        fingerprint=holdings.digest(target.keyring.fingerprints, holding),
        reason=reason,
    )
    return Run(target.tools, work, target.policy.keys.get(holding.key), given=given)


def _rehearsed(target: Service, holding: Holding) -> Outcome:
    if there := _there_already(target, holding):
        return there
    _restoring(target, Given(holding=holding), holding, "").rehearse()
    numbers = ", ".join(str(each.record.number) for each in holding.versions if each.material is not None)
    return Outcome(holding.key, Status.DUE, f"would bring versions {numbers}")


def _there_already(target: Service, holding: Holding) -> Outcome | None:
    """An outcome if everything that would be brought is there to stay, with the same material."""
    head, history = _all_of(target, holding.key)
    active, claim = head.state.active, head.state.claim
    on_its_way = claim is not None and claim.operation.carries
    if active is None or head.state.moved or on_its_way:
        return None
    if any(_difference(target, holding.key, each, history) for each in holding.versions):
        return None
    if not all(_given_out(target, holding.key, history.versions[each.record.number]) for each in holding.versions):
        return None
    if target.tools.store.observe(holding.key).newest is None:
        return None
    return Outcome(holding.key, Status.DONE, "all of it is there already", number=active.number)


def _given_out(target: Service, key: str, record: VersionRecord) -> bool:
    """False for a version that its store has lost, whatever the manifest says."""
    if record.state not in holdings.READABLE:
        return True
    return holdings.can_be_read(target.tools.store, target.keyring.fingerprints, key, record)


def _all_of(service: Service, key: str) -> tuple[Head, History]:
    """A key's whole manifest: where it stands, and what it says."""
    heads = list(service.journal.chain(key))
    return (heads or [EMPTY])[-1], History(head.entry for head in heads if head.entry)


def _difference(service: Service, key: str, held: Held, history: History) -> str:
    """What a manifest says otherwise about a version that is held elsewhere; empty if it says the same.

    What was destroyed there on purpose is the same version all the same: its record still names its material.
    """
    number, known = held.record.number, history.versions.get(held.record.number)
    if held.material is None:
        return ""
    if known is None:
        return f"version {number} is missing"
    if known.lost:
        return f"version {number} is lost"
    same = service.keyring.fingerprints.fits(key, held.material, known.fingerprint)
    return "" if same else f"version {number} is other material"


def _noted(target: Service, holding: Holding, outcome: Outcome) -> Outcome:
    notes = list(outcome.notes)
    if holding.left_out:
        numbers = ", ".join(map(str, holding.left_out))
        notes.append(f"disabled where it comes from, and so not brought: version {numbers}")
    if holding.key not in target.policy.keys and outcome.status is Status.DONE:
        notes.append("no policy names it here: it is not rotated")
    return replace(outcome, notes=tuple(notes))


# --- migrate


def migrate(
    source: Service,
    target: Service,
    keys: Sequence[str] = (),
    *,
    copy: bool = False,
    reason: str = "",
    dry_run: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Take keys to another store. Material at the source stays; its manifest ends with `moved-to` (`copy`: it goes on).

    What an earlier try left half done is brought to its end. Raises ConfigurationError for two stores of one ledger,
    NotFoundError for a key that the source does not have.
    """
    if _place(source) == _place(target):
        raise ConfigurationError(
            f"both have their manifests at {target.journal.ledger.address}", "a key moves to another store and ledger"
        )
    known = source.known()
    if missing := [key for key in keys if key not in known]:
        raise NotFoundError(f"there is no key {missing[0]!r}", "see `status` for the keys there are")
    target.fleet.listed()  # what cannot be reached is found before any key is claimed

    def one(key: str) -> Outcome:
        if dry_run:
            return _rehearsed(target, holdings.at_rest(source.tools.store, source.journal, key))
        return _copy(source, target, key, reason) if copy else _move(source, target, key, reason)

    return _each(target, sorted(keys or known), one, progress)


def _copy(source: Service, target: Service, key: str, reason: str) -> Outcome:
    holding = holdings.at_rest(source.tools.store, source.journal, key)
    outcome = _noted(target, holding, _bring(target, holding, reason))
    warning = "it goes on where it was, too: from its next rotation on the two differ"
    return replace(outcome, notes=(*outcome.notes, warning))


def _move(source: Service, target: Service, key: str, reason: str) -> Outcome:
    if source.state(key).moved:
        _, history = _all_of(source, key)
        gone = [entry.destination for entry in history.entries if entry.destination is not None][-1]
        if (gone.ledger, gone.public_key) == _place(target):
            return Outcome(key, Status.DONE, "moved there before")
        raise RefusedError(f"{key} has moved to {gone.ledger}", "migrate it from there")
    arrived: list[Outcome] = []
    run = uuid.uuid4().hex

    def still() -> None:
        claim = source.journal.head(key).state.claim
        if claim is None or claim.run != run:
            raise RefusedError(f"the migration of {key} was called off, or went on without this run", "see `status`")

    def carry(read: Callable[[], Holding], since: int) -> Link:
        came = _Coming(target, key, _place(source), since)
        arrived.append(_carried(came, read, still, reason))
        return holdings.link(target.journal, came.head() or _all_of(target, key)[0])

    address, public_key = _place(target)
    work = Work(key, run, Operation.MIGRATE, destination=address, destination_key=public_key, reason=reason)
    left = Run(source.tools, work, source.policy.keys.get(key), given=Given(carry=carry)).execute()
    if left.status is not Status.DONE or not arrived:
        return left
    if not source.state(key).moved:
        return Outcome(
            key,
            Status.FAILED,
            f"it has arrived at {address}, but the migration was called off here: both would rotate it",
            hint="`migrate` it again, so that it is rotated there only",
        )
    recorded = f"where it was: recorded in {left.recorded}"
    return replace(arrived[-1], notes=(*arrived[-1].notes, *left.notes, recorded))


class _Coming(Struct, frozen=True):
    """A key on its way to a store, claimed where it comes from (`origin`: ledger and public key) by entry `since`."""

    target: Service
    key: str
    origin: tuple[str, str]
    since: int

    def head(self) -> Head | None:
        """The entry at the target in which it has come there under that claim."""
        for head in self.target.journal.chain(self.key):
            origin = head.entry.origin if head.entry is not None else None
            if (
                origin is not None
                and (origin.ledger, origin.public_key) == self.origin
                and origin.sequence >= self.since
            ):
                return head
        return None


def _carried(came: _Coming, read: Callable[[], Holding], still: Callable[[], None], reason: str) -> Outcome:
    """Bring a key that its source has claimed. Raises StaysError if nothing of it came there.

    What has arrived under that claim has arrived, whatever was done to it since: the source must not go on with it.
    """
    target = came.target
    if (head := came.head()) is not None and head.entry is not None:
        return Outcome(came.key, Status.DONE, "arrived there before", number=head.entry.number)
    try:
        holding = read()
    except RefusedError as problem:
        raise StaysError(problem.message, problem.hint) from None
    if there := _there_already(target, holding):
        return _noted(target, holding, there)
    try:
        outcome = _restoring(target, Given(holding=holding, still=still), holding, reason).execute()
    except KmsError as problem:
        # What has come of it is what is recorded there, whatever the run that failed has seen of that.
        if (head := came.head()) is not None and head.entry is not None:
            return Outcome(came.key, Status.DONE, "arrived there", number=head.entry.number, notes=(problem.line,))
        if _all_of(target, came.key)[0].state.coming:
            raise  # some of it lies there
        raise StaysError(problem.message, problem.hint) from None
    if outcome.status is not Status.DONE:
        raise StaysError(f"{outcome.message}, at {target.journal.ledger.address}", outcome.hint)
    return _noted(target, holding, outcome)


def _place(service: Service) -> tuple[str, str]:
    """What tells one ledger from another: every local one has the same address."""
    return service.journal.ledger.address, service.keyring.trust.public_key


def cancel(source: Service, target: Service, keys: Sequence[str], reason: str = "") -> Report:
    """Let keys stay that a migration has left half done; one that has arrived at the target is refused."""
    return _each(source, sorted(keys), lambda key: _stays(source, target, key, reason), lambda _: None)


def _stays(source: Service, target: Service, key: str, reason: str) -> Outcome:
    address, claim = target.journal.ledger.address, source.state(key).claim
    if claim is not None and claim.destination and (claim.destination, claim.destination_key) != _place(target):
        raise RefusedError(
            f"{key} was on its way to {claim.destination}, not to the manifests at {address} that are set here",
            "name the store that it was to go to, with --to or in the environment",
        )
    if _arrived(target, key):
        raise RefusedError(f"{key} has arrived at {address}", "`migrate` it again: that ends it here")
    source.stay(key, reason, claim)
    half_done = target.hold_up(key, reason)
    if _arrived(target, key):
        raise ConflictError(
            f"{key} has arrived at {address} meanwhile, and stays here, too: both would rotate it",
            "`migrate` it again: that ends it here",
        )
    notes = (f"part of it lies at {address}, where it is not rotated: delete it there",) if half_done else ()
    return Outcome(key, Status.DONE, "it stays: the migration was called off", notes=notes)


def _arrived(target: Service, key: str) -> bool:
    state = _all_of(target, key)[0].state
    return state.active is not None and not state.moved and not state.coming


# --- compare


def compare(service: Service, held: Sequence[Holding], place: str) -> list[KeyAudit]:
    """Hold a store's versions against what a backup or another store (`place`) holds, both ways."""
    by_key = {holding.key: holding for holding in held}
    return [_compared(service, key, by_key.get(key), place) for key in sorted({*by_key, *service.known()})]


def all_of(service: Service) -> tuple[list[Holding], list[KeyAudit]]:
    """Everything that a store holds, to compare with; and why a key cannot be read, where one cannot."""
    found, unread = [], []
    for key in sorted(service.known()):
        try:
            found.append(holdings.at_rest(service.tools.store, service.journal, key))
        except KmsError as problem:
            unread.append(KeyAudit(key, 0, (problem.line,)))
    return found, unread


def merged(audits: Sequence[KeyAudit]) -> list[KeyAudit]:
    """One audit for each key, with everything that was found about it."""
    by_key: dict[str, KeyAudit] = {}
    for each in audits:
        first = by_key.setdefault(each.key, each)
        if first is not each:
            problems, warnings = (*first.problems, *each.problems), (*first.warnings, *each.warnings)
            by_key[each.key] = replace(first, problems=problems, warnings=warnings)
    return list(by_key.values())


def drill(service: Service, held: Sequence[Holding], fingerprints: Fingerprints) -> list[KeyAudit]:
    """Prove a backup: restore it into a throw-away store, and hold what is read back against its own fingerprints."""
    outcomes = {outcome.key: outcome for outcome in restore(service, held).outcomes}
    return [_drilled(service, each, outcomes[each.key], fingerprints) for each in held]


def _drilled(service: Service, holding: Holding, outcome: Outcome, fingerprints: Fingerprints) -> KeyAudit:
    warnings = [f"version {number} is disabled, and its material not in the backup" for number in holding.left_out]
    if outcome.status is not Status.DONE:
        return KeyAudit(holding.key, 0, (outcome.message,), tuple(warnings))
    _, history = _all_of(service, holding.key)
    problems = []
    for each in holding.versions:
        restored = history.versions[each.record.number]
        if restored.state is not each.record.state and each.material is not None:
            problems.append(f"version {restored.number} came back as {restored.state}, it is {each.record.state}")
        if restored.state in holdings.READABLE:
            problems += _unlike(service, holding.key, restored, each.record.fingerprint, fingerprints)
    return KeyAudit(holding.key, len(history.entries), tuple(problems), tuple(warnings))


def _unlike(
    service: Service, key: str, restored: VersionRecord, fingerprint: str, fingerprints: Fingerprints
) -> list[str]:
    try:
        material = holdings.read(service.tools.store, service.keyring.fingerprints, key, restored)
        fingerprints.check(key, material, fingerprint)
    except KmsError as problem:
        return [f"version {restored.number} is not what it was: {problem.message}"]
    return []


def _compared(service: Service, key: str, holding: Holding | None, place: str) -> KeyAudit:
    _, history = _all_of(service, key)
    count, ours = len(history.entries), history.versions
    if holding is None:
        return KeyAudit(key, count, warnings=(f"it is not in {place}",))
    if not count:
        return KeyAudit(key, 0, (f"it is in {place}, but not here",))
    theirs = {each.record.number: each for each in holding.versions}
    found = [_difference(service, key, each, history) for each in theirs.values()]
    problems = [f"{difference} here, but it is in {place}" for difference in found if difference]
    problems += [f"version {n} is here, but not in {place}" for n in ours if n not in theirs and n <= holding.highest]
    warnings = [f"version {n} is newer than {place}" for n in ours if n > holding.highest]
    warnings += [
        f"version {n} is destroyed here, but its material is in {place}"
        for n, each in theirs.items()
        if each.material is not None and n in ours and ours[n].state is State.DESTROYED and not ours[n].lost
    ]
    return KeyAudit(key, count, tuple(problems), tuple(warnings))


# --- many


def _each(service: Service, keys: Sequence[str], one: Callable[[str], Outcome], progress: Progress) -> Report:
    """Do the same for every key on a bounded pool."""
    started = service.tools.clock()

    def attempt(key: str) -> Outcome:
        try:
            outcome = one(key)
        except Exception as problem:  # noqa: BLE001  # one bad key never stops the others
            outcome = many.failed(key, problem)
        progress(outcome)
        return outcome

    outcomes = many.each(keys, attempt, service.fleet.limits.concurrency)
    return Report(started, service.tools.clock(), service.tools.policy_digest, tuple(outcomes))
