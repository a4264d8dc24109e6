"""How keys lie in Secrets Manager: names, labels, envelope, tags. Pure."""

import contextlib
import unicodedata
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms import names
from daena_kms.errors import ConfigurationError, IntegrityError
from daena_kms.model import UNREADABLE, Anchor
from daena_kms.names import LONGEST_PREFIX, NAME_LIMIT, RESERVED_KEY, check_name, check_prefix
from daena_kms.stores import aws_layout as layout
from daena_kms.stores.aws_layout import CURRENT, NO_VERSION, PENDING, PREVIOUS, STAGED
from tests.support.worlds import START

KEY = "daena-encryption-key"
ROTATION = "55073bcf-a6fb-5547-8020-af7cfcd51309"
LONGEST_NUMBER = 9_999_999_999
LONGEST_SECRET_NAME = 512  # botocore: CreateSecret, Name
LONGEST_TAG_VALUE = 256  # botocore: Tag


# --- names

_PART = st.text("abcxyz0189", min_size=1, max_size=6)
_NAMES = st.lists(_PART, min_size=1, max_size=5).map("-".join)
_PREFIXES = st.one_of(st.just(""), st.lists(_PART, min_size=1, max_size=2).map(lambda parts: "-".join(parts) + "-"))


@pytest.mark.parametrize(
    ("prefix", "key", "secret"),
    [
        ("", KEY, "daena-encryption-key"),
        ("app-", KEY, "app-daena-encryption-key"),
        ("", RESERVED_KEY, "reserved--manifest-keys"),
        ("app-", RESERVED_KEY, "reserved--app-manifest-keys"),
    ],
)
def test_the_secret_of_a_key(prefix: str, key: str, secret: str) -> None:
    assert names.secret_name(prefix, key) == secret


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("", id="nothing"),
        pytest.param("app-", id="the-prefix-alone"),
        pytest.param("ap-billing-key", id="another-prefix"),
        pytest.param("billing-key", id="no-prefix"),
        pytest.param("my-app-billing-key", id="prefix-inside"),
        pytest.param("App-billing-key", id="prefix-in-capitals"),
        pytest.param("app-billing-key--archive-1", id="archive"),
        pytest.param("reserved--app-manifest-keys", id="reserved"),
        pytest.param("app-reserved--manifest-keys", id="reserved-behind-the-prefix"),
        pytest.param("app-Billing-Key", id="capitals"),
        pytest.param("app-prod/billing", id="path"),
        pytest.param("app-billing_key", id="underscore"),
        pytest.param("app-billing-", id="hyphen-at-the-end"),
        pytest.param("app-" + "k" * NAME_LIMIT, id="too-long"),
    ],
)
def test_what_is_not_a_key_of_ours(secret: str) -> None:
    assert names.key_of("app-", secret) == ""


@given(_PREFIXES, _NAMES)
def test_a_secrets_name_gives_the_key_back(prefix: str, key: str) -> None:
    check_prefix(prefix)
    assert names.key_of(prefix, names.secret_name(prefix, check_name(key, prefix))) == key


@given(_PREFIXES, _NAMES, _NAMES, st.integers(1, 999), st.integers(1, 999))
def test_no_two_things_share_a_secret(prefix: str, one: str, other: str, first: int, second: int) -> None:
    """Keys, their archives and what is reserved: each has a name of its own, and only keys are taken for keys."""
    keys = {names.secret_name(prefix, key) for key in {one, other}}
    places = {(key, index) for key in keys for index in {first, second}}
    archives = {layout.archive_name(key, index) for key, index in places}
    reserved = names.secret_name(prefix, RESERVED_KEY)
    assert len(keys | archives | {reserved}) == len({one, other}) + len(places) + 1
    assert [names.key_of(prefix, secret) for secret in (*archives, reserved)] == [""] * (len(places) + 1)


