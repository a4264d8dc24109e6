"""Policy files and settings that nobody in his right mind has written: in the library, and through the command.

There is no option that names a policy: DAENA_POLICY does, and `--from`/`--to` name files of settings.
"""

import os
import string
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from daena_kms import app
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.policy import Tick, parse_policy
from daena_kms.settings import SETTINGS, Settings, read_settings
from daena_kms.window import Window
from tests.cli.sandbox import Result, Sandbox

from ..units import Room
from .harness import require, sensible, tried
from .shapes import Cut, cut, cuts, texts

VALID = b"""# what every key has
[defaults]
rotate_after_days = 30
grace_days = 7
keep_versions = "all"
destroy_after_days = 30

[keys.daena-encryption-key]
create = true
spec = "AES-256"
window = "Sat,Sun 02:00-06:00"

[keys.billing-key]
rotate_after_days = 90
keep_versions = 3
jitter_days = 5

[keys.session-key]
spec = 48
destroy_after_days = "never"
create = true
"""
PLAIN = "[keys.a-key]\ncreate = true\n[keys.b-key]\ncreate = true\n"
STATUSES = (0, 1, 2, 3)
_FIELDS = (
    "rotate_after_days", "grace_days", "keep_versions", "destroy_after_days", "spec", "window", "jitter_days", "create",
    "rotate_after", "defaults", "keys",
)  # fmt: skip
_FIGURES = st.sampled_from(
    [
        "0x" + "f" * 4000,
        "0b" + "1" * 20_000,
        "0o7777",
        "9" * 4000,
        "9" * 5000,
        "1e400",
        "-0.0",
        "nan",
        "inf",
        "1_0",
        "+3",
    ]
)
_TIMES = st.sampled_from(
    ["1979-05-27T07:32:00Z", "0001-01-01", "9999-12-31T23:59:59-14:00", "07:32:00", "2026-02-30", "00:00:00.999999"]
)


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return f'"{escaped}"'


_words: SearchStrategy[str] = st.one_of(
    texts.map(_quoted),
    texts.map(lambda text: f"'{text}'"),
    texts.map(lambda text: f'"""{text}"""'),
    st.sampled_from(['"AES-256"', '"Mon-Fri 22:00-02:00"', '"24:00-25:00"', '"all"', '"never"', "true", "false"]),
    st.integers().map(str),
    _FIGURES,
    _TIMES,
)
_terms: SearchStrategy[str] = st.recursive(
    _words,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda held: f"[{', '.join(held)}]")
        | st.lists(inner, max_size=3).map(lambda held: "{" + ", ".join(f"a{n}={t}" for n, t in enumerate(held)) + "}")
    ),
    max_leaves=5,
) | st.sampled_from(["[" * 400 + "]" * 400, "[" * 40_000, "{a=" * 400 + "1" + "}" * 400, "[[1,"])
_names = st.one_of(
    st.sampled_from(_FIELDS), texts.map(_quoted), st.text(string.ascii_lowercase + "-.", min_size=1, max_size=12)
)
_lines: SearchStrategy[str] = st.one_of(
    st.builds(lambda name, term: f"{name} = {term}", _names, _terms),
    st.builds(lambda name: f"[keys.{name}]", _names),
    st.builds(lambda name: f"[[keys.{name}]]", _names),
    st.builds(lambda name: f"[{name}]", _names),
    texts,
    st.sampled_from(["[keys]", "[defaults]", ".".join(["a"] * 2_000) + " = 1", "[" + ".".join(["k"] * 2_000) + "]"]),
)
files: SearchStrategy[bytes] = st.one_of(
    st.lists(_lines, max_size=8).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass")),
    st.lists(_lines, min_size=1, max_size=3).map(
        lambda lines: b"[keys.a-key]\n" + "\n".join(lines).encode(errors="surrogatepass")
    ),
    cuts.map(lambda changes: cut(VALID, changes)),
    st.binary(max_size=60),
)


def policies(room: Room, most: int) -> None:
    """Files, parsed."""

    def check(data: bytes) -> None:
        try:
            parse_policy(data, tick=Tick())
        except ConfigurationError as problem:
            sensible(problem)
            require(problem.hint, f"without a hint: {problem.message[:200]}")

    tried(room, "a policy file", files, check, most=most)


# --- settings

_KNOWN = [setting.name for setting in SETTINGS]


