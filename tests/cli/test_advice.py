"""`cost` and `schedules`: advice from the policy alone. Nothing is opened, made, or asked of any cloud."""

import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .sandbox import BILLING, KEY, YOUNG, Result, Sandbox

EXAMPLE = (Path(__file__).parents[2] / "examples" / "daena-kms.toml").read_text()
PARTS = ["storage", "ticks", "rotations", "manifests", "kms", "readers"]
QUARTERLY = "0 0 1 */3 *"
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def example(tmp_path: Path) -> Sandbox:
    """The shipped example policy, and nothing else."""
    return Sandbox(tmp_path / "work", policy=EXAMPLE)


def nothing_was_made(box: Sandbox, *arguments: str, **environment: str) -> Result:
    before = box.digest()
    result = box.done(*arguments, **environment)
    assert box.digest() == before
    assert result.err == ""
    return result


# --- cost


def test_cost_has_a_line_for_each_store(example: Sandbox) -> None:
    lines = nothing_was_made(example, "cost").out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["local", "aws", "azure", "gcp"]
    assert lines[0].split()[1:] == ["0.00"] * 8
    text = "\n".join(lines)
    assert "an estimate; prices as of 2026-11-26; 3 keys, a tick every 60 minutes" in text
    for excluded in ("tax, free allowances", "the function and its schedule", "metrics and alarms"):
        assert excluded in text


def test_cost_as_a_document(example: Sandbox) -> None:
    told = nothing_was_made(example, "cost", "--json").json
    assert (told["currency"], told["prices_checked"], told["keys"], told["years"]) == ("USD", "2026-11-26", 3, 1)
    assert [store["provider"] for store in told["stores"]] == ["local", "aws", "azure", "gcp"]
    for store in told["stores"]:
        for bill in (store["first_month"], store["later_month"]):
            assert list(bill) == [*PARTS, "total"]
            assert bill["total"] == pytest.approx(sum(bill[part] for part in PARTS), abs=1e-5)
    assert "aws-secret" in told["prices_quoted"]
    assert told["excluded"]


def bills(box: Sandbox, *arguments: str, **environment: str) -> dict[str, float]:
    (store,) = box.done("cost", "--json", *arguments, **environment).json["stores"]
    return dict(store["first_month"])


def test_cost_of_one_store_with_readers_ticks_and_locations(example: Sandbox) -> None:
    plain = bills(example, "--provider", "gcp")
    assert plain["readers"] == 0
    assert bills(example, "--provider", "gcp", "--reads", "10000")["readers"] == pytest.approx(3 * 0.03)
    slower = bills(example, "--provider", "gcp", DAENA_TICK_MINUTES="120")
    assert slower["ticks"] == pytest.approx(plain["ticks"] / 2, abs=1e-5)
    two = bills(example, "--provider", "gcp", GCP_SECRET_LOCATIONS="europe-west1,europe-west4")
    assert two["storage"] == pytest.approx(2 * plain["storage"])


def test_the_pages_say_what_cost_prints_for_the_example(example: Sandbox) -> None:
    """A page that quotes the estimate is wrong as soon as the estimate is another."""
    page = (DOCS / "command-line.md").read_text()
    shown = page.partition("$ daena-key-rotate cost\n")[2].partition("\n```")[0]
    assert shown == example.done("cost").out.rstrip("\n")


@pytest.mark.parametrize(
    "arguments", [["--provider", "ibm"], ["--reads", "-1"], ["--reads", "many"], ["--years", "0"], ["--years", "51"]]
)
def test_cost_refuses_what_makes_no_sense(example: Sandbox, arguments: list[str]) -> None:
    assert example.run("cost", *arguments).status == 2


@pytest.mark.parametrize("command", ["cost", "schedules"])
def test_advice_needs_a_policy(tmp_path: Path, command: str) -> None:
    box = Sandbox(tmp_path / "work", policy="not a policy")
    result = box.run(command, "--json")
    assert result.status == 2
    assert result.json["error"]["kind"] == "ConfigurationError"


# --- schedules

GUIDES = {
    "cron": (QUARTERLY, "unix"),
    "EventBridge": ("cron(0 0 1 */3 ? *)", "aws"),
    "NCRONTAB": ("0 0 0 1 */3 *", "azure"),
}


