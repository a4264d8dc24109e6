"""Three keys with a past in memory, put back to what they were before each example, and what is asked of them."""

from collections.abc import Collection
from dataclasses import replace

from daena_kms.errors import KmsError
from daena_kms.fleet import Order
from daena_kms.model import Outcome, Status
from daena_kms.service import Service
from tests.support.backups import B, C, Several, three_keys
from tests.support.doubles import Container, MemoryLedger, MemoryStore

from .harness import allowed, require, sensible

SOUND = (B, C)
"""What nobody meddles with: it goes on, whatever happens to the first key."""


class Memory:
    """`three_keys`, with a way back."""

    def __init__(self, several: Several | None = None) -> None:
        self.several = several or three_keys()
        self.store: MemoryStore = self.several.backend.store
        self.ledger: MemoryLedger = self.several.backend.ledger
        self._objects = dict(self.ledger.objects)
        self._keys = self._copied()
        self._now = self.several.clock.now

    def _copied(self) -> dict[str, Container]:
        return {key: replace(each, held=list(each.held)) for key, each in self.store.keys.items()}

    def put_back(self) -> None:
        """As it was."""
        self.ledger.objects = dict(self._objects)
        self.store.keys = {key: replace(each, held=list(each.held)) for key, each in self._keys.items()}
        self.several.clock.now = self._now

    def service(self) -> Service:
        """As one process has it."""
        return self.several.service()


def asked_everything(service: Service, key: str, sound: Collection[str] = SOUND) -> None:
    """Ask for all that a person or a tick asks for. Of `key` anything may come but a bug; of the others, what is right.

    `sound` is empty where what they share is meddled with: then all of it may be refused, in words.
    """
    answers = [
        allowed(service.verify),
        allowed(service.status),
        allowed(lambda: service.plan(Order())),
    ]
    require(not sound or None not in answers, "one bad key stops verify, status or plan of all")
    for audit in answers[0] or ():
        require(audit.key not in sound or not audit.problems, f"{audit.key} does not verify: {audit.problems}")
    for standing in answers[1] or ():
        require(standing.key not in sound or standing.active, f"{standing.key} shows nothing: {standing.problem}")
    for ask in (
        lambda: service.history(key),
        lambda: service.verify([key]),
        lambda: service.get(key, reveal=True),
        lambda: service.get(key, 1, reveal=True),
        lambda: service.rollback(key),
        lambda: service.disable(key, 1),
    ):
        told_well(allowed(ask))
    for order in (
        Order(),
        Order((key,), force=True, request="fuzz"),
        Order(tuple(sound), force=True, request="fuzz-2"),
    ):
        ticked(service, order, sound)


def ticked(service: Service, order: Order, sound: Collection[str]) -> None:
    """A tick: no outcome is a bug, and of sound keys none has failed."""
    try:
        report = service.rotate(order)
    except KmsError as problem:
        sensible(problem)
        require(not sound, f"one bad key stops a whole run: {problem.message[:300]}")
        return
    for outcome in report.outcomes:
        told_well(outcome)
        require(
            outcome.key not in sound or outcome.status is not Status.FAILED,
            f"{outcome.key} failed: {outcome.message[:300]}",
        )


def told_well(outcome: object) -> None:
    """An outcome that is none of a bug of ours."""
    if isinstance(outcome, Outcome):
        require(not outcome.message.startswith("unexpected "), f"a bug: {outcome.message}, of {outcome.key}")
        require(len(outcome.message) <= 20_000, "an outcome without bound")
