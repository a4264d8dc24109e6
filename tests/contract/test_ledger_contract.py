"""What every ledger must do: of two writers of one object exactly one wins, and nothing is ever overwritten."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from daena_kms.errors import ExistsError
from tests.support.worlds import KEY, Backend

RACERS = 16


def test_what_was_written_is_read_back(backend: Backend) -> None:
    backend.ledger.append(KEY, 1, b"one")
    backend.ledger.append(KEY, 2, b"two")
    assert backend.ledger.read(KEY, 1) == b"one"
    assert backend.ledger.sequences(KEY) == [1, 2]
    assert backend.ledger.names() == [KEY]


def test_what_is_not_there_is_none(backend: Backend) -> None:
    assert backend.ledger.read(KEY, 1) is None
    assert backend.ledger.sequences(KEY) == []
    assert backend.ledger.names() == []


def test_an_object_is_never_overwritten(backend: Backend) -> None:
    backend.ledger.append(KEY, 1, b"first")
    with pytest.raises(ExistsError):
        backend.ledger.append(KEY, 1, b"second")
    assert backend.ledger.read(KEY, 1) == b"first"


def test_of_many_racing_writers_one_wins_and_its_bytes_stay(backend: Backend) -> None:
    def write(racer: int) -> int | None:
        try:
            backend.ledger.append(KEY, 1, b"racer %d" % racer)
        except ExistsError:
            return None
        return racer

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [racer for racer in pool.map(write, range(RACERS)) if racer is not None]
    assert len(winners) == 1
    assert backend.ledger.read(KEY, 1) == b"racer %d" % winners[0]


def test_keys_do_not_share_sequences(backend: Backend) -> None:
    backend.ledger.append("a-key", 1, b"a")
    backend.ledger.append("b-key", 1, b"b")
    assert backend.ledger.read("a-key", 1) == b"a"
    assert backend.ledger.names() == ["a-key", "b-key"]
