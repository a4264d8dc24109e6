"""The rotation protocol as one pure function: what the manifest says and what the store shows -> the one next step.

Resuming after a crash is the same code as a first run: nothing is remembered but what this run holds in memory
(`Work`). The rules, and why each is needed, are explored exhaustively in `tests/model`: two runs that may stop or
sleep anywhere, on stores with and without compare-and-set.

- Claim before you act; the claim is a conditional append, and names the one material its number may ever have.
- A take-over that finds the claimed material goes on with it; one that does not burns the number.
- Nothing is promoted that this run has not read back and verified.
- What ends a rotation also names every claimed version that lies in the store and that no entry knows.
- At rest, what readers get is compared with the manifest, and mended where a late writer got in between.
- Whatever no claim names is drift: reported, never touched.
"""

import uuid
from collections.abc import Container, Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from .model import Burnt, Claim, KeyState, Observed, Operation, Status, StoredVersion, VersionRecord

_FROM_NOTHING = (Operation.CREATE, Operation.RESTORE)  # what begins where the store has no such key
_NOT_WHERE_IT_WAS = (*(o for o in Operation if o.makes_version), Operation.MIGRATE)
NEVER = datetime.min.replace(tzinfo=UTC)  # as a cutoff: no version is that old, so age alone does not rotate
FAILURES_BEFORE_A_PERSON = 3
FIRST_BACK_OFF = timedelta(hours=1)
_ROTATIONS = uuid.UUID("6f0f3ad1-54f4-5f5f-9f49-6c8b6d9d2a10")

DRIFT_HINT = "find out who wrote it; `daena-key-rotate adopt KEY` takes it in as it is, nothing is touched without"
NUMBER_TAKEN_HINT = "it was not touched; the next run takes the next number, and `verify` names the version"
HALF_DONE_HINT = {
    Operation.RESTORE: "run that `restore` or `migrate` again: it goes on where it stopped; "
    "or `adopt KEY` takes in what lies there",
    Operation.MIGRATE: "run that `migrate` again: it goes on where it stopped; "
    "or `migrate --cancel KEY`, and it stays here",
}
MISSING_HINT = (
    "check provider, region and project, and whether somebody deleted it; `create KEY --anew` starts it again"
)


class Work(Struct, frozen=True):
    """What a run wants of one key, and what it holds in memory."""

    key: str
    run: str
    operation: Operation
    number: int = 0
    """The version that is changed, or rolled back to; 0 where the operation makes its own."""
    cutoff: datetime | None = None
    """ROTATE: only if the active version is active since this time or longer; None = in any case."""
    forced: bool = False
    anew: bool = False
    """CREATE: also if the manifest knows the key already and the store has lost it."""
    onto: bool = False
    """IMPORT: as the next version of a key that is there."""
    created: datetime | None = None
    """IMPORT, ADOPT: since when the material is in use."""
    fingerprint: str = ""
    """IMPORT, RESTORE: names the material that is brought, or all of it."""
    destination: str = ""
    """MIGRATE: address of the ledger where the key goes."""
    destination_key: str = ""
    """MIGRATE: that ledger's first public key."""
    request: str = ""
    reason: str = ""
    claimed: bool = False
    """This run has made its own claim: it makes no second one for the same work."""
    holding: str = ""
    """Fingerprint of the material in this run's memory."""
    verified: str = ""
    """Fingerprint of what this run has read back and verified."""
    rejected: str = ""
    """Fingerprint of what this run has read back and found bad."""
    rejected_why: str = ""
    unfit: frozenset[str] = frozenset()
    """Ids of versions that looked as if a claim had named them, and that this run has read: they are something else."""


class View(Struct, frozen=True):
    """The manifest's state and the store's, as this run saw them, perhaps out of date."""

    state: KeyState
    seen: Observed
    settled: bool = False
    """The manifest did not change while the store was looked at: what does not fit is really so."""
    known: Mapping[int, str] | None = None
    """Number -> fingerprint of every version that was ever active; read only when something does not fit."""
    requests: frozenset[str] | None = None
    """Every request id that is in the manifest; read only for work that carries one."""


class Claiming(Struct, frozen=True):
    """Append a claim. `burning` is the claim whose number is given up by it."""

    operation: Operation
    number: int
    planned: int
    source: int = 0
    request: str = ""
    reason: str = ""
    burning: Claim | None = None


