"""The manifests' own keys: made once, by however many at a time, and renewed with a signature of the old."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from daena_kms import trust
from daena_kms.errors import ConfigurationError, IntegrityError, NotFoundError
from daena_kms.fleet import Order
from daena_kms.keyring import Fingerprints
from daena_kms.material import KeyMaterial
from daena_kms.model import Status
from daena_kms.names import RESERVED_KEY
from tests.support import liars
from tests.support.doubles import MemoryLedger
from tests.support.worlds import BACKENDS, KEY, Backend, Clock, DiedError, Effects, Mortal, World, dying, seeded


def test_many_inits_at_once_agree_on_one_public_key(backend: Backend, clock: Clock) -> None:
    def init(_: int) -> str:
        return trust.initialise(backend.store, backend.ledger, clock=clock, trigger="test").public_key

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(init, range(8)))) == 1
    assert backend.ledger.sequences(RESERVED_KEY) == [1]
    trust.open_keyring(backend.store, backend.ledger)


def test_an_init_that_is_overtaken_announces_what_is_in_the_store(backend: Backend, clock: Clock) -> None:
    """Between its staging and its look another one has published, and is not at the ledger yet."""
    ours: list[int] = []

    def overtaken(stage: Callable[..., object], *arguments: object) -> object:
        staged = stage(*arguments)
        if not ours:
            ours.append(1)
            with suppress(DiedError):
                trust.initialise(backend.store, liars.Faulty(backend.ledger, "append", _dies), clock=clock, trigger="b")
        return staged

    slow = liars.Faulty(backend.store, "stage", overtaken)
    trust.initialise(slow, backend.ledger, clock=clock, trigger="a")
    assert ours
    trust.open_keyring(backend.store, backend.ledger)


def _dies(*_: object) -> None:
    raise DiedError("before append")


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("renewing", [False, True])
def test_an_init_that_dies_anywhere_can_be_run_again(backend_name: str, renewing: bool, tmp_path: Path) -> None:
    make = trust.renew if renewing else trust.initialise
    # Where publishing copies, there is a staged copy to take away.
    boundaries = 10 if backend_name in ("memory-unfenced", "azure", "gcp") else 8
    for die_at in range(1, boundaries + 1):
        clock = Clock()
        backend = BACKENDS[backend_name](tmp_path / str(die_at), clock, seeded(die_at))
        if renewing:
            trust.initialise(backend.store, backend.ledger, clock=clock, trigger="test")
        effects = Effects(die_at)
        with dying():
            make(Mortal(backend.store, effects), Mortal(backend.ledger, effects), clock=clock, trigger="test")
        assert len(effects.names) == die_at
        if "after append" not in effects.names or not renewing:
            make(backend.store, backend.ledger, clock=clock, trigger="test")
        keyring = trust.open_keyring(backend.store, backend.ledger)
        assert len(keyring.trust.generations) == 1 + renewing


def test_a_renewal_keeps_old_evidence_good_and_signs_with_new_keys(world: World) -> None:
    world.rotate()
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, world.ledger)
    world.clock.move(days=91)
    assert world.rotate().status is Status.ROTATED
    world.check()
    entries = world.history().entries
    assert len({entry.signer for entry in entries}) == 2
    assert [entry.fingerprint.split(":")[0] for entry in entries] == ["1", "1", "2", "2"]


def test_a_retired_key_signs_nothing_any_more(world: World) -> None:
    world.rotate()
    old = world.service()
    world.service().renew("test")
    world.clock.move(days=91)
    old.rotate(Order())
    world.keyring = trust.open_keyring(world.store, world.ledger)
    assert "after that key was retired" in world.problems()[0]


def test_the_pinned_key_is_the_first_for_good(world: World) -> None:
    first = world.keyring.trust.generations[0].public_key.hex()
    assert world.service().renew("test").public_key == first
    trust.open_keyring(world.store, world.ledger, first)
    second = trust.open_keyring(world.store, world.ledger).trust.generations[1].public_key.hex()
    with pytest.raises(IntegrityError, match="not the pinned one"):
        trust.open_keyring(world.store, world.ledger, second)


def test_a_ledger_that_was_never_initialised(backend: Backend) -> None:
    with pytest.raises(NotFoundError, match="never initialised"):
        trust.open_keyring(backend.store, backend.ledger)


def test_the_store_of_other_manifests_is_refused(world: World, tmp_path: Path) -> None:
    clock = Clock()
    other = World(BACKENDS["memory-fenced"](tmp_path, clock, seeded(9)), clock)
    with pytest.raises(IntegrityError, match="no reserved key that fits"):
        trust.open_keyring(other.store, world.ledger)


def test_manifests_that_lost_their_first_object_are_not_begun_anew(world: World) -> None:
    world.rotate()
    bare = MemoryLedger()
    bare.append(KEY, 1, world.ledger.read(KEY, 1) or b"")
    with pytest.raises(ConfigurationError, match="nothing says whose keys signed it"):
        trust.initialise(world.store, bare, clock=world.clock, trigger="test")


def test_lost_manifests_are_begun_anew_with_the_stores_keys_and_its_key_is_adopted(world: World) -> None:
    world.rotate()
    world.clock.move(days=91)
    world.rotate()
    before = {n: world.service().get(KEY, n, reveal=True).material for n in (1, 2)}
    public = world.keyring.trust.generations[0].public_key
    bare = MemoryLedger()
    bare.address = world.ledger.address
    world.ledger = bare
    trust.initialise(world.store, bare, clock=world.clock, trigger="test")
    world.keyring = trust.open_keyring(world.store, bare)
    assert world.keyring.trust.generations[0].public_key == public
    outcome = world.force()
    assert outcome.status is Status.FAILED, "what is lost is said, not papered over"
    assert world.service().adopt(KEY, reason="manifests lost").status is Status.DONE
    assert {n: world.service().get(KEY, n, reveal=True).material for n in (1, 2)} == before
    world.check()
    world.clock.move(days=91)
    assert world.rotate().number == 3
    world.check()


def test_fingerprints_are_keyed_per_key_and_per_generation() -> None:
    material = KeyMaterial(b"weak")
    one, two = Fingerprints({1: b"a" * 32}), Fingerprints({1: b"b" * 32})
    assert one.of(KEY, material) == one.of(KEY, KeyMaterial(b"weak"))
    assert len({one.of(KEY, material), one.of("other-key", material), two.of(KEY, material)}) == 3
    renewed = Fingerprints({1: b"a" * 32, 2: b"c" * 32})
    renewed.check(KEY, material, one.of(KEY, material))
    assert renewed.of(KEY, material).startswith("2:")
    with pytest.raises(IntegrityError, match="not the one that its fingerprint names"):
        renewed.check(KEY, KeyMaterial(b"week"), one.of(KEY, material))
    with pytest.raises(IntegrityError, match="a fingerprint key we do not hold"):
        one.check(KEY, material, renewed.of(KEY, material))


@pytest.mark.parametrize(
    "fingerprint",
    ["", ":", "1", "1:", "²:ab", "1:é", "1:\ud800", "٣:ab", "9" * 5000 + ":ab", "01:ab", "-1:ab", " 1:ab", "1_0:ab"],
)
def test_what_is_no_fingerprint_names_no_material(fingerprint: str) -> None:
    known, material = Fingerprints({1: b"a" * 32}), KeyMaterial(b"weak")
    with pytest.raises(IntegrityError):
        known.check(KEY, material, fingerprint)
    assert not known.fits(KEY, material, fingerprint)


def test_junk_in_the_ledgers_own_chain_stops_nothing_and_a_renewal_steps_over_it(world: World) -> None:
    world.rotate()
    world.ledger.append(RESERVED_KEY, 2, b"junk")
    world.clock.move(days=91)
    assert world.rotate().status is Status.ROTATED
    found = world.service().verify()
    assert found[0].problems == (f"entry 2 of {RESERVED_KEY} is no entry of ours",)
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, world.ledger)
    assert len(world.keyring.trust.generations) == 2
    assert [audit.problems for audit in world.service().verify()] == [()]
    world.check()


@pytest.mark.parametrize("act", ["pause", "resume", "repair", "history", "rollback", "adopt", "get"])
def test_no_call_of_the_library_reaches_the_ledgers_own_chain(world: World, act: str) -> None:
    with pytest.raises(ConfigurationError, match="kept for our own"):
        getattr(world.service(), act)(RESERVED_KEY)
    assert world.ledger.sequences(RESERVED_KEY) == [1]


def test_a_renewal_that_is_gone_from_the_ledger_is_not_signed_for_with_the_key_that_it_retired(world: World) -> None:
    """A key that was not touched since fits the older generation in all: what a run signed would be no evidence."""
    world.rotate()
    world.service().renew("test")
    cut = MemoryLedger()
    cut.address = world.ledger.address
    for key in (KEY, RESERVED_KEY):
        for sequence in world.ledger.sequences(key):
            if (key, sequence) != (RESERVED_KEY, 2):
                cut.append(key, sequence, world.ledger.read(key, sequence) or b"")
    whole, world.ledger = world.ledger, cut
    world.keyring = trust.open_keyring(world.store, cut)
    world.clock.move(days=91)
    outcome = world.rotate()
    assert outcome.status is Status.FAILED
    assert outcome.message.startswith(f"entry 2 of {RESERVED_KEY} is gone")
    (root, _) = world.service().verify([KEY])
    assert root.problems[0].startswith(f"entry 2 of {RESERVED_KEY} is gone")
    with pytest.raises(IntegrityError, match="is gone"):
        trust.initialise(world.store, cut, clock=world.clock, trigger="test")
    assert cut.sequences(KEY) == [1, 2]
    assert world.service().get(KEY, reveal=True).material is not None, "what there is can still be read"
    # As it was, or named anew: both bring it back.
    world.ledger = whole
    world.keyring = trust.open_keyring(world.store, whole)
    assert world.rotate().status is Status.ROTATED
    world.check()


def test_a_renewal_that_is_lost_is_named_anew_with_the_keys_that_the_store_holds(world: World) -> None:
    world.rotate()
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, world.ledger)
    world.force()
    damaged = MemoryLedger()
    damaged.address = world.ledger.address
    for key in (KEY, RESERVED_KEY):
        for sequence in world.ledger.sequences(key):
            junk = (key, sequence) == (RESERVED_KEY, 2)
            damaged.append(key, sequence, b"junk" if junk else world.ledger.read(key, sequence) or b"")
    world.ledger = damaged
    world.keyring = trust.open_keyring(world.store, damaged)
    assert world.force().status is Status.FAILED
    world.service().renew("test")
    world.keyring = trust.open_keyring(world.store, damaged)
    assert len(world.keyring.trust.generations) == 2
    world.check()
    assert world.force().status is Status.ROTATED
    world.check()


def test_an_object_behind_a_gap_in_the_ledgers_own_chain_is_found(world: World) -> None:
    world.rotate()
    world.ledger.append(RESERVED_KEY, 3, b"junk")
    (root, _) = world.service().verify([KEY])
    assert root.problems == (f"entry 2 of {RESERVED_KEY} is missing, but later ones are there",)
    world.clock.move(days=91)
    assert world.rotate().status is Status.ROTATED, "it stops nobody"