def test_the_longest_names_fit() -> None:
    prefix = "p" * (LONGEST_PREFIX - 1) + "-"
    key = "k" * (NAME_LIMIT - len("--archive-999") - LONGEST_PREFIX)
    secret = names.secret_name(prefix, check_name(key, check_prefix(prefix)))
    assert names.key_of(prefix, secret) == key
    assert len(layout.archive_name(secret, 999)) <= NAME_LIMIT <= LONGEST_SECRET_NAME
    with pytest.raises(ConfigurationError):
        check_name(key + "k", prefix)


@pytest.mark.parametrize(("number", "index"), [(1, 1), (16, 1), (17, 2), (32, 2), (33, 3), (16 * 999, 999)])
def test_the_number_alone_says_which_archive(number: int, index: int) -> None:
    """As docs/aws-applications.md tells applications to compute it."""
    assert layout.archive_index(number) == index == (number - 1) // 16 + 1
    assert layout.archive_name("app-" + KEY, index) == f"app-{KEY}--archive-{index}"


# --- numbers


@pytest.mark.parametrize("number", [1, 16, 2**31, LONGEST_NUMBER])
def test_a_version_id_is_a_token_that_aws_takes_and_tells_the_number(number: int) -> None:
    identity = layout.version_id(ROTATION, number)
    assert 32 <= len(identity) <= 64  # botocore: ClientRequestToken
    assert layout.read_number(identity, []) == number


def test_the_placeholder_is_a_token_that_aws_takes_and_no_version_of_ours() -> None:
    assert 32 <= len(NO_VERSION) <= 64
    assert layout.read_number(NO_VERSION, [CURRENT]) == 0
    assert layout.unseal(layout.NO_VERSION_VALUE) is None


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ([], 0),
        (["v7"], 7),
        (["disabled-7"], 7),
        (["v7", "disabled-7"], 7),
        ([CURRENT, STAGED, "mine", "v7"], 7),
        ([layout.kept(LONGEST_NUMBER)], LONGEST_NUMBER),
        ([CURRENT, PREVIOUS, PENDING, STAGED], 0),
        (["v0"], 0),
        (["v07"], 0),
        (["V7"], 0),
        (["v7 "], 0),
        (["v-7"], 0),
        (["v7.1"], 0),
        (["version7"], 0),
        (["enabled-7"], 0),
        (["v" + "9" * 11], 0),
    ],
)
def test_the_number_that_labels_tell(labels: list[str], number: int) -> None:
    assert layout.read_number("someone-elses-version-id-0123456789", labels) == number


def test_a_label_says_more_than_an_id() -> None:
    """An adopted version keeps its id; one that was renumbered by hand is what its label says, and fails its check."""
    assert layout.read_number(layout.version_id(ROTATION, 3), ["v7"]) == 7


@pytest.mark.parametrize(
    "identity",
    [
        ROTATION,
        f"{ROTATION}-v",
        f"{ROTATION}-v0",
        f"{ROTATION}-v01",
        f"{ROTATION}-v1 ",
        f" {ROTATION}-v1",
        f"{ROTATION.upper()}-v1",
        f"{ROTATION[:-1]}-v1",
        "x" * 36 + "-v1",
    ],
)
def test_an_id_that_we_did_not_make_tells_no_number(identity: str) -> None:
    assert layout.read_number(identity, []) == 0
    (version,) = layout.held({identity: [CURRENT]}).versions
    assert (version.number, version.rotation_id) == (0, "")


# --- what labels make of versions

_LABELS = [CURRENT, PREVIOUS, PENDING, STAGED, "v1", "v2", "v3", "disabled-1", "disabled-2", "disabled-3", "mine"]
_IDS = [
    NO_VERSION,
    *(layout.version_id(str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))), number) for number in (1, 2, 3)),
    "somebody-elses-version-id-number-one",
    "somebody-elses-version-id-number-two",
]