def _holdable(text: str) -> bool:
    """True for what an environment can hold: any bytes but one of them, which Python shows in its own way."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


_setting_names = st.one_of(
    st.sampled_from(_KNOWN),
    st.sampled_from(_KNOWN).map(lambda name: name + "S"),
    texts.filter(_holdable).map(lambda text: f"DAENA_{text}"),
)
_setting_values: SearchStrategy[str] = st.one_of(
    texts.filter(_holdable),
    st.binary(max_size=8).map(lambda data: data.decode(errors="surrogateescape")),
    st.sampled_from(
        ["aws", "local", "gcp", "azure", "AWS", "15", "-1", "1" * 400, "٣", "file:///a%00b", "file:///%ff"]
    ),
    st.sampled_from(
        ["age1", "ssh-ed25519 AAAA", "https://a.vault.azure.net", "http://[::1", "file://[", "gs://", "s3://"]
    ),
)
_environments: SearchStrategy[dict[str, str]] = st.dictionaries(_setting_names, _setting_values, max_size=5)


def settings(room: Room, most: int) -> None:
    """Environments, read; and what reads a policy and opens a folder of manifests under them, without writing."""

    def check(environment: Mapping[str, str]) -> None:
        made = _settings(environment)
        # What names a place in a cloud would ask the network.
        local = made is not None and not made.policy.startswith(("s3:", "gs:", "http:", "https:"))
        if made is None or not local or app.manifests_in_a_cloud(made):
            return
        for do in (lambda: app.load_policy(made), lambda: app.open_ledger(made, app.Clouds(made))):
            _without_writing(do)

    tried(room, "settings", _environments, check, most=most)


def opened(room: Room, most: int) -> None:
    """The local store, opened under settings that are wrong in one place, as a command does that only looks."""
    box = Sandbox(room.folder / "opened", policy=PLAIN)
    box.done("rotate")
    home = {"DAENA_HOME": str(box.home), "DAENA_POLICY": str(box.folder / "daena-kms.toml")}
    narrow = st.sampled_from(
        ["DAENA_HOME", "DAENA_POLICY", "DAENA_MANIFEST_URL", "DAENA_LOCAL_KEK", "DAENA_LOCAL_PASSPHRASE",
         "DAENA_PUBLIC_KEY", "DAENA_KEY_PREFIX"]
    )  # fmt: skip

    def check(wrong: tuple[str, str]) -> None:
        made = _settings(home | dict([wrong]))
        if made is None or made.policy.startswith(("s3:", "gs:", "http:", "https:")) or app.manifests_in_a_cloud(made):
            return
        _without_writing(lambda: app.open_service(made, trigger="fuzz", writes=False))

    tried(room, "a store under wrong settings", st.tuples(narrow, _setting_values.filter(_holdable)), check, most=most)


def _settings(environment: Mapping[str, str]) -> Settings | None:
    try:
        return read_settings(environment)
    except ConfigurationError as problem:
        sensible(problem)
        require(problem.hint, "without a hint")
        return None


def _without_writing(do: Any) -> None:
    try:
        do()
    except KmsError as problem:
        sensible(problem)


def settings_files(room: Room, most: int) -> None:
    """Files that `--from` names."""
    lines = st.one_of(
        st.builds(lambda name, value: f"{name}={value}", _setting_names, _setting_values),
        st.builds(lambda name, value: f"export {name}='{value}'", _setting_names, _setting_values),
        texts,
    )

    def check(written: list[str]) -> None:
        text = "\n".join(written)
        try:
            app.other_settings(text)
        except ConfigurationError as problem:
            sensible(problem)
            require(problem.hint, "without a hint")

    tried(room, "a settings file", st.lists(lines, max_size=5), check, most=most)


def windows(room: Room, most: int) -> None:
    """Windows: a regular expression is what hangs most easily."""
    parts = st.sampled_from(
        [
            "mon",
            "Sat",
            ",",
            "-",
            " ",
            "02:00",
            "-04:00",
            "24:00",
            "monday",
            "  ",
            ",,",
            "²",
            "\u0660\u0661:\u0660\u0660",
        ]
    )
    text = st.one_of(st.lists(parts, max_size=12).map("".join), st.integers(1, 20_000).map(lambda n: "a," * n), texts)

    def check(written: str) -> None:
        try:
            Window.parse(written)
        except ConfigurationError as problem:
            sensible(problem)

    tried(room, "a window", text, check, most=most)


# --- the command


def command(room: Room, most: int) -> None:
    """The command under such a policy, or with such a settings file: status 2, a message, no traceback."""
    box = Sandbox(room.folder / "command", policy=PLAIN)
    box.done("rotate")
    policy, other = box.folder / "daena-kms.toml", box.folder / "other.env"
    asked = st.sampled_from(
        [("plan",), ("status",), ("rotate", "--dry-run"), ("plan", "--json"), ("migrate", "--from", "f")]
    )
    before = box.digest()

    def check(example: tuple[bytes, tuple[str, ...]]) -> None:
        data, arguments = example
        if arguments[0] == "migrate":
            other.write_bytes(data)
            result = box.run("migrate", "--from", str(other), "--dry-run")
        else:
            policy.write_bytes(data)
            result = box.run(*arguments)
        ended(result, len(data))
        other.unlink(missing_ok=True)
        policy.write_text(PLAIN)
        require(box.digest() == before, f"{arguments} changed something, and ended with {result.status}")

    tried(room, "the command under a policy", st.tuples(files, asked), check, most=most, shrinks=False)


def ended(result: Result, size: int = 0) -> None:
    """A command came to an end that is one of its own: a status, and words."""
    require(result.status in STATUSES, f"ended with {result.status}")
    require("Traceback (most recent" not in result.out + result.err, "a traceback was printed")
    require(len(result.out + result.err) < 200_000 + 50 * size, "what it prints is without bound")
    if result.status == 2:
        require(result.err.strip() or result.out.strip(), "status 2 without a word")


__all__ = ["Cut", "ended", "files"]
