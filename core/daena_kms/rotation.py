"""One run on one key: look, ask the plan for the one next step, take it, and so on until nothing is left to do.

Every side effect is in a method named after its step. None of them decides anything: `plan.next_step` does.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from . import changes, drafts, due, intake, plan
from .errors import ConfigurationError, ConflictError, IntegrityError, KmsError, NotFoundError, RefusedError
from .holdings import Holding, StaysError, location
from .journal import TAMPERED, Journal, Past
from .lifecycle import attention_at, check_rollback
from .manifest import EMPTY, ENDING, Draft, Entry, Event, Head, History
from .material import KeyMaterial
from .model import (
    Anchor,
    Claim,
    KeySpec,
    KeyState,
    Link,
    Observed,
    Operation,
    Outcome,
    State,
    Status,
    StoredVersion,
    VersionRecord,
)
from .plan import View, Work
from .policy import KeyPolicy
from .recognition import recognised
from .stores.base import KeyStore, NewVersion, Prepared
from .verification import VERIFIED, verify

log = logging.getLogger(__name__)

STEP_LIMIT = 60
SETTLE_LIMIT = 10
_ENDED_AS = {Operation.CREATE: Status.CREATED, Operation.ROTATE: Status.ROTATED}


class Tools(Struct, frozen=True):
    """What every run is handed. Nothing here is made by the run itself."""

    store: KeyStore
    journal: Journal
    clock: Callable[[], datetime]
    lease: timedelta
    """How long a claim holds: longer than every call's time-out and the clocks' skew together."""
    call_timeout: timedelta
    policy_digest: str = ""


class Given(Struct, frozen=True):
    """What a run was handed besides its work."""

    material: KeyMaterial | None = None
    """IMPORT: what is brought."""
    holding: Holding | None = None
    """RESTORE: what is brought."""
    still: Callable[[], None] | None = None
    """RESTORE: raises RefusedError once the key is not on its way here any more, where its source has a say in that."""
    carry: Callable[[Callable[[], Holding], int], Link] | None = None
    """MIGRATE: has the key read, under the claim that entry made, and takes it to the other store; returns where its
    history goes on. StaysError, and no other, says that nothing came there."""


class Run:
    """One run on one key."""

    def __init__(
        self,
        tools: Tools,
        work: Work,
        policy: KeyPolicy | None,
        *,
        anchor: Anchor | None = None,
        seen: Observed | None = None,
        past: Past | None = None,
        given: Given | None = None,
    ) -> None:
        """`anchor` and `seen` are what a listing showed of the key: perhaps out of date, good enough to begin with.

        `past` is what an earlier run has read of the same key's manifest.
        """
        self.tools = tools
        self.store = tools.store
        self.journal = tools.journal
        self.fingerprints = tools.journal.keyring.fingerprints
        self.key = work.key
        self.work = work
        self.policy = policy
        self.given = given or Given()
        self.arrived: Link | None = None
        self.past = past or Past(tools.journal, work.key)
        self.head: Head = EMPTY
        self.view: View | None = None
        self.notes: list[str] = []
        self.ended: Entry | None = None
        self._hint = anchor
        self._checked: Anchor | None = None
        # A head that says that it is time to look speaks of what comes after it.
        self._from_inventory = anchor is not None and not due.needs_attention(anchor, tools.clock())
        self._listed = seen if anchor is not None else None
        self._prepared: Prepared | None = None
        self._verified: KeyMaterial | None = None
        self._failure: Outcome | None = None

    def execute(self) -> Outcome:
        """Do all that is to be done, and say how it ended. Raises the children of KmsError; never half-hearted."""
        for _ in range(STEP_LIMIT):
            try:
                view = self.view = self.view or self._look(settle=False)
                step = self._next_step(view)
                if isinstance(step, plan.Done):
                    return self._done(step)
                self.view = self._take(step, view)
            except ConflictError as problem:
                log.info("looking again", extra={"key": self.key, "run": self.work.run, "problem": problem.message})
                self.view, self._from_inventory = None, False
            except Exception:
                self._let_go()
                raise
        raise ConflictError(f"{self.key} kept changing while we looked", "run it again; see `history` for who writes")

    def _let_go(self) -> None:
        """End the lease of what only its holder can go on with: the same work, asked for again, goes on at once."""
        claim = self.head.state.claim
        if claim is None or claim.run != self.work.run or not claim.operation.carries:
            return
        ended = replace(claim, lease_until=self.tools.clock())
        with suppress(KmsError):  # as with a run that dies: the lease ends by itself
            self._append(drafts.about(Event.CHANGE_RESUMED, ended, self.head.state, claim=ended))

    def rehearse(self) -> None:
        """Raise what would keep this run from making its claim, if anything would. Changes nothing."""
        view = self._look(settle=True)
        step = self._next_step(view)
        if isinstance(step, plan.Refuse):
            self._refuse(step, view)
        if isinstance(step, plan.Claiming):
            self._claim_record(step, view)

    def _next_step(self, view: View) -> plan.Step:
        now, timeout = self.tools.clock(), self.tools.call_timeout
        return plan.next_step(self.work, view, now, fenced=self.store.fenced, call_timeout=timeout)

    def _take(self, step: plan.Step, view: View) -> View | None:
        steps: dict[type, Callable[[Any, View], View | None]] = {
            plan.Look: lambda _, __: self._look(settle=True),
            plan.Refuse: self._refuse,
            plan.Claiming: self._claim,
            plan.TakeOver: self._take_over,
            plan.Stage: self._stage,
            plan.Verify: self._verify,
            plan.Keep: self._keep_loose,
            plan.Promote: self._promote,
            plan.Finish: self._finish,
            plan.Apply: self._apply,
            plan.Discard: self._discard,
            plan.Adopt: self._adopt,
            plan.Republish: self._republish,
            plan.Tidy: self._tidy,
        }
        started = self.tools.clock()
        taken = steps[type(step)](step, view)
        self._log(step, started)
        return taken

    def _log(self, step: plan.Step, started: datetime) -> None:
        """One event per step, never a reply or a request."""
        claim = self.head.state.claim
        milliseconds = (self.tools.clock() - started) / timedelta(milliseconds=1)
        event = {"key": self.key, "run": self.work.run, "step": type(step).__name__, "milliseconds": milliseconds}
        if claim is not None:
            event |= {"operation": claim.operation, "number": claim.number, "rotation_id": claim.rotation_id}
        log.info("step", extra=event)

    def _refuse(self, step: plan.Refuse, _: View) -> NoReturn:
        raise IntegrityError(f"{self.key}: {step.message}", step.hint.replace("KEY", self.key))

    # --- looking

    def _look(self, *, settle: bool) -> View:
        """Read the manifest's head, then the store; with `settle`, until the manifest stood still meanwhile."""
        self.head = self._read_head(current=settle or not self._from_inventory)
        seen = self._observe()
        if not settle:
            return View(self.head.state, self.recognised(seen))
        for _ in range(SETTLE_LIMIT):
            before = self.head
            self.head = self._read_head(current=True)
            if self.head == before:
                history = self.past.history()
                known = {number: record.fingerprint for number, record in history.versions.items()}
                seen = self.recognised(seen, history)
                if self.store.fenced:
                    # Before the first claim of a manifest (its forerunner may be lost), anything may have been live.
                    seen = seen.with_published(known if self.head.state.highest else {v.number for v in seen.staged})
                return View(self.head.state, seen, True, known, frozenset(history.requests))
            seen = self._observe()
        raise ConflictError(f"the manifest of {self.key} keeps growing")

    def _read_head(self, *, current: bool) -> Head:
        if self.work.operation is Operation.ADOPT and not self.journal.ledger.sequences(self.key):
            return EMPTY  # what the store says of a manifest that is lost does not stand in the way of a new one
        return self.journal.head(self.key, self._hint, current=current)

    def recognised(self, seen: Observed, history: History | None = None) -> Observed:
        """What was seen, with the number of each version."""
        return recognised(self.store, self.key, seen, self.fingerprints, self.head.state, history)

    def _observe(self, since: Observed | None = None) -> Observed:
        claim = self.head.state.claim
        adopting = Operation.ADOPT in (self.work.operation, claim.operation if claim else None)
        # A listing shows what was published; what an open claim has laid down it need not show.
        listed = self._listed if claim is None else None
        self._listed = None
        seen = listed or self.store.observe(self.key, dated=adopting, since=since)
        self.notes += [note for note in seen.notes if note not in self.notes]
        if seen.ledger not in ("", self.journal.ledger.address):
            raise ConfigurationError(
                f"{self.key} belongs to the manifest at {seen.ledger}, not to {self.journal.ledger.address}",
                "set DAENA_MANIFEST_URL to the key's own; two manifests for one key would lose versions",
            )
        # Where no version was ever active, the manifest is begun anew: the head beside the key is of one that is lost.
        anew = self.work.operation is Operation.ADOPT and self.head.state.active is None
        if seen.anchor not in (None, self._checked) and not anew:
            self._check_anchor(seen.anchor)
            self._checked = seen.anchor
        return seen

    def _check_anchor(self, anchor: Anchor) -> None:
        """The head stored beside the key must lie on this chain."""
        self.journal.check_genuine(self.key, anchor)
        if self.head.entry is not None and anchor.sequence == self.head.entry.sequence:
            if anchor.hash != self.head.hash:
                raise IntegrityError(f"entry {anchor.sequence} of {self.key} was replaced", TAMPERED)
            return
        self.journal.head(self.key, anchor, current=False)
        if self.head.next_sequence <= anchor.sequence:
            raise ConflictError("the manifest went on meanwhile")

    # --- the steps

    def _claim(self, step: plan.Claiming, view: View) -> View:
        try:
            held = self._claim_record(step, view)
        except (NotFoundError, RefusedError) as problem:
            if step.burning is None or not step.operation.makes_version:
                raise
            # Nobody will ever be able to carry that claim out.
            return self._discard(plan.Discard(problem.message, hint=problem.hint), view)
        event = Event.ROTATION_STARTED if step.operation.makes_version else Event.CHANGE_STARTED
        if view.state.policy not in ("", self.tools.policy_digest):
            self.notes.append(f"the policy changed since the last claim ({view.state.policy[:12]})")
        self._foretell(held)
        self._append(drafts.about(event, held, view.state, claim=held))
        own = self.work.claimed or step.burning is None or plan.same_work(self.work, step.burning)
        own = own or not step.operation.makes_version or (self.work.anew and step.operation is Operation.CREATE)
        self.work = replace(self.work, holding=held.fingerprint, claimed=own)
        claimed = self._with_head(view)
        self._begin_anew(held, claimed)
        return claimed

    def _foretell(self, held: Claim) -> None:
        """Before a claim of what no age would bring a tick to: one comes all the same, if this run dies after it."""
        if held.operation is not Operation.ADOPT and (self.work.forced or not held.operation.makes_version):
            self._write_anchor(held.lease_until)

    def _begin_anew(self, held: Claim, view: View) -> None:
        """What lies beside a key that is adopted may be the head of a manifest that is lost, and belie the new one."""
        if held.operation is not Operation.ADOPT:
            return
        self.last_look(view)
        self.store.write_anchor(self.key, self.journal.anchor(self.key, self.head, attention_at=held.lease_until))

    def _claim_record(self, step: plan.Claiming, view: View) -> Claim:
        now = self.tools.clock()
        claim = Claim(
            operation=step.operation,
            number=step.number,
            run=self.work.run,
            lease_until=now + self.tools.lease,
            policy=self.tools.policy_digest,
            planned=step.planned,
            request=step.request,
            source=step.source,
            reason=step.reason,
        )
        if step.operation is Operation.ADOPT:
            history = self.past.history()
            changes.adoptable(self, history, self.recognised(view.seen, history))
        if step.operation is Operation.RESTORE:
            return self._restore_claim(claim, view)
        if step.operation is Operation.MIGRATE:
            return replace(claim, destination=self.work.destination, destination_key=self.work.destination_key)
        if not step.operation.makes_version:
            changes.check_wanted(self, step.operation, step.number)
            return replace(claim, made_at=self.work.created)
        given, made_at = self._given_material(step, now)
        spec = KeySpec.of_length(len(given)) if given is not None else self._policy().spec
        self._prepared = self.store.prepare(self.key, step.number, spec, given)
        anew = step.operation is Operation.CREATE and view.state.active is not None
        return replace(
            claim,
            rotation_id=plan.rotation_id(self.key, view.state.incarnation + anew, step.number),
            fingerprint=self.fingerprints.of(self.key, self._prepared.material),
            spec=spec.name,
            made_at=made_at,
        )

    def _restore_claim(self, claim: Claim, view: View) -> Claim:
        holding = self.given.holding
        if holding is None:
            raise AssertionError("a run announces only what it holds")
        history = self.past.history()
        seen = self.recognised(view.seen, history)
        return replace(
            claim,
            fingerprint=self.work.fingerprint,
            brings=intake.announced(self, holding, history, view.state, seen),
            origin=holding.origin,
            paused=holding.paused or (view.state.paused and not view.state.moved),
        )

    def _given_material(self, step: plan.Claiming, now: datetime) -> tuple[KeyMaterial | None, datetime]:
        """The material that the new version must have, if it is not to be fresh, and when it was made."""
        if step.operation is Operation.IMPORT:
            return self.given.material, self.work.created or now
        if step.operation is Operation.ROLLBACK:
            record = changes.record_of(self, step.source)
            check_rollback(self.key, record)
            material = self.store.read(self.key, location(record))
            self.fingerprints.check(self.key, material, record.fingerprint)
            return material, record.made_at
        return None, now

    def _policy(self) -> KeyPolicy:
        if self.policy is None:
            raise ConfigurationError(f"no policy names {self.key}", "add it to the policy file first")
        return self.policy

    def _take_over(self, _: plan.TakeOver, view: View) -> View:
        left = _open(view)
        held = replace(left, run=self.work.run, lease_until=self.tools.clock() + self.tools.lease)
        event = Event.ROTATION_RESUMED if held.operation.makes_version else Event.CHANGE_RESUMED
        self._append(drafts.about(event, held, view.state, claim=held))
        self.work = replace(self.work, claimed=self.work.claimed or plan.same_work(self.work, held))
        claimed = self._with_head(view)
        self._begin_anew(held, claimed)
        if left.run != held.run:
            self.notes.append(f"took over the {held.work} that another run left open")
        return claimed

    def _stage(self, _: plan.Stage, view: View) -> View:
        claim = _open(view)
        if self._prepared is None:
            raise AssertionError("a run stages only what it holds")
        version = NewVersion(claim.number, claim.rotation_id, claim.fingerprint, claim.spec)
        return plan.with_staged(view, self.store.stage(self.key, version, self._prepared))

    def _verify(self, step: plan.Verify, view: View) -> View:
        version = step.version
        spec, fingerprint = drafts.expected(view.state, version)
        try:
            self._verified = self._read_verified(version, spec, fingerprint)
        except NotFoundError as problem:
            raise ConflictError(f"what was staged is gone: {problem.message}") from None
        except (IntegrityError, RefusedError) as problem:
            self.work = replace(self.work, rejected=fingerprint, rejected_why=problem.message)
        else:
            self.work = replace(self.work, verified=fingerprint)
        return view

    def _read_verified(self, version: StoredVersion, spec: str, fingerprint: str) -> KeyMaterial:
        material = self.store.read(self.key, version)
        verify(self.key, spec, fingerprint, material, self.fingerprints)
        return material

    def _keep_loose(self, step: plan.Keep, view: View) -> View:
        records = {record.version_id: record for record in self.past.history().versions.values()}
        for version in step.versions:
            record = records.get(version.version_id)
            if record is not None and record.state in (State.ACTIVE, State.DECRYPT_ONLY):
                new = NewVersion(record.number, version.rotation_id, record.fingerprint, record.spec)
                self.store.label(self.key, replace(version, number=record.number), new)
                self.notes.append(f"version {record.number} had lost the mark that keeps it; it has it again")
        return plan.with_kept(view, step.versions)

    def _promote(self, step: plan.Promote, view: View) -> View:
        if self._verified is None:
            raise AssertionError("a run promotes only what it has verified")
        if not self.store.fenced:
            self.last_look(view)
        try:
            promoted = self.store.promote(self.key, step.version, step.planned, self._verified)
        except NotFoundError as problem:
            raise ConflictError(f"what was staged is gone: {problem.message}") from None
        if self.store.fenced:
            return plan.with_promoted(view, promoted)
        published = replace(view.seen, newest=promoted, versions=(*view.seen.versions, promoted))
        return replace(view, seen=self.recognised(self._observe(published)))

    def last_look(self, view: View) -> None:
        """Right before a write that the store cannot fence: the claim must be the head, with time to spare."""
        claim = view.state.claim
        if self.journal.moved_on(self.key, self.head):
            raise ConflictError("the manifest has moved on")
        if claim is not None and self.tools.clock() + self.tools.call_timeout >= claim.lease_until:
            raise ConflictError("the claim's lease ends before the write would")

    def _finish(self, step: plan.Finish, view: View) -> View | None:
        claim, now, version = _open(view), self.tools.clock(), step.version
        strays = self._kept(view.state, step.strays)
        records = [*self._replaced(claim, now, view), *drafts.adopted(view.state, strays, now)]
        first = claim.operation is Operation.IMPORT and view.state.active is None
        since = claim.made_at if first and claim.made_at else now
        active = VersionRecord(
            number=claim.number,
            version_id=version.version_id,
            fingerprint=claim.fingerprint,
            spec=claim.spec,
            state=State.ACTIVE,
            made_at=claim.made_at or now,
            active_since=since,
            source=claim.source,
        )
        records = [active, *records]
        attention = view.state.attention_at
        if attention is not None or (self.policy is not None and self.policy.keep_versions is not None):
            versions = self.past.history().with_changes(records)
            attention = attention_at(versions.values(), self.policy)
        draft = drafts.about(
            ENDING[claim.operation], claim, view.state, version_id=version.version_id, verified=VERIFIED
        )
        self._append(replace(draft, changes=tuple(records), attention_at=attention))
        self.ended = self.head.entry
        self.notes += [f"version {stray.number} of a run that was given up is known now" for stray in strays]
        # It was somebody else's work: this run's own begins with what the store shows now.
        return self._with_head(view) if self.work.claimed else None

    def _replaced(self, claim: Claim, now: datetime, view: View) -> list[VersionRecord]:
        """The records of what was active before: decrypt-only from now on, or lost with the key that was made anew."""
        active = view.state.active
        if active is None:
            return []
        if claim.operation is Operation.CREATE:
            history = self.past.history()
            living = [v for v in history.versions.values() if v.state is not State.DESTROYED]
            return [replace(v, state=State.DESTROYED, lost=True, deactivated_at=now) for v in living]
        return [replace(active, state=State.DECRYPT_ONLY, deactivated_at=now)]

    def _apply(self, _: plan.Apply, view: View) -> View | None:
        claim = _open(view)
        try:
            records = changes.apply(self, claim, view)
        except RefusedError as problem:
            if claim.operation.carries and not isinstance(problem, StaysError):
                raise  # half of it may lie there: the claim stays open, and the same run again goes on with it
            return self._discard(plan.Discard(problem.message, hint=problem.hint), view)
        history = self.past.history()
        versions = history.with_changes(records).values()
        attention = attention_at(versions, self.policy)
        stays = claim.operation is not Operation.MIGRATE
        if stays and any(version.state is State.ACTIVE and version.compromised for version in versions):
            attention = self.tools.clock()  # no age brings a tick to it
        draft = drafts.about(
            drafts.ending(claim, records), claim, view.state, changes=tuple(records), attention_at=attention
        )
        if claim.operation.carries:
            draft = self._linked(draft, claim, records)
        elif records:
            draft = replace(draft, version_id=records[0].version_id, fingerprint=records[0].fingerprint)
        self._append(draft)
        self.ended = self.head.entry
        return None

    def _linked(self, draft: Draft, claim: Claim, records: list[VersionRecord]) -> Draft:
        """An ending that says where the key's history was before, or goes on."""
        active = next((r for r in records if r.state is State.ACTIVE), self.head.state.active)
        if active is None:
            raise AssertionError("a key that comes or goes has an active version")
        about = replace(draft, number=active.number, version_id=active.version_id, fingerprint=active.fingerprint)
        if claim.operation is Operation.RESTORE:
            return replace(about, origin=claim.origin, verified=VERIFIED)
        return replace(about, destination=self.arrived)

    def _discard(self, step: plan.Discard, view: View) -> View:
        claim, reason, version = _open(view), step.reason, step.version
        if version is not None:
            self.store.discard(self.key, version)
        retry_at = None
        if claim.operation.makes_version and step.waits:
            retry_at = self.tools.clock() + plan.back_off(view.state.failures + 1)
        self._append(drafts.about(Event.DISCARDED, claim, view.state, reason=reason, retry_at=retry_at))
        what = f"{claim.work} was given up: {reason}"
        if claim.run == self.work.run:
            self._failure = Outcome(self.key, Status.FAILED, what, hint=step.hint, next_at=retry_at)
            self.work = replace(self.work, claimed=True)
        else:
            self.notes.append(what)
        return self._with_head(plan.without_staged(view, (version,) if version else ()))

    def _adopt(self, step: plan.Adopt, view: View) -> View:
        now = self.tools.clock()
        records = drafts.adopted(view.state, self._kept(view.state, step.strays), now)
        if not records and step.active is None:
            return view
        if step.active is not None:
            (record,) = drafts.adopted(view.state, (self._labelled(view.state, step.active),), now)
            records.append(replace(record, state=State.ACTIVE, deactivated_at=None))
            if view.state.active is not None:
                records.append(replace(view.state.active, state=State.DECRYPT_ONLY, deactivated_at=now))
        subject = records[0]
        draft = Draft(
            Event.ADOPTED,
            number=subject.number,
            version_id=subject.version_id,
            fingerprint=subject.fingerprint,
            reason="left in the store by a run that was given up",
            verified=VERIFIED if step.active is not None else "",
            changes=tuple(records),
            attention_at=view.state.attention_at,
        )
        self._append(draft)
        self.notes.append(f"version {subject.number} was left in the store by a run that was given up; it is known now")
        return self._with_head(view)

    def _kept(self, state: KeyState, strays: tuple[StoredVersion, ...]) -> tuple[StoredVersion, ...]:
        """Those that are what their claims named, read, verified and marked to be kept. The others stay unrecorded."""
        kept = []
        for stray in strays:
            spec, fingerprint = drafts.expected(state, stray)
            try:
                self._read_verified(stray, spec, fingerprint)
            except (IntegrityError, NotFoundError, RefusedError) as problem:
                self.work = replace(self.work, unfit=self.work.unfit | {stray.version_id})
                self.notes.append(
                    f"version {stray.number} ({stray.version_id}) lies in the store under a number that was given up, "
                    f"and is not taken in: {problem.message}"
                )
            else:
                kept.append(self._labelled(state, stray))
        return tuple(kept)

    def _labelled(self, state: KeyState, stray: StoredVersion) -> StoredVersion:
        """A version that was discarded before it was published late may have lost the marks that keep it."""
        spec, fingerprint = drafts.expected(state, stray)
        self.store.label(self.key, stray, NewVersion(stray.number, stray.rotation_id, fingerprint, spec))
        return stray

    def _republish(self, step: plan.Republish, view: View) -> None:
        active = view.state.active
        if active is None:
            raise AssertionError("only an active version is published again")
        material = self._read_verified(step.version, active.spec, active.fingerprint)
        self.last_look(view)
        published = self.store.promote(self.key, step.version, view.seen.newest, material)
        self._put_to_rest(view)
        draft = Draft(
            Event.REPUBLISHED,
            number=active.number,
            version_id=published.version_id,
            fingerprint=active.fingerprint,
            reason="an older version was on top",
            changes=(replace(active, version_id=published.version_id),),
            attention_at=view.state.attention_at,
        )
        self._append(draft)
        self.notes.append(f"version {active.number} was published again: an older one was on top")

    def _put_to_rest(self, view: View) -> None:
        """What a late writer put on top, if nobody is to be given that version any more."""
        late = view.seen.newest
        record = self.past.history().versions.get(late.number) if late is not None else None
        if late is None or record is None or record.lost or late.destroyed:
            return
        if record.state is State.DISABLED:
            self.store.disable(self.key, late)
        if record.state is State.DESTROYED:
            self.store.destroy(self.key, late)

    def _tidy(self, step: plan.Tidy, view: View) -> View:
        for copy in step.copies:
            self.store.discard(self.key, copy)
        if view.state.claim is None:
            self.notes.append(f"took away {len(step.copies)} staged copies that a run left behind")
        return plan.without_staged(view, step.copies)

    # --- the end

    def _done(self, done: plan.Done) -> Outcome:
        if done.status is not Status.IN_PROGRESS:
            self._write_anchor(self.head.state.attention_at)
        if self._failure is not None:
            return replace(self._failure, notes=tuple(self.notes))
        if self.ended is None or done.status is Status.FAILED:
            notes = tuple(self.notes)
            return Outcome(
                self.key,
                done.status,
                done.message,
                hint=done.hint,
                next_at=done.retry_at,
                notes=notes,
                number=self._number(),
            )
        return self._ended_outcome(self.ended)

    def _ended_outcome(self, entry: Entry) -> Outcome:
        operation = next((o for o, event in ENDING.items() if event is entry.event), Operation.ROTATE)
        return Outcome(
            self.key,
            _ENDED_AS.get(operation, Status.DONE),
            drafts.describe(entry),
            number=entry.number or self._number(),
            rotation_id=entry.rotation_id,
            recorded=self.journal.ledger.where(self.key, entry.sequence),
            notes=tuple(self.notes),
        )

    def _number(self) -> int:
        return self.head.state.active.number if self.head.state.active else 0

    def _append(self, draft: Draft) -> None:
        self.head = self.journal.append(self.key, self.head, draft)
        self._from_inventory = False

    def _with_head(self, view: View) -> View:
        return replace(view, state=self.head.state, settled=False)

    def _write_anchor(self, attention: datetime | None) -> None:
        """Store the head beside the key, if it is not there. Best effort: the next tick does it again."""
        exists = self.view is not None and self.view.seen.exists
        if self.head.entry is None or not (exists or self.ended):
            return
        anchor = self.journal.anchor(self.key, self.head, attention_at=attention)
        seen = self.view.seen if self.view is not None else None
        # Without the ledger's address a listing does not show the key as ours.
        if seen is not None and (seen.anchor, seen.ledger) == (anchor, self.journal.ledger.address):
            return
        try:
            self.store.write_anchor(self.key, anchor)
        except KmsError as problem:
            self.notes.append(f"the manifest head could not be stored beside the key: {problem.message}")


def _open(view: View) -> Claim:
    if view.state.claim is None:
        raise AssertionError("this step needs an open claim")
    return view.state.claim