@st.composite
def _stages(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any labels on any versions; a label sits on one version at most, as AWS has it."""
    places = draw(st.lists(st.sampled_from([None, *_IDS]), min_size=len(_LABELS), max_size=len(_LABELS)))
    stages: dict[str, list[str]] = {}
    for label, place in draw(st.permutations(list(zip(_LABELS, places, strict=True)))):
        if place is not None:
            stages.setdefault(place, []).append(label)
    return stages


@given(_stages())
def test_any_set_of_labels_is_told_apart(stages: dict[str, list[str]]) -> None:
    held = layout.held(stages)
    labels = {identity: set(found) for identity, found in stages.items()}
    shown = [v.version_id for v in (*held.versions, *held.staged)]
    assert sorted(shown) == sorted(i for i in stages if i != NO_VERSION and labels[i] != {PENDING})
    current = next((i for i in stages if CURRENT in labels[i] and i != NO_VERSION), None)
    assert (held.newest.version_id if held.newest else None) == current
    assert held.newest is None or held.newest in held.versions
    for version in held.staged:
        assert version.staged
        assert STAGED in labels[version.version_id]
        assert not {CURRENT, PREVIOUS} & labels[version.version_id]
        assert version.rotation_id  # somebody else's is never taken away, whatever label it has
    for version in held.versions:
        assert not version.staged
        waiting = STAGED in labels[version.version_id] and version.rotation_id
        assert not waiting or {CURRENT, PREVIOUS} & labels[version.version_id]


@given(_stages())
def test_versions_are_in_the_order_of_their_numbers_and_disabled_by_their_own_label_alone(
    stages: dict[str, list[str]],
) -> None:
    held = layout.held(stages)
    for group in (held.versions, held.staged):
        assert [v.number for v in group] == sorted(v.number for v in group)
        for version in group:
            found = stages[version.version_id]
            assert version.number == layout.read_number(version.version_id, found)
            assert version.enabled == (f"disabled-{version.number}" not in found or f"v{version.number}" in found)


@given(_stages(), st.randoms())
def test_the_order_in_which_aws_tells_versions_means_nothing(stages: dict[str, list[str]], random: Any) -> None:
    shuffled = list(stages.items())
    random.shuffle(shuffled)
    one, other = layout.held(stages), layout.held({i: list(reversed(found)) for i, found in shuffled})
    assert one.newest == other.newest
    assert {*one.versions} == {*other.versions}
    assert {*one.staged} == {*other.staged}


@pytest.mark.parametrize(
    ("labels", "seen"),
    [
        (["v1", STAGED], "staged"),
        (["v1", STAGED, CURRENT], "published"),
        (["v1", STAGED, PREVIOUS], "published"),
        (["v1"], "published"),
        (["v1", PENDING], "published"),
        (["disabled-1"], "published"),
        ([STAGED], "staged"),
        ([PENDING], "nothing"),
        ([], "nothing"),
    ],
)
def test_what_one_version_is(labels: list[str], seen: str) -> None:
    held = layout.held({layout.version_id(ROTATION, 1): labels})
    assert (len(held.versions), len(held.staged)) == {"staged": (0, 1), "published": (1, 0), "nothing": (0, 0)}[seen]


@pytest.mark.parametrize(
    ("labels", "loose"),
    [
        (["v1"], False),
        (["disabled-1"], False),
        (["v1", "disabled-1", CURRENT], False),
        ([CURRENT], True),
        ([PREVIOUS, STAGED], True),
        (["mine"], True),
        (["v2", CURRENT], False),
    ],
)
def test_what_keeps_a_version_is_the_label_of_its_number(labels: list[str], loose: bool) -> None:
    (version,) = layout.held({layout.version_id(ROTATION, 1): labels}).versions
    assert version.loose is loose


# --- archives


@pytest.mark.parametrize(
    ("indexes", "text"),
    [
        ({1}, "1"),
        ({1, 2}, "1-2"),
        ({4, 1, 3}, "1 3-4"),
        ({*range(1, 89), 90}, "1-88 90"),
        (set(range(1, 1000)), "1-999"),
        (set(), ""),
    ],
)
def test_archives_are_named_in_ranges(indexes: set[int], text: str) -> None:
    assert layout.write_archives(indexes) == text
    assert layout.read_archives(text) == indexes


@given(st.sets(st.integers(1, 999), max_size=40))
def test_archives_that_are_named_are_read_back_the_same(indexes: set[int]) -> None:
    assert layout.read_archives(layout.write_archives(indexes)) == indexes


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1-", "2-1", "one", "\u00b2", "1.5", "01", "1-9999999999", "1-999999999", "7-7-7"]
)
def test_what_names_no_archives_is_read_as_none(text: str) -> None:
    assert layout.read_archives(text) == set()
    assert layout.read_archives(f"3 {text}") == {3}


def test_a_single_large_number_is_an_archive_of_its_own() -> None:
    """A label of somebody's that looks like a number, a date say, was adopted once."""
    number = 20_240_101
    shown = {1, 2, number}
    assert layout.archives_near(shown) == {1, layout.archive_index(number), layout.archive_index(number) - 1}
    assert layout.read_archives("1265007") == {1_265_007}


@pytest.mark.parametrize(
    ("shown", "near"),
    [
        (set(), set()),
        (range(1, 17), set()),
        (range(1, 5), set()),
        ({1, 2, 4}, {1}),  # number 3 was given up, or lies there
        (range(4, 20), {1}),
        (range(17, 33), {1}),
        (range(18, 34), {1, 2}),
        (range(33, 49), {2}),  # and from there downwards, as long as there is one
    ],
)
def test_versions_that_are_missing_are_looked_for_where_they_would_lie(shown: Any, near: set[int]) -> None:
    assert layout.archives_near({*shown}) == near


# --- room for labels


@given(_stages())
def test_a_secret_without_labels_of_somebody_elses_is_never_crowded(stages: dict[str, list[str]]) -> None:
    ours = {i: [label for label in labels if label not in ("mine", PENDING)] for i, labels in stages.items()}
    assert layout.crowding(ours) == ""


@pytest.mark.parametrize(
    ("bearers", "labels", "crowded"),
    [(1, 12, False), (1, 13, True), (2, 10, False), (2, 11, True), (6, 2, False), (6, 3, True), (7, 1, True)],
)
def test_how_many_labels_of_somebody_elses_fit(bearers: int, labels: int, crowded: bool) -> None:
    """`labels` of them on the first of so many versions, one on each other. All are kept, and it must still rotate."""
    stages = {f"somebody's-{n}": [f"mine-{n}"] for n in range(bearers)}
    stages["somebody's-0"] = [f"mine-0-{n}" for n in range(labels)]
    problem = layout.crowding(stages)
    assert bool(problem) is crowded
    assert not crowded or f"{bearers - 1 + labels} are somebody else's" in problem


# --- the envelope

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_ENVELOPES = st.builds(
    layout.Envelope,
    format=st.just(layout.ENVELOPE_FORMAT),
    key=_TEXT,
    number=st.integers(1, LONGEST_NUMBER),
    spec=_TEXT,
    fingerprint=_TEXT,
    kms_key=_TEXT,
    wrapped=st.binary(max_size=300),
)
ENVELOPE = layout.Envelope(
    layout.ENVELOPE_FORMAT, "app-" + KEY, 7, "AES-256", "1:" + "0" * 64, "arn:aws:kms:x", bytes(184)
)


@given(_ENVELOPES)
def test_what_is_sealed_is_unsealed_the_same(envelope: layout.Envelope) -> None:
    sealed = layout.seal(envelope)
    assert layout.unseal(sealed) == envelope
    assert layout.seal(envelope) == sealed  # the same text, or a put that is repeated would be refused


def test_the_largest_envelope_fits_into_a_value() -> None:
    largest = msgspec.structs.replace(ENVELOPE, key="k" * NAME_LIMIT, kms_key="a" * 2048, wrapped=bytes(6144))
    assert len(layout.seal(largest)) <= 65_536  # botocore: PutSecretValue, SecretString


@pytest.mark.parametrize(
    "value",
    [
        "",
        "hunter2",
        '{"user":"app","password":"hunter2"}',
        '{"format":"daena-kms/2","key":"k"}',
        '{"format":"daena-kms"}',
        layout.NO_VERSION_VALUE,
        "null",
        "[]",
    ],
)
def test_a_value_that_is_none_of_ours_is_told_apart(value: str) -> None:
    assert layout.unseal(value) is None


@given(_TEXT)
def test_any_other_text_is_a_foreign_value(text: str) -> None:
    assert layout.unseal(text) is None


_SEALED = layout.seal(ENVELOPE)
_BODY = len('{"format":"daena-kms/1"')


@given(st.integers(_BODY, len(_SEALED) - 1))
def test_an_envelope_that_was_cut_is_damaged(end: int) -> None:
    with pytest.raises(IntegrityError):
        layout.unseal(_SEALED[:end])


@pytest.mark.parametrize("field", ["key", "number", "spec", "fingerprint", "kms_key", "wrapped"])
def test_an_envelope_without_a_field_is_damaged(field: str) -> None:
    whole = msgspec.json.decode(_SEALED)
    del whole[field]
    with pytest.raises(IntegrityError) as refused:
        layout.unseal(msgspec.json.encode(whole).decode())
    assert refused.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", None),
        ("key", ["app-" + KEY]),
        ("number", "7"),
        ("number", 7.5),
        ("number", True),
        ("fingerprint", 7),
        ("wrapped", "not base64!"),
        ("wrapped", {}),
        ("comment", "a field that no envelope has"),
    ],
)
def test_an_envelope_with_a_field_of_another_kind_is_damaged(field: str, value: object) -> None:
    with pytest.raises(IntegrityError):
        layout.unseal(msgspec.json.encode({**msgspec.json.decode(_SEALED), field: value}).decode())