class TakeOver(Struct, frozen=True):
    """Append `…-resumed`: the same claim, held by this run."""


class Stage(Struct, frozen=True):
    """Lay down the material in memory under the claimed number."""


class Verify(Struct, frozen=True):
    """Read a version back and prove that it is what was claimed and that it encrypts and decrypts."""

    version: StoredVersion


class Keep(Struct, frozen=True):
    """Give versions that the manifest knows the mark back that keeps them: promoting may take their last one."""

    versions: tuple[StoredVersion, ...]


class Promote(Struct, frozen=True):
    """Make a version what readers get, if they get `planned` now."""

    version: StoredVersion
    planned: StoredVersion | None


class Finish(Struct, frozen=True):
    """Append what ends the claim, naming the strays."""

    version: StoredVersion
    strays: tuple[StoredVersion, ...]


class Apply(Struct, frozen=True):
    """Carry out the claimed change of a version, and append that it is done."""


class Discard(Struct, frozen=True):
    """Take away what failed its check, and append that; the number is burnt."""

    reason: str
    version: StoredVersion | None = None
    hint: str = "the version that was active before still is"
    waits: bool = True
    """Not tried again at once: it may fail again. What nobody can go on with stands in no other rotation's way."""


class Adopt(Struct, frozen=True):
    """Append that versions which a late writer published are known. `active`: readers get this one, and may keep it."""

    strays: tuple[StoredVersion, ...]
    active: StoredVersion | None = None


class Republish(Struct, frozen=True):
    """Publish the active version again: an older one is on top."""

    version: StoredVersion


class Tidy(Struct, frozen=True):
    """Take away staged copies that nobody needs."""

    copies: tuple[StoredVersion, ...]


class Look(Struct, frozen=True):
    """Look again, and make sure that the manifest stands still meanwhile."""


class Refuse(Struct, frozen=True):
    """Stop: something is there that nobody claimed, or is missing."""

    message: str
    hint: str


class Done(Struct, frozen=True):
    """Nothing is left to do for this run."""

    status: Status
    message: str
    retry_at: datetime | None = None
    hint: str = ""


Step = (
    Claiming | TakeOver | Stage | Verify | Keep | Promote | Finish | Apply | Discard | Adopt | Republish | Tidy | Look
    | Refuse | Done
)  # fmt: skip


def rotation_id(key: str, incarnation: int, number: int) -> str:
    """The id of the work of making that version: the same whoever starts it, however often (UUIDv5)."""
    return str(uuid.uuid5(_ROTATIONS, f"{key}\0{incarnation}\0{number}"))


def back_off(failures: int) -> timedelta:
    """How long to wait after that many failed checks in a row."""
    return FIRST_BACK_OFF * (1 << (failures - 1))


def same_work(work: Work, claim: Claim) -> bool:
    """True if an open claim is for what this run wants: bringing it to its end is enough."""
    subject = claim.source if claim.operation.makes_version else claim.number
    wanted = (work.operation, work.number, work.request or claim.request, work.fingerprint or claim.fingerprint)
    same = wanted == (claim.operation, subject, claim.request, claim.fingerprint)
    goes = (work.destination, work.destination_key)
    return same and goes == (claim.destination, claim.destination_key)


def next_step(work: Work, view: View, now: datetime, *, fenced: bool, call_timeout: timedelta = timedelta(0)) -> Step:
    """The one next step of a run that wants `work` and has seen `view`.

    `fenced`: promote is a compare-and-set. `call_timeout`: the longest that one call may take; a run whose own claim
    does not outlast it (the machine slept, say) claims again before it goes on.
    """
    problem = None if work.operation is Operation.ADOPT else _unexplained(work, view, fenced=fenced)
    if problem is not None:
        return problem if view.settled else Look()
    claim = view.state.claim
    if claim is None:
        return _at_rest(work, view, now, fenced=fenced)
    if claim.run == work.run and now + call_timeout < claim.lease_until:
        return _own_claim(work, view, claim, fenced=fenced)
    if claim.run != work.run and now < claim.lease_until:
        if not view.settled:
            return Look()  # it may have ended since
        held = f"{claim.work} is in progress in another run"
        return Done(Status.IN_PROGRESS, held, claim.lease_until, "if that run has died, its claim ends by itself")
    return _expired_claim(work, view, claim)


