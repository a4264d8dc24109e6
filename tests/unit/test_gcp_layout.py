"""How keys lie in Secret Manager: annotations that come back, that are kept, that do not fit, that mean nothing."""

from datetime import UTC, datetime

import pytest

from daena_kms.model import UNREADABLE, Anchor
from daena_kms.stores import gcp_layout as layout
from daena_kms.stores.gcp_layout import Secret, annotated, room_problem, size, staged_name, version_id, version_of

LEDGER = "gs://bucket/keys"
ANCHOR = Anchor(7, "a" * 64, 3, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), True, mac="b" * 64)


def secret(annotations: dict[str, str]) -> Secret:
    """One with these annotations."""
    return Secret("app-key", '"e"', {}, annotations)


def test_what_is_written_is_read_again() -> None:
    shown = secret(annotated({}, LEDGER, ANCHOR, {1: 1, 2: 3, 5: 3}, 4))
    assert shown.ledger == LEDGER
    assert shown.anchor == ANCHOR
    assert shown.numbers == {1: 1, 2: 3, 5: 3}
    assert shown.staged == 4


def test_what_is_not_set_leaves_nothing_behind() -> None:
    before = annotated({}, LEDGER, ANCHOR, {1: 1}, 1)
    plain = Anchor(8, "c" * 64, 4)
    after = annotated(before, LEDGER, plain, {}, 0)
    assert secret(after).anchor == plain
    assert set(after) == {layout.LEDGER, "daena-kms-head", "daena-kms-number", layout.STAGED} - {layout.STAGED}
    assert "" not in after.values(), "an empty annotation is one more that a person sees"


def test_the_annotations_of_others_stay_and_ours_are_told_from_them() -> None:
    theirs = {"team": "payments", "daena": "x", "daena-kmsx": "y"}
    written = annotated(theirs, LEDGER, ANCHOR, {1: 1}, 0)
    assert theirs.items() <= written.items()
    assert all(name.startswith(layout.TAG) for name in written if name not in theirs)


@pytest.mark.parametrize("theirs", [{}, {"note": "x" * 14_000}], ids=["alone", "beside a long one"])
def test_where_numbers_do_not_fit_the_oldest_are_left_out(theirs: dict[str, str]) -> None:
    numbers = {version: version + 1000 for version in range(1, 5001)}
    written = annotated(theirs, LEDGER, ANCHOR, numbers, 5000)
    assert size(written) < layout.MOST_ANNOTATION_BYTES, "fewer than 16 KiB, says Google"
    kept = secret(written).numbers
    assert kept == {version: numbers[version] for version in range(min(kept), 5001)}
    assert len(kept) > 100
    assert size(written) + len(f"{min(kept) + 999}={min(kept) - 1} ") >= layout.MOST_ANNOTATION_BYTES - 1


def test_annotations_are_filled_to_the_last_byte_that_may_be_used() -> None:
    empty = size(annotated({"note": "x"}, LEDGER, ANCHOR, {}, 1)) + len(layout.NUMBERS) + len("1=1")
    for spare in (-1, 0, 1, 2):
        note = "x" * (layout.MOST_ANNOTATION_BYTES - empty - spare)
        written = annotated({"note": note}, LEDGER, ANCHOR, {1: 1}, 1)
        assert size(written) < layout.MOST_ANNOTATION_BYTES or spare < 0
        assert (layout.NUMBERS in written) is (spare >= 1), spare


def test_all_numbers_of_more_than_a_thousand_versions_fit() -> None:
    numbers = {version: version for version in range(1, 1401)}
    assert secret(annotated({}, LEDGER, ANCHOR, numbers, 1400)).numbers == numbers


ODD_NUMBERS: dict[str, dict[int, int]] = {
    "": {}, "x": {}, "1": {}, "1=": {}, "=1": {}, "0=1": {}, "1=0": {}, "01=1": {}, "1=1,2=2": {}, "-1=1": {},
    "1=1=1": {}, "1.0=1": {}, "99999999999=1": {}, "1=1  2=2": {1: 1, 2: 2}, " 1=1 ": {1: 1}, "1=1 x 2=2": {1: 1, 2: 2},
    "1=1 2=1": {1: 2}, "1=1 1=2": {1: 1, 2: 1}, "\u0661=1": {}, "1=1\n2=2": {},
}  # fmt: skip


@pytest.mark.parametrize("text", ODD_NUMBERS)
def test_of_an_odd_text_only_what_is_a_number_counts(text: str) -> None:
    assert secret({layout.NUMBERS: text}).numbers == ODD_NUMBERS[text]


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "staged-", "staged-0", "99999999999", "\u0663"])
def test_an_odd_count_of_staged_copies_is_none(text: str) -> None:
    assert secret({layout.STAGED: text}).staged == 0


HEAD = f"7 {'a' * 64} {'b' * 64}"
ODD_HEADS = [
    {"head": ""}, {"head": "7 a"}, {"head": "x a b"}, {"head": HEAD, "number": "x"}, {"head": HEAD, "number": ""},
    {"head": HEAD, "number": "1", "active-since": "yesterday"},
    {"head": HEAD, "number": "1", "attention-at": "2026-01-01T00:00:00"},
]  # fmt: skip


@pytest.mark.parametrize("texts", ODD_HEADS)
def test_a_head_that_is_none_is_not_taken_for_no_head(texts: dict[str, str]) -> None:
    assert secret({layout.TAG + name: text for name, text in texts.items()}).anchor == UNREADABLE


@pytest.mark.parametrize("texts", [{}, {"daena-kms-number": "3"}, {"team": "head"}])
def test_where_no_head_was_written_there_is_none(texts: dict[str, str]) -> None:
    assert secret(texts).anchor is None


def test_a_version_is_called_by_the_secret_it_lies_in() -> None:
    assert (version_id(7), version_id(7, staged=True)) == ("7", "staged-7")
    assert (version_of("7"), version_of("staged-7")) == (7, 7)
    assert staged_name("app-key") == "app-key--staged"


@pytest.mark.parametrize("text", ["", "0", "07", "latest", "../7", "7/x", "staged-staged-7", "12345678901", "\u0667"])
def test_what_is_no_name_of_a_version(text: str) -> None:
    assert version_of(text) == 0


def test_room_is_needed_beside_the_annotations_of_others_alone() -> None:
    full = layout.MOST_ANNOTATION_BYTES - layout.ROOM
    assert room_problem({"note": "x" * (full - 4)}) == ""
    assert f"{full + 1} bytes" in room_problem({"note": "x" * (full - 3)})
    assert f"{full + 1} bytes" in room_problem({"note": "\u00e9" * ((full - 4) // 2) + "x"}), "bytes, not characters"
    assert room_problem({layout.NUMBERS: "1=1 " * 4000}) == "", "ours are cut where they do not fit"


def test_what_is_written_beside_the_most_of_others_fits() -> None:
    theirs = {"note": "x" * (layout.MOST_ANNOTATION_BYTES - layout.ROOM - 4)}
    written = annotated(theirs, "gs://" + "x" * (layout.LONGEST_LEDGER - 5), ANCHOR, dict.fromkeys(range(1, 500), 1), 9)
    assert size(written) < layout.MOST_ANNOTATION_BYTES
    assert len(secret(written).numbers) > 50