@pytest.mark.parametrize(("text", "dialect"), GUIDES.values(), ids=GUIDES)
def test_the_guides_expressions_are_warned_of(empty: Sandbox, text: str, dialect: str) -> None:
    result = nothing_was_made(empty, "schedules", text)
    assert "longest gap: 92 days, from " in result.out
    assert f"  warning: {KEY}: rotated at each tick it gets 92 days old, from " in result.out
    told = empty.done("schedules", text, "--json").json
    assert (told["dialect"], told["longest"]["days"], told["needed_tick_minutes"]) == (dialect, 92, 132_480)
    assert {key["key"] for key in told["keys"]} == {KEY, BILLING, YOUNG}
    assert not any(key["kept"] for key in told["keys"])
    assert told["warnings"]


def test_the_guides_for_cloud_scheduler(empty: Sandbox) -> None:
    told = empty.done("schedules", QUARTERLY, "--dialect", "gcp", "--json").json
    assert (told["dialect"], told["longest"]["days"]) == ("gcp", 92)
    assert any("its job's time zone" in note for note in told["notes"])


def test_without_an_expression_it_shows_the_tick_that_is_set(empty: Sandbox) -> None:
    told = nothing_was_made(empty, "schedules", "--json").json
    assert (told["expression"], told["dialect"], told["tick_minutes"]) == ("", "", 60)
    assert told["longest"]["days"] == pytest.approx(1 / 24, abs=0.01)
    assert told["warnings"] == []
    assert all(key["kept"] for key in told["keys"])
    daily = nothing_was_made(empty, "schedules", DAENA_TICK_MINUTES="1440").out
    assert "longest gap: 1 day\n" in daily
    assert "warning" not in daily


def test_a_setting_that_fits_the_schedule_is_not_warned_of(empty: Sandbox) -> None:
    assert "set it to 44640" in empty.done("schedules", "0 0 1 * *").out
    assert "warning" not in empty.done("schedules", "0 0 1 * *", DAENA_TICK_MINUTES="44640").out


def test_a_window_that_no_tick_hits_is_warned_of(tmp_path: Path) -> None:
    box = Sandbox(tmp_path / "work", policy='[keys.a]\nwindow = "Sat 02:00-06:00"\n')
    result = box.done("schedules", "0 12 * * *")
    assert "no tick is sure to fall into its window" in result.out
    assert "never rotated" in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["not a schedule"], id="nonsense"),
        pytest.param([""], id="empty"),
        pytest.param(["at(2027-01-01T00:00:00)"], id="once"),
        pytest.param(["0 0 30 2 *"], id="never"),
        pytest.param(["0 0 1 */3 *", "--dialect", "aws"], id="another-dialect"),
        pytest.param(["--dialect", "aws"], id="no-expression"),
        pytest.param(["0", "0", "1", "*/3", "*"], id="no-quotes"),
        pytest.param(["0 0 1 * *", "--dialect", "vms"], id="unknown-dialect"),
    ],
)
def test_what_cannot_be_read(empty: Sandbox, arguments: list[str]) -> None:
    result = empty.run("schedules", *arguments)
    assert result.status == 2
    assert result.out == ""
    assert len(result.lines("error: ")) == len(result.lines("hint: ")) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("*?/-,#LW01359() @MONFEBratecron\t\x1b\u0660"), max_size=30))
def test_any_text_is_shown_or_refused_cleanly(empty: Sandbox, text: str) -> None:
    result = empty.run("schedules", "--json", "--", text)
    assert result.status in (0, 2)
    assert result.err == ""
    if result.status:
        assert result.json["error"]["kind"] == "ConfigurationError"


def test_the_page_shows_what_is_printed(empty: Sandbox) -> None:
    """All but the dates, which go on with the clock."""
    page = (DOCS / "command-line.md").read_text()
    shown = page.partition('$ daena-key-rotate schedules "0 0 1 */3 *"\n')[2].partition("\n```")[0]
    box = Sandbox(empty.folder, policy="[keys.daena-encryption-key]\n")
    printed = box.done("schedules", QUARTERLY).out
    assert shown
    for theirs, ours in zip(shown.splitlines(), printed.splitlines(), strict=True):
        assert (
            shlex.split(theirs.replace("'", "").replace("`", ""))[0]
            == shlex.split(ours.replace("'", "").replace("`", ""))[0]
        )
    assert _undated(shown) == _undated(printed)


def _undated(text: str) -> list[str]:
    return [word for word in text.split() if not word[:4].isdigit()]