def _unexplained(work: Work, view: View, *, fenced: bool) -> Refuse | None:
    """What readers get, or do not get, that the manifest cannot account for."""
    state, newest = view.state, view.seen.newest
    if newest is None:
        starting = work.anew or any(o in _FROM_NOTHING for o in (work.operation, state.claim and state.claim.operation))
        if state.active is None or starting:
            return None
        return Refuse(
            f"the manifest says that version {state.active.number} is active, but the store has no such key",
            MISSING_HINT,
        )
    if state.highest == 0:
        return Refuse(
            "the store has this key, but there is no manifest of it", "`daena-key-rotate adopt KEY` makes one"
        )
    if _claimed(state, newest) or (not fenced and _known(view, newest)):
        return None
    if newest.destroyed and not fenced:
        return None  # nobody is given it, and it never comes back: the active one is published again
    return Refuse(f"readers get version {newest.number or newest.version_id}, which no claim names", DRIFT_HINT)


def _claimed(state: KeyState, version: StoredVersion) -> bool:
    brought = state.claim.brings if state.claim is not None else ()
    named: list[VersionRecord | Claim | Burnt | None] = [state.active, state.claim, *state.burnt, *brought]
    return any(name is not None and _is(version, name) for name in named)


def _is(version: StoredVersion, name: VersionRecord | Claim | Burnt) -> bool:
    """True if a stored version is the named one, as far as the store shows it unread."""
    if isinstance(name, VersionRecord):
        return version.is_recorded(name)
    if not version.holds(name.number, name.fingerprint):
        return False
    if isinstance(name, Burnt):
        return bool(version.fingerprint or version.rotation_id)  # a number alone may be anybody's
    return bool(version.fingerprint) or version.rotation_id == name.rotation_id


def _known(view: View, version: StoredVersion) -> bool:
    if view.known is None or version.number not in view.known:
        return False
    return version.holds(version.number, view.known[version.number])


def strays(state: KeyState, seen: Observed, unfit: Container[str] = ()) -> tuple[StoredVersion, ...]:
    """Claimed versions that lie published in the store and that no entry knows: their numbers were burnt."""
    found = (next((v for v in seen.versions if _is(v, burnt)), None) for burnt in state.burnt)
    return tuple(version for version in found if version is not None and version.version_id not in unfit)


def _at_rest(work: Work, view: View, now: datetime, *, fenced: bool) -> Step:
    state, seen = view.state, view.seen
    if work.operation is not Operation.ADOPT:
        mending = _mend(work, state, seen, fenced=fenced)
        if mending is not None:
            return mending
    if seen.staged:
        return Tidy(seen.staged) if view.settled else Look()
    if work.claimed:
        return Done(Status.DONE, "done")
    return _wanted(work, view, now)


def _mend(work: Work, state: KeyState, seen: Observed, *, fenced: bool) -> Step | None:
    """What a late writer left: name every claimed version it published, and see that readers get the active one.

    Strays are named also where they lie under the active version: whoever ended the rotation may have looked before.
    """
    newest, active = seen.newest, state.active
    if newest is None:
        return None
    if active is None or (fenced and newest.number != active.number):
        return _go_forward(work, state, newest, strays(state, seen, work.unfit))
    if found := strays(state, seen, work.unfit):
        return Adopt(found)
    if newest.holds(active.number, active.fingerprint):
        return None
    published = seen.published(active.number, active.fingerprint)
    if published is None:
        return Refuse(f"version {active.number} is active, but is not in the store", MISSING_HINT)
    return Republish(published)


def _go_forward(work: Work, state: KeyState, newest: StoredVersion, found: tuple[StoredVersion, ...]) -> Step:
    """A burnt number is what readers get, and there is no way back from it: it stays, once this run has verified it.

    With compare-and-set its late promotion was the last to win; and a key being created has nothing to go back to.
    """
    fingerprint = _fingerprint(state, newest)
    if work.rejected == fingerprint:
        return Refuse(f"readers get version {newest.number}, which fails its check: {work.rejected_why}", DRIFT_HINT)
    if work.verified != fingerprint:
        return Verify(newest)
    return Adopt(tuple(v for v in found if v.number != newest.number), newest)


def _fingerprint(state: KeyState, version: StoredVersion) -> str:
    return next(b.fingerprint for b in state.burnt if b.number == version.number)