@given(st.integers(0, len(_SEALED)), st.integers(0, 12), _TEXT)
def test_whatever_is_done_to_an_envelope_there_is_no_other_error(start: int, gone: int, put: str) -> None:
    with contextlib.suppress(IntegrityError):
        found = layout.unseal(_SEALED[:start] + put + _SEALED[start + gone :])
        assert found is None or isinstance(found, layout.Envelope)


@given(st.binary(max_size=200))
def test_bytes_behind_our_mark_are_damaged_or_an_envelope(junk: bytes) -> None:
    text = '{"format":"daena-kms/1",' + junk.decode("latin-1")
    with pytest.raises(IntegrityError):
        layout.unseal(text)


# --- the anchor

_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
_TIMES = st.none() | st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1), timezones=_ZONES)  # noqa: DTZ001
_HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
_ANCHORS = st.builds(
    Anchor,
    sequence=st.integers(1, 2**53),
    hash=_HEX,
    number=st.integers(0, LONGEST_NUMBER),
    active_since=_TIMES,
    attention_at=_TIMES,
    paused=st.booleans(),
    mac=_HEX,
)
LEDGER = "s3://daena-manifests-123456789012-eu-west-1/manifests"
ANCHOR = Anchor(7, "a" * 64, 3, START, START + timedelta(days=1), paused=True, mac="b" * 64)


