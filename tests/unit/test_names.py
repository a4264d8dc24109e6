"""Key names: one rule for every store."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms.errors import ConfigurationError
from daena_kms.names import LONGEST_SUFFIX, NAME_LIMIT, RESERVED_KEY, STAGED_SUFFIX, check_name, check_prefix

# What each cloud's documentation says of a name. None of this is taken from the code under test.
AZURE_KEY_VAULT = re.compile(r"[0-9a-zA-Z-]{1,127}")
GCP_SECRET_MANAGER = re.compile(r"[0-9a-zA-Z_-]{1,255}")
AWS_SECRETS_MANAGER = re.compile(r"[0-9a-zA-Z/_+=.@-]{1,512}")
# The suffixes with which we lay copies beside a key, the longest one included.
SUFFIXES = ("", "--staged", "--archive-1", "--archive-999")
LONGEST_NAME = 127 - len("--archive-999")

GOOD = ["daena-encryption-key", "a", "0", "a-b", "2fa-seed", "a" * LONGEST_NAME, "k3y-9", "reserved", "staged"]
BAD = [
    pytest.param("", id="empty"),
    pytest.param("A", id="upper-case"),
    pytest.param("daena_key", id="underscore"),
    pytest.param("daena.key", id="dot"),
    pytest.param("daena/key", id="slash"),
    pytest.param("..", id="dots"),
    pytest.param("daena key", id="space"),
    pytest.param("-key", id="leading-hyphen"),
    pytest.param("key-", id="trailing-hyphen"),
    pytest.param("-", id="hyphen"),
    pytest.param("a--b", id="double-hyphen"),
    pytest.param("key--staged", id="our-suffix"),
    pytest.param("reserved--manifest-keys", id="our-reserved-name"),
    pytest.param("key\n", id="trailing-newline"),
    pytest.param("\nkey", id="leading-newline"),
    pytest.param("key\0", id="nul"),
    pytest.param("schlüssel", id="umlaut"),
    pytest.param("٣", id="arabic-digit"),
    pytest.param("\uff41", id="full-width-letter"),
    pytest.param("a" * (LONGEST_NAME + 1), id="one-too-long"),
    pytest.param("a" * 10_000, id="far-too-long"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_name(name)
    assert refused.value.hint
    assert len(refused.value.message) < 200, "a message is for reading, whatever the name"


@given(st.text(max_size=140), st.sampled_from(["", "daena-", "x", "team-a-"]))
def test_whatever_is_taken_is_taken_by_every_cloud_with_every_suffix(name: str, prefix: str) -> None:
    try:
        check_name(name, prefix)
    except ConfigurationError:
        return
    for suffix in SUFFIXES:
        stored = prefix + name + suffix
        assert AZURE_KEY_VAULT.fullmatch(stored)
        assert GCP_SECRET_MANAGER.fullmatch(stored)
        assert AWS_SECRETS_MANAGER.fullmatch(stored)


@given(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,3}", fullmatch=True))
def test_whatever_the_rule_allows_is_taken(name: str) -> None:
    if len(name) <= LONGEST_NAME:
        assert check_name(name) == name


@pytest.mark.parametrize("prefix", ["", "daena-", "a" * 50 + "-"])
def test_prefix_name_and_longest_suffix_fit_together(prefix: str) -> None:
    longest = LONGEST_NAME - len(prefix)
    assert check_name("a" * longest, prefix)
    with pytest.raises(ConfigurationError, match=f"at most {longest} "):
        check_name("a" * (longest + 1), prefix)


def test_the_longest_suffix_is_the_longest() -> None:
    assert max(len(suffix) for suffix in SUFFIXES) == LONGEST_SUFFIX
    assert STAGED_SUFFIX in SUFFIXES
    assert NAME_LIMIT == 127


@pytest.mark.parametrize("prefix", ["", "daena-", "daena", "a-b-", "team1-"])
def test_a_good_prefix(prefix: str) -> None:
    assert check_prefix(prefix) == prefix
    assert check_name("key", prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param("-", id="hyphen"),
        pytest.param("-a", id="leading-hyphen"),
        pytest.param("a--", id="double-hyphen"),
        pytest.param("Daena-", id="upper-case"),
        pytest.param("daena_", id="underscore"),
        pytest.param("daena-\n", id="newline"),
        pytest.param("reserved-", id="reserved"),
        pytest.param("reserved-x-", id="reserved-and-more"),
        pytest.param("a" * LONGEST_NAME, id="leaves-no-room-for-a-name"),
        pytest.param("a" * 500, id="longer-than-any-name"),
    ],
)
def test_a_bad_prefix_is_refused_with_a_hint(prefix: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_prefix(prefix)
    assert refused.value.hint


@given(st.text(alphabet="ab-", max_size=6), st.text(alphabet="ab-", max_size=6))
def test_no_prefix_and_name_together_look_like_something_of_ours(prefix: str, name: str) -> None:
    try:
        stored = check_prefix(prefix) + check_name(name, prefix)
    except ConfigurationError:
        return
    assert "--" not in stored
    assert stored != RESERVED_KEY