def _wanted(work: Work, view: View, now: datetime) -> Step:
    state, seen = view.state, view.seen
    if work.request and view.requests is None:
        return Look()
    if view.requests is not None and work.request in view.requests:
        return Done(Status.NOT_DUE, f"request {work.request} was carried out before")
    if state.moved and work.operation in _NOT_WHERE_IT_WAS:
        return _moved(work, state)
    if not work.operation.makes_version:
        return Claiming(work.operation, work.number, _number(seen.newest), request=work.request, reason=work.reason)
    if misplaced := _misplaced(work, state):
        return misplaced
    if not work.forced and (reason := _not_now(work, state, now)):
        return reason
    return Claiming(
        work.operation,
        state.highest + 1,
        _number(seen.newest),
        source=work.number,
        request=work.request,
        reason=work.reason,
    )


def _misplaced(work: Work, state: KeyState) -> Step | None:
    """Why the operation makes no sense for a key that is there, or is not."""
    active = state.active
    if work.operation is Operation.CREATE and active is not None and not work.anew:
        return Done(Status.NOT_DUE, f"exists already, version {active.number}")
    if work.operation is Operation.IMPORT and active is not None and not work.onto:
        return Done(Status.FAILED, f"version {active.number} exists already, with other material")
    if active is None and (work.onto or work.operation in (Operation.ROTATE, Operation.ROLLBACK)):
        return Refuse("there is no such key", "`create KEY` makes one, or `create = true` in its policy")
    return None


def _moved(work: Work, state: KeyState) -> Step:
    """The key goes on somewhere else: ticks leave it alone, and a person who wants it changed is told where."""
    where = f"moved to {state.moved}"
    if work.forced:
        return Refuse(where, "change it there; here it only stays readable")
    return Done(Status.MOVED, f"{where}: it is rotated there")


def _not_now(work: Work, state: KeyState, now: datetime) -> Done | None:
    active = state.active
    if active is not None and active.compromised:
        return None  # neither age nor a pause keeps a version active that others know
    if state.paused:
        return Done(Status.PAUSED, "rotation is paused: `resume` ends that")
    if active is not None and work.cutoff is not None and active.active_since > work.cutoff:
        return Done(Status.NOT_DUE, f"version {active.number} is young enough")
    if state.failures >= FAILURES_BEFORE_A_PERSON:
        return Done(
            Status.FAILED,
            f"{state.failures} new versions in a row failed their check: this key waits for a person",
            hint="see `history KEY` for why; `resume KEY` or `rotate KEY --force` tries again",
        )
    if state.retry_at is not None and now < state.retry_at:
        return Done(Status.WAITING, "the last new version failed its check; trying again later", state.retry_at)
    return None


def _own_claim(work: Work, view: View, claim: Claim, *, fenced: bool) -> Step:
    if not claim.operation.makes_version:
        # Whoever says what is lost, or what is there already, needs to know what the manifest knows.
        needs_all = claim.operation is Operation.ADOPT or claim.operation.carries
        return Apply() if view.settled or not needs_all else Look()
    state, seen = view.state, view.seen
    published = next((v for v in seen.versions if _is(v, claim)), None)
    live = published is not None and (not fenced or (seen.newest is not None and seen.newest.number == claim.number))
    # Where promoting moves a version, one that is not live can be promoted, whatever its marks say (a late writer's).
    waiting = (*seen.staged, *seen.versions) if fenced else seen.staged
    staged = next((v for v in waiting if _is(v, claim)), None)
    if work.rejected == claim.fingerprint:
        if live:
            return Refuse(f"version {claim.number} is live, but fails its check: {work.rejected_why}", DRIFT_HINT)
        bad = next((replace(v, staged=True) for v in waiting if _is(v, claim)), None)
        return Discard(work.rejected_why, bad)
    found = published if live else staged
    if found is not None and work.verified != claim.fingerprint:
        return Verify(found)
    if published is not None and live:
        # Copies go before the end is recorded: a run that dies in between leaves a claim open, so none stays behind.
        copies = tuple(v for v in seen.staged if 0 < v.number <= claim.number)
        if copies and fenced and not view.settled:
            return Look()  # what the manifest knows was published: no mark makes a copy of it
        return Tidy(copies) if copies else Finish(published, strays(state, seen, work.unfit))
    if staged is not None:
        loose = tuple(v for v in seen.versions if v.loose and v != staged)
        return Keep(loose) if loose else Promote(staged, seen.newest)
    return _restart(work, view, claim, fenced=fenced)


