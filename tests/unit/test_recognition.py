"""Which versions these are that a store shows without saying so: by their place, by reading them, never by a mark."""

from collections.abc import Mapping
from typing import Any

import pytest

from daena_kms.errors import IntegrityError, NotFoundError, RefusedError, UnavailableError
from daena_kms.keyring import Fingerprints
from daena_kms.manifest import History
from daena_kms.material import KeyMaterial
from daena_kms.model import Burnt, Claim, KeyState, Observed, Operation, State, StoredVersion, VersionRecord
from daena_kms.recognition import recognised
from tests.support.worlds import START

KEY = "a-key"
FINGERPRINTS = Fingerprints({1: b"1" * 32, 2: b"2" * 32})
MATERIALS = {number: KeyMaterial(bytes([number]) * 32) for number in range(1, 10)}


class Shelf:
    """A store from which versions are read, and which counts how often."""

    marked = False

    def __init__(self, lying: Mapping[str, KeyMaterial | Exception]) -> None:
        self.lying = lying
        self.read_: list[str] = []

    def read(self, _key: str, version: StoredVersion) -> KeyMaterial:
        self.read_.append(version.version_id)
        found = self.lying[version.version_id]
        if isinstance(found, Exception):
            raise found
        return found


def named(number: int, generation: int = 0) -> str:
    """The fingerprint of that number's material."""
    return FINGERPRINTS.of(KEY, MATERIALS[number], generation)


def record(number: int, version: str, **fields: Any) -> VersionRecord:
    """What an entry says of a version."""
    told: dict[str, Any] = {"fingerprint": named(number), "spec": "AES-256", "state": State.DECRYPT_ONLY} | fields
    return VersionRecord(number=number, version_id=version, made_at=START, active_since=START, **told)


def claim(number: int) -> Claim:
    """A claim of that number."""
    return Claim(Operation.ROTATE, number, "run", START, "", "rotation", named(number), "AES-256", START)


class Told(History):
    """A manifest that names these versions."""

    def __init__(self, *records: VersionRecord) -> None:
        super().__init__(())
        self.versions = {each.number: each for each in records}


def look(*versions: StoredVersion, staged: tuple[StoredVersion, ...] = ()) -> Observed:
    """What the store shows; the last one is what readers get."""
    return Observed(exists=True, newest=versions[-1] if versions else None, versions=versions, staged=staged)


ACTIVE = record(3, "3", state=State.ACTIVE)
STATE = KeyState(highest=3, active=ACTIVE, previous=record(2, "2"))


def test_a_store_that_marks_its_versions_is_believed() -> None:
    shelf: Any = Shelf({})
    shelf.marked = True
    seen = look(StoredVersion(9, "9"))
    assert recognised(shelf, KEY, seen, FINGERPRINTS, STATE) is seen


def test_what_lies_where_the_manifest_says_is_not_read() -> None:
    shelf: Any = Shelf({})
    seen = recognised(shelf, KEY, look(StoredVersion(2, "2"), StoredVersion(3, "3")), FINGERPRINTS, STATE)
    assert [version.number for version in seen.versions] == [2, 3]
    assert shelf.read_ == []


def test_a_mark_on_what_readers_get_is_not_believed_elsewhere_than_the_manifest_says() -> None:
    shelf: Any = Shelf({"4": KeyMaterial(b"x" * 32)})
    seen = recognised(shelf, KEY, look(StoredVersion(3, "3"), StoredVersion(3, "4")), FINGERPRINTS, STATE)
    assert seen.newest is not None
    assert (seen.newest.number, seen.newest.fingerprint) == (0, FINGERPRINTS.of(KEY, KeyMaterial(b"x" * 32)))


def test_with_the_whole_manifest_no_mark_is_believed_that_it_does_not_bear_out() -> None:
    shelf: Any = Shelf({"1": MATERIALS[2], "2": MATERIALS[1]})
    lying = look(StoredVersion(2, "2"), StoredVersion(1, "1"), StoredVersion(3, "3"))
    told = Told(record(1, "2"), record(2, "1"), ACTIVE)
    seen = recognised(shelf, KEY, lying, FINGERPRINTS, STATE, told)
    assert {version.version_id: version.number for version in seen.versions} == {"2": 1, "1": 2, "3": 3}
    assert sorted(shelf.read_) == ["1", "2"]


