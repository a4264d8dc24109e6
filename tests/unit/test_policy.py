"""The rotation policy: what it may say, every problem at once, and what contradicts itself."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms.errors import ConfigurationError
from daena_kms.model import KeySpec
from daena_kms.policy import KeyPolicy, RotationPolicy, Tick, parse_policy
from daena_kms.window import Window

EXAMPLE = Path(__file__).parents[2] / "examples" / "daena-kms.toml"
HUGE = "9" * 5000
ENDLESS = "0x" + "f" * 4000  # Python reads it, and does not write a number of more than 4,300 digits


def parse(text: str, *, tick: Tick | None = None, prefix: str = "") -> RotationPolicy:
    return parse_policy(text.encode(), tick=tick or Tick(), prefix=prefix, source="policy.toml")


def problems(text: str, *, tick: Tick | None = None, prefix: str = "") -> list[str]:
    """What is wrong with a policy, a line for each."""
    with pytest.raises(ConfigurationError) as refused:
        parse(text, tick=tick, prefix=prefix)
    assert refused.value.hint
    _, *lines = refused.value.message.splitlines()
    return [line.strip() for line in lines]


def test_a_key_without_settings_gets_the_defaults() -> None:
    assert parse("[keys.a]").keys == {
        "a": KeyPolicy(
            rotate_after_days=90,
            grace_days=30,
            keep_versions=None,
            destroy_after_days=None,
            spec=KeySpec("AES-256", 32),
            window=None,
            jitter_days=0,
            create=False,
        )
    }


def test_a_key_that_is_not_to_be_made_is_not_made_by_default() -> None:
    assert parse("[keys.a]").keys["a"].create is False


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        pytest.param("rotate_after_days = 1", "rotate_after_days", 1, id="rotate-daily"),
        pytest.param("rotate_after_days = 3650", "rotate_after_days", 3650, id="rotate-in-ten-years"),
        pytest.param("grace_days = 0", "grace_days", 0, id="no-grace"),
        pytest.param("keep_versions = 'all'", "keep_versions", None, id="keep-all"),
        pytest.param("keep_versions = 0", "keep_versions", 0, id="keep-none"),
        pytest.param("keep_versions = 5", "keep_versions", 5, id="keep-five"),
        pytest.param("destroy_after_days = 'never'", "destroy_after_days", None, id="destroy-never"),
        pytest.param("destroy_after_days = 7", "destroy_after_days", 7, id="destroy-after-a-week"),
        pytest.param("spec = 'AES-128'", "spec", KeySpec("AES-128", 16), id="aes-128"),
        pytest.param("spec = 'aes-192'", "spec", KeySpec("AES-192", 24), id="aes-192-lower-case"),
        pytest.param("spec = 48", "spec", KeySpec("bytes-48", 48), id="bytes"),
        pytest.param("spec = 'bytes-64'", "spec", KeySpec("bytes-64", 64), id="bytes-by-name"),
        pytest.param("spec = 1024", "spec", KeySpec("bytes-1024", 1024), id="most-bytes"),
        pytest.param("window = 'Sat 02:00-06:00'", "window", Window.parse("Sat 02:00-06:00"), id="window"),
        pytest.param("jitter_days = 89", "jitter_days", 89, id="jitter"),
        pytest.param("create = true", "create", True, id="create"),
    ],
)
def test_a_field(line: str, field: str, value: object) -> None:
    assert getattr(parse(f"[keys.a]\n{line}").keys["a"], field) == value
    assert getattr(parse(f"[defaults]\n{line}\n[keys.a]").keys["a"], field) == value


def test_defaults_apply_to_every_key_that_says_nothing_else() -> None:
    keys = parse("[defaults]\nrotate_after_days = 30\ncreate = true\n[keys.a]\n[keys.b]\nrotate_after_days = 7").keys
    assert (keys["a"].rotate_after_days, keys["b"].rotate_after_days) == (30, 7)
    assert keys["a"].create
    assert keys["b"].create


def test_the_digest_names_the_file_as_it_was_read() -> None:
    text = "# a comment counts too\n[keys.a]\n"
    assert parse(text).digest == hashlib.sha256(text.encode()).hexdigest()
    assert parse(text + "\n").digest != parse(text).digest


def test_the_shipped_example_is_good_and_shows_every_field() -> None:
    text = EXAMPLE.read_text()
    policy = parse(text)
    assert list(policy.keys) == ["daena-encryption-key", "billing-archive-key", "session-signing-key"]
    assert policy.keys["daena-encryption-key"].create
    for field in KeyPolicy.__struct_fields__:
        assert f"{field} = " in text, field
    uncommented = text.replace("# window = ", "window = ")
    assert parse(uncommented).keys["session-signing-key"].window is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", ["keys: a table"], id="empty"),
        pytest.param("keys = 3", ["keys: a table"], id="keys-no-table"),
        pytest.param("[keys]", ["keys: a table"], id="no-key"),
        pytest.param("[keys]\na = 3", ["keys.a: a table is expected, got 3"], id="key-no-table"),
        pytest.param("defaults = 3\n[keys.a]", ["defaults: a table is expected, got 3"], id="defaults-no-table"),
        pytest.param("[key.a]\n[keys.a]", ["key: unknown; did you mean 'keys'?"], id="unknown-table"),
        pytest.param("[keys.a]\nrotate_days = 3", ["keys.a.rotate_days: unknown; did you mean"], id="unknown-field"),
        pytest.param("[keys.a]\nzzz = 3", ["keys.a.zzz: unknown; known are rotate_after_days"], id="no-near-field"),
        pytest.param("[defaults]\nmake = true\n[keys.a]", ["defaults.make: unknown"], id="unknown-default"),
        pytest.param("[keys.A]", ["keys.A: key name 'A'"], id="bad-name"),
        pytest.param("[keys.'']", ["keys.: key name ''"], id="empty-name"),
        pytest.param("[keys.a--b]", ["keys.a--b: key name 'a--b' contains '--'"], id="name-of-ours"),
        pytest.param("[keys.a]\nrotate_after_days = 0", ["keys.a.rotate_after_days: a whole number"], id="never-young"),
        pytest.param("[keys.a]\nrotate_after_days = 3651", ["keys.a.rotate_after_days"], id="too-many-days"),
        pytest.param("[keys.a]\nrotate_after_days = -1", ["keys.a.rotate_after_days"], id="negative-days"),
        pytest.param("[keys.a]\nrotate_after_days = 1.5", ["keys.a.rotate_after_days"], id="fraction-of-days"),
        pytest.param("[keys.a]\nrotate_after_days = '90'", ["keys.a.rotate_after_days"], id="days-as-text"),
        pytest.param("[keys.a]\nrotate_after_days = true", ["keys.a.rotate_after_days"], id="days-as-flag"),
        pytest.param("[keys.a]\nrotate_after_days = inf", ["keys.a.rotate_after_days"], id="infinite-days"),
        pytest.param("[keys.a]\nrotate_after_days = 1979-05-27", ["keys.a.rotate_after_days"], id="days-as-date"),
        pytest.param("[keys.a]\ngrace_days = -1", ["keys.a.grace_days"], id="negative-grace"),
        pytest.param("[keys.a]\nkeep_versions = -1", ["keys.a.keep_versions"], id="keep-negative"),
        pytest.param("[keys.a]\nkeep_versions = 'some'", ["keys.a.keep_versions"], id="keep-some"),
        pytest.param("[keys.a]\nkeep_versions = true", ["keys.a.keep_versions"], id="keep-flag"),
        pytest.param("[keys.a]\ndestroy_after_days = 0", ["keys.a.destroy_after_days"], id="destroy-at-once"),
        pytest.param("[keys.a]\ndestroy_after_days = 'soon'", ["keys.a.destroy_after_days"], id="destroy-soon"),
        pytest.param("[keys.a]\nspec = 'AES-512'", ["keys.a.spec: key spec 'AES-512' is unknown"], id="spec-unknown"),
        pytest.param("[keys.a]\nspec = 15", ["keys.a.spec: a new key of 15 bytes is too short"], id="spec-short"),
        pytest.param("[keys.a]\nspec = 1025", ["keys.a.spec: a key of 1025 bytes"], id="spec-long"),
        pytest.param("[keys.a]\nspec = -32", ["keys.a.spec"], id="spec-negative"),
        pytest.param(f"[keys.a]\ngrace_days = {ENDLESS}", ["keys.a.grace_days: a whole number"], id="days-without-end"),
        pytest.param(f"[keys.a]\nspec = {ENDLESS}", ["keys.a.spec: key spec 'int without end'"], id="spec-without-end"),
        pytest.param(f"[keys.a]\nwindow = {ENDLESS}", ["keys.a.window: 'int without end'"], id="window-without-end"),
        pytest.param(
            f"[keys]\na = {ENDLESS}", ["keys.a: a table is expected, got int without end"], id="key-without-end"
        ),
        pytest.param("[keys.a]\nspec = 32.0", ["keys.a.spec"], id="spec-fraction"),
        pytest.param("[keys.a]\nspec = true", ["keys.a.spec"], id="spec-flag"),
        pytest.param("[keys.a]\nspec = [32]", ["keys.a.spec"], id="spec-list"),
        pytest.param("[keys.a]\nspec = ''", ["keys.a.spec"], id="spec-empty"),
        pytest.param(f"[keys.a]\nspec = '{HUGE}'", ["keys.a.spec"], id="spec-of-5000-digits"),
        pytest.param("[keys.a]\nwindow = 'at night'", ["keys.a.window: 'at night' is not a window"], id="window-words"),
        pytest.param("[keys.a]\nwindow = 5", ["keys.a.window"], id="window-number"),
        pytest.param("[keys.a]\njitter_days = -1", ["keys.a.jitter_days"], id="jitter-negative"),
        pytest.param("[keys.a]\ncreate = 1", ["keys.a.create: true or false expected, got 1"], id="create-number"),
        pytest.param("[keys.a]\ncreate = 'yes'", ["keys.a.create"], id="create-word"),
    ],
)
def test_what_is_wrong(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


def test_every_problem_is_listed_at_once_with_its_place() -> None:
    found = problems(
        """
        [default]
        [defaults]
        grace_days = -1
        [keys.Bad]
        create = "yes"
        [keys.good]
        rotate_after_days = 0
        window = "never"
        colour = "red"
        """
    )
    assert [line.partition(": ")[0] for line in found] == [
        "default",
        "defaults.grace_days",
        "keys.Bad",
        "keys.Bad.create",
        "keys.good.colour",
        "keys.good.rotate_after_days",
        "keys.good.window",
    ]


@pytest.mark.parametrize(
    ("text", "tick", "expected"),
    [
        pytest.param("jitter_days = 90", None, "jitter_days 90 leaves nothing of 90 days", id="jitter-of-everything"),
        pytest.param("rotate_after_days = 5\njitter_days = 9", None, "jitter_days 9 leaves nothing", id="more-jitter"),
        pytest.param(
            "rotate_after_days = 1",
            Tick(timedelta(days=1), timedelta(minutes=30)),
            "cannot keep a limit of 1 days",
            id="ticks-too-rare",
        ),
        pytest.param(
            "rotate_after_days = 90",
            Tick(timedelta(days=91), timedelta(0)),
            "cannot keep a limit of 90 days",
            id="quarterly-cron-for-90-days",
        ),
        pytest.param("window = '02:00-02:30'", None, "can fall between two ticks", id="window-shorter-than-a-tick"),
        pytest.param(
            "window = 'Sat 02:00-06:00'",
            Tick(timedelta(days=1), timedelta(0)),
            "can fall between two ticks",
            id="window-shorter-than-daily-ticks",
        ),
        pytest.param(
            "rotate_after_days = 7\nwindow = 'Sat 02:00-03:00'", None, "is closed too long for 7 days", id="closed-long"
        ),
        pytest.param(
            "rotate_after_days = 9\njitter_days = 2\nwindow = 'Sat 02:00-03:00'",
            None,
            "is closed too long for 9 days",
            id="closed-too-long-with-jitter",
        ),
    ],
)
def test_what_contradicts_itself(text: str, tick: Tick | None, expected: str) -> None:
    assert any(line.startswith("keys.a: ") and expected in line for line in problems(f"[keys.a]\n{text}", tick=tick))


@pytest.mark.parametrize(
    ("text", "tick"),
    [
        pytest.param("rotate_after_days = 8\nwindow = 'Sat 02:00-06:00'", None, id="weekly-window-for-eight-days"),
        pytest.param("rotate_after_days = 1\nwindow = '02:00-06:00'\n", Tick(timedelta(minutes=10)), id="daily-window"),
        pytest.param("window = '02:00-03:00'", None, id="window-as-long-as-a-tick"),
        pytest.param("rotate_after_days = 90", Tick(timedelta(days=45), timedelta(0)), id="monthly-ticks"),
        pytest.param("rotate_after_days = 2\njitter_days = 1", None, id="jitter-of-half"),
    ],
)
def test_what_only_looks_like_a_contradiction(text: str, tick: Tick | None) -> None:
    assert parse(f"[keys.a]\n{text}", tick=tick).keys["a"]


def test_a_contradiction_between_defaults_and_key_is_found() -> None:
    (found,) = problems("[defaults]\njitter_days = 10\n[keys.a]\nrotate_after_days = 5\n[keys.b]")
    assert found.startswith("keys.a: jitter_days 10")


def test_a_name_must_fit_beside_the_prefix() -> None:
    name = "a" * 100
    assert parse(f"[keys.{name}]").keys
    (found,) = problems(f"[keys.{name}]", prefix="a-longer-prefix-")
    assert "100 characters" in found


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"[keys.a", id="no-bracket"),
        pytest.param(b"[keys.a]\n[keys.a]", id="twice"),
        pytest.param(b"[keys.a]\ncreate = yes", id="bare-word"),
        pytest.param(b"\xff\xfe[\x00k\x00", id="utf-16"),
        pytest.param(b"[keys.a]\nx = " + b"[" * 100_000, id="too-deep"),
        pytest.param(b"[keys.a]\nx = 2024-99-99", id="no-date"),
        pytest.param(f"[keys.a]\nrotate_after_days = {HUGE}".encode(), id="number-of-5000-digits"),
        pytest.param(b"#" * ((16 << 20) + 1), id="too-large"),
        pytest.param(b"\0", id="nul"),
        # tomllib would take hours.
        pytest.param(b".".join([b"a"] * 100_000) + b" = 1", id="a-key-of-100000-parts"),
        pytest.param(b"# .\n" * 3 + b"[" + b".".join([b"a"] * 100_000) + b"]", id="a-table-of-100000-parts"),
    ],
)
def test_what_is_no_toml_names_the_file(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.toml") as refused:
        parse_policy(data, tick=Tick(), source="policy.toml")
    assert refused.value.hint


def test_dots_in_comments_are_nobodys_business() -> None:
    assert parse(f"# {'.' * 500}\n  # {'.' * 500}\n[keys.a]\n").keys


def test_a_value_is_quoted_as_far_as_it_says_something() -> None:
    (found,) = problems(f"[keys]\na = [{'1,' * 9_000}]")
    assert found.startswith("keys.a: a table is expected, got [1, 1, 1")
    assert len(found) < 300
    (found,) = problems("[[keys.a]]\n" + ".".join(["a"] * 90) + " = 1")
    assert "a table is expected" in found


@given(st.binary(max_size=200))
def test_any_bytes_give_a_policy_or_a_clear_error(data: bytes) -> None:
    try:
        parse_policy(data, tick=Tick())
    except ConfigurationError as problem:
        refused = problem
    else:
        return
    assert refused.message
    assert refused.hint


_VALUES = st.one_of(
    st.integers(), st.booleans(), st.floats(), st.text("abAES-0123456789: ,", max_size=12), st.lists(st.integers())
)
_FIELDS = st.sampled_from(KeyPolicy.__struct_fields__)


@given(st.dictionaries(_FIELDS, _VALUES, max_size=4))
def test_any_values_give_a_policy_that_can_be_kept_or_a_clear_error(fields: dict[str, object]) -> None:
    text = "[keys.a]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in fields.items())
    try:
        policy = parse(text).keys["a"]
    except ConfigurationError:
        return
    assert 1 <= policy.rotate_after_days <= 3650
    assert policy.jitter_days < policy.rotate_after_days
    assert 16 <= policy.spec.length <= 1024
    assert policy.keep_versions is None or policy.keep_versions >= 0


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, (bool, float)) else repr(value)
