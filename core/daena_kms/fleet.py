"""Many keys: what is due, one outcome per key, bounded in concurrency and time. One bad key never stops the others.

A fleet run is a plan, then one work item per key that is due. Here the items go to a pool of threads; past one
machine the same items can go to a queue. `rotate_one` does not know which.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from . import due, lifecycle, many
from .errors import KmsError, NotFoundError, RefusedError, ThrottledError
from .manifest import EMPTY, Head
from .model import Anchor, InventoryRow, Observed, Operation, Outcome, Status, VersionRecord
from .plan import NEVER, Work
from .policy import KeyPolicy, RotationPolicy, Tick
from .rotation import Run, Tools

log = logging.getLogger(__name__)

FAILING = {Status.FAILED}
Progress = Callable[[Outcome], None]


class Planned(Struct, frozen=True):
    """What a run means to do about one key, and why."""

    key: str
    verdict: due.Verdict
    policy: KeyPolicy | None
    anchor: Anchor | None
    exists: bool
    number: int = 0
    seen: Observed | None = None


class Order(Struct, frozen=True):
    """What a fleet run was asked for."""

    keys: tuple[str, ...] = ()
    """Empty for every key."""
    force: bool = False
    request: str = ""
    reason: str = ""


class Limits(Struct, frozen=True):
    """How much a run may do at once, and for how long it begins new work."""

    concurrency: int = 4
    budget_seconds: float | None = None


class Tried(Struct, frozen=True):
    """What came of one key's work item."""

    outcome: Outcome
    active_since: datetime | None = None
    """Since when its active version is in use, as far as the store's listing or the run has shown it."""