NAMES: dict[str, tuple[KeyState, int]] = {
    "active": (STATE, 3),
    "previous": (STATE, 2),
    "claimed": (KeyState(highest=4, active=ACTIVE, claim=claim(4)), 4),
    "burnt": (KeyState(highest=5, active=ACTIVE, burnt=(Burnt(5, named(5), "AES-256", START),)), 5),
    "renewed keys": (KeyState(highest=6, active=record(6, "1", fingerprint=named(6, 1))), 6),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_known_by_its_material(name: str) -> None:
    state, number = NAMES[name]
    shelf: Any = Shelf({"7": MATERIALS[number]})
    seen = recognised(shelf, KEY, look(StoredVersion(0, "7")), FINGERPRINTS, state)
    assert seen.newest == seen.versions[0]
    assert seen.newest.number == number
    assert seen.newest.spec == "AES-256"
    assert seen.newest.rotation_id == ("rotation" if name == "claimed" else "")
    assert shelf.read_ == ["7"], "once, though it is listed and is what readers get"


def test_what_nobody_named_gets_no_number_and_is_read_once() -> None:
    shelf: Any = Shelf({"7": KeyMaterial(b"x" * 32)})
    seen = recognised(shelf, KEY, look(StoredVersion(0, "7")), FINGERPRINTS, STATE)
    again = recognised(shelf, KEY, seen, FINGERPRINTS, STATE)
    assert again.newest == seen.newest
    assert shelf.read_ == ["7"]


def test_what_the_last_entry_does_not_name_the_whole_manifest_may() -> None:
    shelf: Any = Shelf({"7": MATERIALS[1]})
    seen = recognised(shelf, KEY, look(StoredVersion(0, "7")), FINGERPRINTS, STATE)
    assert [version.number for version in seen.versions] == [0]
    again = recognised(shelf, KEY, seen, FINGERPRINTS, STATE, Told(record(1, "1"), ACTIVE))
    assert [version.number for version in again.versions] == [1]


def test_of_two_numbers_with_one_material_it_is_the_one_recorded_there_or_the_later_one() -> None:
    told = Told(record(1, "1"), record(4, "4", fingerprint=named(1), state=State.ACTIVE))
    shelf: Any = Shelf(dict.fromkeys(["1", "4", "5"], MATERIALS[1]))
    lying = look(StoredVersion(0, "1"), StoredVersion(0, "4"), StoredVersion(0, "5"))
    seen = recognised(shelf, KEY, lying, FINGERPRINTS, KeyState(), told)
    assert {version.version_id: version.number for version in seen.versions} == {"1": 1, "4": 4, "5": 4}


def test_the_material_of_another_key_is_not_ours() -> None:
    other = record(1, "1", fingerprint=FINGERPRINTS.of("another-key", MATERIALS[1]))
    shelf: Any = Shelf({"7": MATERIALS[1]})
    seen = recognised(shelf, KEY, look(StoredVersion(0, "7")), FINGERPRINTS, KeyState(active=other))
    assert seen.newest is not None
    assert seen.newest.number == 0


def test_what_is_disabled_is_what_the_manifest_says_of_its_place() -> None:
    shelf: Any = Shelf({})
    lying = look(*(StoredVersion(0, str(place), enabled=False) for place in (1, 2, 9)), StoredVersion(3, "3"))
    told = Told(record(1, "1", lost=True, state=State.DESTROYED), record(2, "2", state=State.DISABLED), ACTIVE)
    seen = recognised(shelf, KEY, lying, FINGERPRINTS, STATE, told)
    assert {version.version_id: version.number for version in seen.versions} == {"1": 0, "2": 2, "9": 0, "3": 3}
    assert shelf.read_ == []


def test_no_place_in_the_secret_of_staged_copies_is_one_of_the_manifest() -> None:
    shelf: Any = Shelf({"staged-4": MATERIALS[4]})
    state = KeyState(highest=4, active=ACTIVE, claim=claim(4))
    staged = StoredVersion(0, "staged-4", staged=True)
    seen = recognised(shelf, KEY, look(StoredVersion(3, "3"), staged=(staged,)), FINGERPRINTS, state)
    assert [(version.number, version.staged) for version in seen.staged] == [(4, True)]


@pytest.mark.parametrize("problem", [IntegrityError("damaged"), NotFoundError("gone"), RefusedError("disabled")])
def test_what_cannot_be_read_is_nobodys(problem: Exception) -> None:
    shelf: Any = Shelf({"7": problem})
    seen = recognised(shelf, KEY, look(StoredVersion(3, "7")), FINGERPRINTS, STATE)
    assert seen.newest is not None
    assert (seen.newest.number, seen.newest.fingerprint) == (0, "")


def test_a_store_that_does_not_answer_is_not_taken_for_one_that_has_nothing_of_ours() -> None:
    shelf: Any = Shelf({"7": UnavailableError("down")})
    with pytest.raises(UnavailableError):
        recognised(shelf, KEY, look(StoredVersion(0, "7")), FINGERPRINTS, STATE)


@pytest.mark.parametrize("claimed", [False, True], ids=["looking", "under the claim of an adoption"])
def test_where_the_manifest_is_lost_marks_are_all_there_is(claimed: bool) -> None:
    """Data that was encrypted under number 5 asks for number 5."""
    shelf: Any = Shelf({})
    adopting = Claim(Operation.ADOPT, 0, "run", START, "")
    lying = look(StoredVersion(2, "1"), StoredVersion(5, "2"))
    seen = recognised(
        shelf, KEY, lying, FINGERPRINTS, KeyState(claim=adopting if claimed else None), Told() if claimed else None
    )
    assert [version.number for version in seen.versions] == [2, 5]


def test_versions_are_in_the_order_of_their_numbers() -> None:
    shelf: Any = Shelf({"1": MATERIALS[3], "2": MATERIALS[1], "3": MATERIALS[2]})
    told = Told(*(record(number, "") for number in (1, 2, 3)))
    lying = look(StoredVersion(0, "1"), StoredVersion(0, "2"), StoredVersion(0, "3"))
    seen = recognised(shelf, KEY, lying, FINGERPRINTS, KeyState(), told)
    assert [version.number for version in seen.versions] == [1, 2, 3]
    assert seen.newest is not None
    assert seen.newest.version_id == "3"