@given(_ANCHORS)
def test_an_anchor_in_tags_is_read_back_the_same(anchor: Anchor) -> None:
    tags = layout.anchor_tags(LEDGER, anchor)
    assert layout.read_anchor(tags) == anchor
    assert tags[layout.LEDGER_TAG] == LEDGER


@given(_ANCHORS)
def test_anchor_tags_are_such_as_aws_takes(anchor: Anchor) -> None:
    """Letters, digits, spaces and + - = . _ : / @; keys of 1 to 128, values of up to 256 characters (botocore: Tag)."""
    for tag, value in layout.anchor_tags(LEDGER, anchor).items():
        assert 1 <= len(tag) <= 128
        assert len(value) <= LONGEST_TAG_VALUE
        assert not tag.lower().startswith("aws:")
        assert all(sign in "+-=._:/@ " or unicodedata.category(sign)[0] in "LN" for sign in tag + value)


def test_the_largest_anchor_fits() -> None:
    latest = datetime(2999, 12, 31, 9, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-14)))
    largest = Anchor(2**63, "f" * 64, LONGEST_NUMBER, latest, latest, paused=True, mac="f" * 64)
    tags = layout.anchor_tags(LEDGER, largest)
    assert max(len(value) for value in tags.values()) <= LONGEST_TAG_VALUE
    assert layout.read_anchor(tags) == largest