class Report(Struct, frozen=True):
    """What a fleet run did: one outcome per key, in the keys' order."""

    started_at: datetime
    finished_at: datetime
    policy: str
    outcomes: tuple[Outcome, ...]
    overdue: tuple[str, ...] = ()
    """Keys that are older than their policy allows, and were not rotated by this run."""
    oldest_active_days: int = 0
    """Age of the oldest active version under a policy."""

    @property
    def failed(self) -> bool:
        return any(outcome.status in FAILING for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        """How many keys ended how; every status that occurred, in a fixed order."""
        found = [outcome.status for outcome in self.outcomes]
        return {status.value: found.count(status) for status in Status if status in found}


class Fleet:
    """All keys of one store under one policy."""

    def __init__(
        self, tools: Tools, policy: RotationPolicy, tick: Tick, limits: Limits, monotonic: Callable[[], float]
    ) -> None:
        self.tools = tools
        self.policy = policy
        self.tick = tick
        self.limits = limits
        self._monotonic = monotonic

    def plan(self, order: Order, now: datetime) -> list[Planned]:
        """What a run at `now` would do, from the store's listing alone. Changes nothing.

        Raises NotFoundError if the order names a key that neither the store nor the policy knows.
        """
        rows = self.listed()
        names = sorted({*rows, *self.policy.keys})
        if order.keys:
            missing = [key for key in order.keys if key not in rows and key not in self.policy.keys]
            if missing:
                raise NotFoundError(f"there is no key {missing[0]!r}", "see `status` for the keys there are")
            names = sorted(set(order.keys))
        return [self._planned(name, rows.get(name), order, now) for name in names]

    def listed(self) -> dict[str, InventoryRow]:
        """The store's keys by name, without those of another ledger that our policy does not name.

        They have a name prefix that begins with ours; whoever rotates them says whether they are well.
        """
        ours = ("", self.tools.journal.ledger.address)
        rows = self.tools.store.inventory()
        return {row.key: row for row in rows if row.ledger in ours or row.key in self.policy.keys}

    def run(self, order: Order, *, progress: Progress = lambda _: None) -> Report:
        """Plan, then rotate what is due. Time is taken once; what does not fit into the budget is deferred."""
        now = self.tools.clock()
        planned = self.plan(order, now)
        tried = {i.key: Tried(_untouched(i), _since(i)) for i in planned if i.verdict.status is not Status.DUE}
        for each in tried.values():
            progress(each.outcome)
        todo = sorted((i for i in planned if i.verdict.status is Status.DUE), key=_oldest_first)
        tried.update((each.outcome.key, each) for each in self._rotate(todo, order, now, progress))
        return self._report(planned, tried, now)

    def _report(self, planned: Sequence[Planned], tried: Mapping[str, Tried], now: datetime) -> Report:
        done = tuple(tried[item.key].outcome for item in planned)
        old = [i for i in planned if tried[i.key].outcome.status not in (Status.CREATED, Status.ROTATED, Status.MOVED)]
        since = {i.key: at for i in old if i.policy and (at := tried[i.key].active_since)}
        overdue = [i.key for i in old if i.policy and i.key in since and due.overdue(i.policy, since[i.key], now)]
        oldest = max((now - active_since for active_since in since.values()), default=timedelta(0))
        finished = self.tools.clock()
        return Report(now, finished, self.tools.policy_digest, done, tuple(overdue), max(0, oldest.days))

    def _planned(self, key: str, row: InventoryRow | None, order: Order, now: datetime) -> Planned:
        policy = self.policy.keys.get(key)
        ours = row is not None and row.ledger in ("", self.tools.journal.ledger.address)
        anchor = row.anchor if row is not None and ours else None  # a head of another manifest says nothing of ours
        if row is None or self._trustworthy(row):
            verdict = due.assess(row, key, policy, now, self.tick)
        else:
            verdict = due.Verdict(Status.DUE, "what is stored beside the key is not what we wrote there")
        if order.force and policy is not None:
            verdict = due.Verdict(Status.DUE, order.reason or "forced")
        exists = row is not None and row.live
        seen = row.seen if row else None
        return Planned(key, verdict, policy, anchor, exists, row.newest if row else 0, seen)

    def _trustworthy(self, row: InventoryRow) -> bool:
        if row.ledger != self.tools.journal.ledger.address:
            return False
        return row.anchor is None or self.tools.journal.genuine(row.key, row.anchor)

    def _rotate(self, todo: Sequence[Planned], order: Order, now: datetime, progress: Progress) -> Iterable[Tried]:
        started = self._monotonic()
        budget = self.limits.budget_seconds

        def work(item: Planned) -> Tried:
            if budget is not None and self._monotonic() - started >= budget:
                late = Outcome(item.key, Status.DEFERRED, "no time left in this run: the next one takes it")
                tried = Tried(late, _since(item))
            else:
                tried = rotate_one(self.tools, item, order, now, self.tick)
            progress(tried.outcome)
            return tried

        return many.each(todo, work, self.limits.concurrency)


def rotate_one(tools: Tools, item: Planned, order: Order, now: datetime, tick: Tick) -> Tried:
    """One key of a run, whatever happens: its rotation if it is due, then what is scheduled for its old versions."""
    run: Run | None = None
    try:
        run = Run(tools, _work(tools, item, order, now, tick), item.policy, anchor=item.anchor, seen=item.seen)
        outcome = run.execute()
        if run.work.operation is Operation.CREATE and outcome.status is Status.NOT_DUE:
            # It is there after all, and no listing may ever show it: what a tick does with such a key it does now.
            notes, there = run.notes, replace(item, exists=True)
            run = Run(tools, _work(tools, there, order, now, tick), item.policy, past=run.past)
            run.notes = notes
            outcome = run.execute()
        stuck = outcome.status is Status.FAILED and _stuck(tools, item, run)
        outcome = replace(outcome, why=item.verdict.reason, stuck=stuck)
        attention = run.head.state.attention_at
        if attention is not None and attention <= tools.clock() and outcome.status is not Status.IN_PROGRESS:
            outcome = _housekeeping(tools, item, outcome, run)
    except Exception as problem:  # noqa: BLE001  # one bad key never stops the others, not even by a bug of ours
        stuck = isinstance(problem, KmsError) and _stuck(tools, item, run)
        ended = _ended(item.key, order, problem)
        outcome = replace(ended, why=item.verdict.reason, number=item.number, stuck=stuck)
    return Tried(outcome, _since(item, run))


def _ended(key: str, order: Order, problem: Exception) -> Outcome:
    """The outcome of a key whose work ended in an error. What only the quota stood against, the next tick takes up."""
    if isinstance(problem, ThrottledError) and not order.force:  # whoever forces asks once, and is to ask again
        log.warning("key deferred", extra={"key": key, "problem": problem.message})
        return Outcome(key, Status.DEFERRED, problem.message, hint=problem.hint)
    return many.failed(key, problem)


def _since(item: Planned, run: Run | None = None) -> datetime | None:
    active = run.head.state.active if run is not None else None
    if active is not None:
        return active.active_since
    return item.anchor.active_since if item.anchor is not None else None


def _stuck(tools: Tools, item: Planned, run: Run | None) -> bool:
    """True if a claim stays open past its lease: nobody has brought it to its end, and this run could not."""
    try:
        head = tools.journal.head(item.key, item.anchor)  # the run may have failed before it saw the last entry
    except KmsError:
        head = run.head if run is not None else EMPTY
    return head.state.claim is not None and head.state.claim.lease_until <= tools.clock()


def _failed(item: Planned, message: str, hint: str) -> Outcome:
    return Outcome(item.key, Status.FAILED, message, item.verdict.reason, item.number, hint)


def _work(tools: Tools, item: Planned, order: Order, now: datetime, tick: Tick) -> Work:
    if item.policy is None:
        # Nothing is rotated without a policy; what an earlier run left open is still brought to its end.
        operation, limit = Operation.ROTATE, NEVER
    elif not item.exists and item.policy.create:
        operation, limit = Operation.CREATE, None
    elif not item.exists and not _anywhere(tools, item.key):
        raise NotFoundError(
            f"{item.key} does not exist, and its policy does not say create = true",
            "a typo? otherwise `create` it, `import` it, or set create = true",
        )
    elif item.policy.window is not None and item.policy.window.closes(now) is None:
        operation, limit = Operation.ROTATE, NEVER  # looked at for another reason than its age
    else:
        operation, limit = Operation.ROTATE, due.cutoff(item.key, item.policy, now, tick)
    return Work(
        key=item.key,
        run=uuid.uuid4().hex,
        operation=operation,
        cutoff=limit,
        forced=order.force and operation is Operation.ROTATE,
        request=order.request if order.force else "",
        reason=order.reason,
    )


def _anywhere(tools: Tools, key: str) -> bool:
    """True if the store or the ledger has something of that name after all: then the run finds out what is wrong."""
    return tools.store.observe(key).exists or bool(tools.journal.ledger.sequences(key))


def _housekeeping(tools: Tools, item: Planned, outcome: Outcome, run: Run) -> Outcome:
    """Carry out what is scheduled for old versions: destructions asked for, retirements whose grace has passed."""
    notes = list(outcome.notes)
    records = run.past.history().versions.values()
    works = _scheduled(item.key, records, item.policy or KeyPolicy(), tools.clock())
    if not works:
        _call_off(tools, item, records, run.head)
    for work in works:
        done = _carried_out(tools, item, work, run)
        if done is None:
            continue
        notes.append(done.message)
        if done.status is Status.FAILED:
            return replace(done, notes=tuple(notes))
    return replace(outcome, notes=tuple(notes))


def _carried_out(tools: Tools, item: Planned, work: Work, run: Run) -> Outcome | None:
    """How scheduled work ended; None if another run has done it meanwhile, or if a person has called it off."""
    try:
        return Run(tools, work, item.policy, past=run.past).execute()
    except RefusedError:
        records = run.past.history().versions.values()
        left = _scheduled(item.key, records, item.policy or KeyPolicy(), tools.clock())
        if any((work.operation, work.number) == (other.operation, other.number) for other in left):
            raise
        return None


def _call_off(tools: Tools, item: Planned, records: Collection[VersionRecord], head: Head) -> None:
    """The policy changed and nothing is to be done any more: the head beside the key says when to look again."""
    active = head.state.active
    if active is not None and not active.compromised:
        attention = lifecycle.attention_at(records, item.policy)
        tools.store.write_anchor(item.key, tools.journal.anchor(item.key, head, attention_at=attention))


def _scheduled(key: str, records: Collection[VersionRecord], policy: KeyPolicy, now: datetime) -> list[Work]:
    work = [
        Work(key, uuid.uuid4().hex, Operation.DESTROY, number=record.number, reason="scheduled")
        for record in lifecycle.destroyable(records, now)
    ]
    if lifecycle.retirable(records, policy, now):
        work.append(Work(key, uuid.uuid4().hex, Operation.RETIRE, reason="the policy keeps fewer versions"))
    return work


_UNTOUCHED = {
    Status.DUE: "would be rotated",
    Status.NOT_DUE: "not due",
    Status.WAITING: "waits for its window",
    Status.PAUSED: "not rotated",
    Status.MOVED: "not rotated here",
    Status.UNMANAGED: "not rotated",
}


def _untouched(item: Planned) -> Outcome:
    verdict = item.verdict
    if verdict.status is Status.FAILED:
        return _failed(item, verdict.reason, verdict.hint)
    message = _UNTOUCHED[verdict.status]
    if verdict.status is Status.DUE and not item.exists:
        makes = item.policy is not None and item.policy.create
        message = "would be created" if makes else "cannot be rotated; create = true in its policy would make it"
    if verdict.next_at is not None:
        message += f" until {verdict.next_at:%Y-%m-%d %H:%M} UTC"
    return Outcome(item.key, verdict.status, message, verdict.reason, item.number, next_at=verdict.next_at)


def _oldest_first(item: Planned) -> tuple[datetime, str]:
    since = item.anchor.active_since if item.anchor else None
    return since or NEVER, item.key


def dry_run(planned: Iterable[Planned]) -> tuple[Outcome, ...]:
    """What a plan says, as outcomes."""
    return tuple(_untouched(item) for item in planned)
