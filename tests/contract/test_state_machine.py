"""Anything in any order, with deaths in between: what always holds, on every store (hypothesis state machine)."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daena_kms import trust
from daena_kms.errors import KmsError, NotFoundError, RefusedError
from daena_kms.fleet import Order
from daena_kms.holdings import location
from daena_kms.manifest import History
from daena_kms.material import KeyMaterial
from daena_kms.model import State
from daena_kms.policy import KeyPolicy
from daena_kms.service import Service
from tests.support.worlds import BACKENDS, KEY, Clock, Effects, Mortal, World, dying, seeded

POLICY = KeyPolicy(create=True, grace_days=7, keep_versions=3, destroy_after_days=5)
Act = Callable[[Service], object]


class KeyLife(RuleBasedStateMachine):
    """One key through everything that can happen to it. Subclasses say on which store."""

    backend = ""

    @initialize(imported=st.booleans())
    def begin(self, imported: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        clock = Clock()
        self.world = World(BACKENDS[self.backend](self.folder, clock, seeded()), clock, POLICY)
        self.materials: dict[int, KeyMaterial] = {}
        self.fingerprints: dict[int, str] = {}
        if imported:
            self.world.service().import_key(KEY, KeyMaterial(b"i" * 32), created=None)
        else:
            self.world.rotate()

    def teardown(self) -> None:
        getattr(self.world.store, "close", lambda: None)()
        shutil.rmtree(self.folder)

    @rule(hours=st.integers(1, 24 * 50))
    def time_passes(self, hours: int) -> None:
        self.world.clock.move(hours=hours)

    @rule()
    def a_tick(self) -> None:
        self._try(lambda s: s.rotate(Order()))

    @rule(request=st.sampled_from(["", "ticket-1", "ticket-2"]))
    def a_forced_rotation(self, request: str) -> None:
        self._try(lambda s: s.rotate(Order((KEY,), force=True, request=request)))

    @rule(death=st.integers(1, 16), forced=st.booleans())
    def a_rotation_that_dies(self, death: int, forced: bool) -> None:
        self._die(death, lambda s: s.rotate(Order((KEY,), force=forced)))

    @rule(death=st.integers(1, 16), number=st.integers(1, 6))
    def a_rollback_that_dies(self, death: int, number: int) -> None:
        self._die(death, lambda s: s.rollback(KEY, number))

    @rule(number=st.integers(0, 6))
    def a_rollback(self, number: int) -> None:
        self._try(lambda s: s.rollback(KEY, number))

    @rule(number=st.integers(1, 8), what=st.sampled_from(["disable", "enable", "destroy", "compromised"]))
    def a_change(self, number: int, what: str) -> None:
        self._try(lambda s: getattr(s, what)(KEY, number))

    @rule(
        number=st.integers(1, 8), death=st.integers(1, 10), what=st.sampled_from(["disable", "enable", "compromised"])
    )
    def a_change_that_dies(self, number: int, death: int, what: str) -> None:
        self._die(death, lambda s: getattr(s, what)(KEY, number))

    @rule(number=st.integers(1, 8))
    def a_destruction_is_cancelled(self, number: int) -> None:
        self._try(lambda s: s.destroy(KEY, number, cancel=True))

    @rule(pause=st.booleans())
    def a_pause_or_its_end(self, pause: bool) -> None:
        self._try(lambda s: s.pause(KEY) if pause else s.resume(KEY))

    @rule()
    @precondition(lambda self: hasattr(self, "world"))
    def new_manifest_keys(self) -> None:
        if len(self.world.keyring.trust.generations) < 3:
            trust.renew(self.world.store, self.world.ledger, clock=self.world.clock, trigger="test")
            self.world.keyring = trust.open_keyring(self.world.store, self.world.ledger)

    @invariant()
    def nothing_is_lost_and_nothing_is_forged(self) -> None:
        if not hasattr(self, "world"):
            return
        entries = self.world.service().journal.history(KEY)
        history = History(entries)
        for number, fingerprint in history.claimed.items():
            assert self.fingerprints.setdefault(number, fingerprint) == fingerprint, "a number has two materials"
        if not history.versions:
            return
        assert [v.state for v in history.versions.values()].count(State.ACTIVE) == 1
        claim = entries[-1].state.claim
        changing = claim is not None and not claim.operation.makes_version
        for record in history.versions.values():
            if record.state is State.ACTIVE or (record.state is State.DECRYPT_ONLY and not changing):
                material = self.world.store.read(KEY, location(record))
                self.world.keyring.fingerprints.check(KEY, material, record.fingerprint)
                assert self.materials.setdefault(record.number, material) == material
            elif not changing:
                with pytest.raises(RefusedError):
                    self.world.store.read(KEY, location(record))

    @rule()
    def at_rest_everything_is_in_order(self) -> None:
        """After the lease one tick, one more because a pause or a back-off may have come first: no trace is left."""
        self.world.clock.move(minutes=61)
        self._try(lambda s: s.resume(KEY))
        for _ in range(2):
            self.world.rotate()
        self.world.check()

    def _try(self, act: Act) -> None:
        try:
            act(self.world.service())
        except (RefusedError, NotFoundError):
            pass  # what a person asked for made no sense at this moment: nothing may have changed
        except KmsError as problem:
            raise AssertionError(f"{type(problem).__name__}: {problem.message}") from problem

    def _die(self, death: int, act: Act) -> None:
        effects = Effects(death)
        service = self.world.service(store=Mortal(self.world.store, effects), ledger=Mortal(self.world.ledger, effects))
        with dying():
            self._try(lambda _: act(service))


@pytest.mark.parametrize(("backend", "examples"), [("local", 15), ("memory-fenced", 40), ("memory-unfenced", 40)])
def test_the_life_of_a_key(backend: str, examples: int) -> None:
    machine: Any = type(f"KeyLife_{backend}", (KeyLife,), {"backend": backend})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