@given(_ANCHORS, _ANCHORS)
def test_a_later_anchor_leaves_nothing_of_the_one_before(before: Anchor, after: Anchor) -> None:
    """Tags that are not named in a request stay as they were: so each is named each time."""
    tags = {**layout.anchor_tags(LEDGER, before), **layout.anchor_tags(LEDGER, after)}
    assert layout.read_anchor(tags) == after


def test_tags_without_a_head_are_no_anchor() -> None:
    assert layout.read_anchor({}) is None
    assert layout.read_anchor({layout.LEDGER_TAG: LEDGER, "team": "payments"}) is None


_TAGS = layout.anchor_tags(LEDGER, ANCHOR)
_PARTS = sorted(set(_TAGS) - {layout.LEDGER_TAG})
HEAD = "daena-kms:head"


@pytest.mark.parametrize("gone", [tag for tag in _PARTS if tag != HEAD])
def test_an_anchor_with_a_tag_missing_is_unreadable_not_absent(gone: str) -> None:
    assert layout.read_anchor({tag: value for tag, value in _TAGS.items() if tag != gone}) == UNREADABLE


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (HEAD, ""),
        (HEAD, "7"),
        (HEAD, "7 " + "a" * 64),
        (HEAD, "seven a b"),
        (HEAD, "7 a b c"),
        (HEAD, "7.0 a b"),
        (HEAD, "7 \ud800 b"),  # half a pair, as JSON may hold it: nothing could be reckoned from it
        (HEAD, "7 a \ud800"),
        ("daena-kms:number", ""),
        ("daena-kms:number", "two"),
        ("daena-kms:active-since", "yesterday"),
        ("daena-kms:active-since", "2026-01-01T12:00:00"),
        ("daena-kms:active-since", "2026-13-01T12:00:00+00:00"),
        ("daena-kms:attention-at", "0"),
        ("daena-kms:attention-at", "2026-01-01"),
        ("daena-kms:active-since", "0001-01-01T00:00:00+14:00"),
        ("daena-kms:attention-at", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_damaged_anchor_is_unreadable(tag: str, value: str) -> None:
    assert layout.read_anchor({**_TAGS, tag: value}) == UNREADABLE


@given(st.sampled_from(_PARTS), st.text(max_size=256))
def test_whatever_a_tag_holds_there_is_no_error(tag: str, value: str) -> None:
    assert isinstance(layout.read_anchor({**_TAGS, tag: value}), Anchor)


# --- the encryption context


def test_the_context_names_key_and_number_as_the_page_for_applications_says() -> None:
    assert layout.context("app-" + KEY, 7) == {"daena-kms:key": "app-" + KEY, "daena-kms:number": "7"}


@given(_NAMES, st.integers(1, LONGEST_NUMBER), _NAMES, st.integers(1, LONGEST_NUMBER))
def test_no_two_versions_share_a_context(one: str, first: int, other: str, second: int) -> None:
    assert (layout.context(one, first) == layout.context(other, second)) == ((one, first) == (other, second))
