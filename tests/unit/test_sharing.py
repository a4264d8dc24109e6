"""The share of the places that a test takes: each is somebody's, and with --thorough everybody's."""

from itertools import chain

from tests.sharing import Some


def test_what_is_asked_for_again_are_other_places_until_all_were_taken() -> None:
    some = Some("a test", thorough=False)
    taken = [list(some(range(12), 4)) for _ in range(4)]
    assert [len(each) for each in taken] == [3] * 4
    assert sorted(chain(*taken)) == list(range(12))


def test_another_test_takes_others() -> None:
    assert len({tuple(Some(f"test {n}", thorough=False)(range(12), 4)) for n in range(20)}) == 4


def test_thorough_is_all() -> None:
    some = Some("a test", thorough=True)
    assert list(some(range(12), 4)) == list(range(12))
    assert some.step(4) == 1
