"""The protocol holds under every interleaving of a few runs, and no rule of it can be spared."""

import pytest

from .engine import Rule, Setting
from .exploration import Explorer, Result

STEPS = {"Claiming", "TakeOver", "Stage", "Verify", "Promote", "Finish", "Tidy", "Look", "Done"}
# How many states there are at least, and which further steps are taken in some: so that an exploration that ends early
# for a wrong reason, or never meets a late writer, cannot pass.
EXPLORATIONS = {
    "fenced, basic": (Setting(fenced=True), 20_000, set[str]()),
    "fenced, split looks": (Setting(fenced=True, split_looks=True), 30_000, set[str]()),
    "fenced, failing checks": (Setting(fenced=True, failing_checks=True), 100_000, {"Adopt", "Discard", "Refuse"}),
    "fenced, creation": (Setting(fenced=True, failing_checks=True, creation=True), 20_000, {"Adopt", "Discard"}),
    "fenced, delivered twice": (Setting(fenced=True, same_request=True), 6_000, set[str]()),
    "fenced, three runs": (Setting(fenced=True, same_request=True, runs=3), 300_000, {"Adopt"}),
    "unfenced, basic": (Setting(fenced=False), 200_000, {"Adopt", "Republish"}),
    "unfenced, split looks": (Setting(fenced=False, split_looks=True), 300_000, {"Adopt", "Republish"}),
    "unfenced, failing checks": (
        Setting(fenced=False, failing_checks=True),
        500_000,
        {"Adopt", "Republish", "Discard", "Refuse"},
    ),
    "unfenced, creation": (Setting(fenced=False, failing_checks=True, creation=True), 80_000, {"Adopt", "Discard"}),
    "unfenced, delivered twice": (Setting(fenced=False, same_request=True), 40_000, {"Adopt", "Republish"}),
}
NEEDED = [
    Setting(fenced=True, without=Rule.CLAIM),
    Setting(fenced=True, without=Rule.PLANNED),
    Setting(fenced=True, without=Rule.BURN),
    Setting(fenced=True, without=Rule.SCAN),
    # With compare-and-set, readers get what the manifest does not say only where the claim that follows was discarded.
    Setting(fenced=True, without=Rule.HEAL, failing_checks=True),
    Setting(fenced=False, without=Rule.CLAIM),
    Setting(fenced=False, without=Rule.BURN),
    Setting(fenced=False, without=Rule.SCAN),
    Setting(fenced=False, without=Rule.HEAL),
]


def told(result: Result) -> str:
    """The problem and how it came about."""
    return "\n  ".join([result.problem, *result.story])


# `make faults` explores settings that include these.
LONGEST = {
    "fenced, three runs", "fenced, failing checks", "unfenced, split looks", "unfenced, failing checks",
    "unfenced, creation",
}  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "floor", "further"),
    [
        pytest.param(*each, id=name, marks=[pytest.mark.thorough] if name in LONGEST else [])
        for name, each in EXPLORATIONS.items()
    ],
)
def test_no_interleaving_breaks_an_invariant(setting: Setting, floor: int, further: set[str]) -> None:
    result = Explorer(setting).explore()
    assert not result.problem, told(result)
    assert result.states > floor
    assert result.steps >= STEPS | further


@pytest.mark.parametrize("setting", NEEDED, ids=lambda s: f"{s.kind}, without {s.without}")
def test_no_rule_can_be_spared(setting: Setting) -> None:
    result = Explorer(setting).explore()
    assert result.problem
    assert result.story


def test_a_violation_is_told_from_the_beginning() -> None:
    result = Explorer(Setting(fenced=True, without=Rule.PLANNED)).explore()
    assert result.problem == "what readers get went back from 3 to 2"
    assert result.story[0].endswith("looks")
    assert result.story[-1].endswith("promotes 2a")