def _restart(work: Work, view: View, claim: Claim, *, fenced: bool) -> Step:
    """The claimed material is nowhere in the store: lay it down, or give its number up."""
    squatter = next((v for v in view.seen.staged if v.number == claim.number), None)
    if squatter is not None and fenced:
        return Discard("what lies staged under this number is not the claimed material", squatter)
    if fenced and any(v.number == claim.number for v in view.seen.versions):
        # Staging would take the number from it, and with that perhaps the last mark it has.
        return Discard("a version that is none of ours lies under this number", hint=NUMBER_TAKEN_HINT)
    if work.holding == claim.fingerprint:
        return Stage()
    return _burn(view, claim)


def _expired_claim(work: Work, view: View, claim: Claim) -> Step:
    if work.anew and view.seen.newest is None and claim.operation is not Operation.CREATE:
        # Ended, it would make the key that is to be made anew. It is given up by the claim that makes it.
        return _anew(work, view, claim) if view.settled else Look()
    if claim.operation.carries:
        return _half_done(work, view, claim)
    if not claim.operation.makes_version or work.holding == claim.fingerprint:
        return TakeOver()
    lying = (*view.seen.staged, *view.seen.versions)
    if any(_is(version, claim) for version in lying):
        return TakeOver()
    return _burn(view, claim)


def _half_done(work: Work, view: View, claim: Claim) -> Step:
    """Somebody died while a key came from elsewhere, or went there. Only who holds its versions can go on."""
    if not view.settled:
        return Look()
    if same_work(work, claim):
        return TakeOver()
    if claim.operation is Operation.RESTORE and work.operation in (Operation.RESTORE, Operation.ADOPT):
        return Claiming(work.operation, work.number, _number(view.seen.newest), reason=work.reason, burning=claim)
    what = "came from a backup or another store" if claim.operation is Operation.RESTORE else "moved elsewhere"
    hint = HALF_DONE_HINT[claim.operation].replace("KEY", work.key)
    return Done(Status.FAILED, f"the run that died while {work.key} {what} left it half done", claim.lease_until, hint)


def _anew(work: Work, view: View, claim: Claim) -> Claiming:
    number = view.state.highest + 1
    return Claiming(Operation.CREATE, number, 0, request=work.request, reason=work.reason, burning=claim)


def _burn(view: View, claim: Claim) -> Step:
    """A number belongs to one material for ever; it is lost, so the next number gets material of its own."""
    if claim.operation is Operation.IMPORT:
        return Discard("the imported material was lost with the run that brought it: import it again", waits=False)
    return Claiming(
        claim.operation,
        view.state.highest + 1,
        _number(view.seen.newest),
        source=claim.source,
        request=claim.request,
        reason=claim.reason,
        burning=claim,
    )


def _number(version: StoredVersion | None) -> int:
    return version.number if version is not None else 0


def with_staged(view: View, stored: StoredVersion) -> View:
    """The view once `stored` was laid down."""
    others = tuple(v for v in view.seen.staged if v.version_id != stored.version_id)
    return replace(view, seen=replace(view.seen, exists=True, staged=(*others, stored)))


def with_promoted(view: View, stored: StoredVersion) -> View:
    """The view once `stored` is what readers get. Another run may have promoted it, and more, before: see `_mend`."""
    versions = tuple(v for v in view.seen.versions if v.number != stored.number)
    staged = tuple(v for v in view.seen.staged if v.number != stored.number)
    return replace(view, seen=replace(view.seen, newest=stored, versions=(*versions, stored), staged=staged))


def with_kept(view: View, kept: tuple[StoredVersion, ...]) -> View:
    """The view once this run has done for loose versions what can be done."""
    ids = {version.version_id for version in kept}
    versions = tuple(replace(v, loose=False) if v.version_id in ids else v for v in view.seen.versions)
    return replace(view, seen=replace(view.seen, versions=versions))


def without_staged(view: View, gone: tuple[StoredVersion, ...]) -> View:
    """The view once staged copies were taken away."""
    ids = {version.version_id for version in gone}
    staged, versions = (
        tuple(v for v in held if v.version_id not in ids) for held in (view.seen.staged, view.seen.versions)
    )
    return replace(view, seen=replace(view.seen, staged=staged, versions=versions))
