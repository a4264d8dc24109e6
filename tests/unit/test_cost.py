"""What `cost` reckons: by hand for small cases, and with every price's source."""

from datetime import date, timedelta
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daena_kms import cost
from daena_kms.cost import COUNTED, Asked, Bill, Calls, StoreCost
from daena_kms.errors import ConfigurationError
from daena_kms.names import PROVIDERS
from daena_kms.policy import KeyPolicy

PRICES = cost.parse_prices((files("daena_kms") / "prices.toml").read_bytes())
HOUR = timedelta(hours=1)
TICKS = 730  # a month's hours
DAYS_90 = KeyPolicy()


def asked(*keys: KeyPolicy, reads: int = 0, years: int = 1, locations: int = 1, interval: timedelta = HOUR) -> Asked:
    return Asked(keys, interval, reads, years, locations)


def reckoned(provider: str, wanted: Asked) -> StoreCost:
    (found,) = cost.estimate(wanted, PRICES, [provider]).stores
    return found


# --- prices


def test_every_price_has_a_date_a_unit_and_a_source() -> None:
    assert PRICES.checked >= date(2026, 11, 1)
    for name, price in PRICES.prices.items():
        assert price.usd > 0, name
        assert price.per in (1, 1_000, 10_000), name
        assert price.unit, name
        assert price.source.startswith("https://" if price.standing != "guide" else "the guide"), name


def test_nothing_is_reckoned_with_a_price_that_only_the_guide_has() -> None:
    used = {name for names in cost._USED.values() for name in names}
    assert used <= set(PRICES.prices)
    unused = {name for name, price in PRICES.prices.items() if name not in used}
    assert unused == {"azure-vault-premium-call", "gcp-secret", "gcp-rotation-notification"}
    assert {name for name, price in PRICES.prices.items() if price.standing == "guide"} <= unused


def test_what_only_third_parties_say_is_told() -> None:
    assert cost.estimate(asked(DAYS_90), PRICES, ["gcp"]).quoted == ()
    quoted = cost.estimate(asked(DAYS_90), PRICES, PROVIDERS).quoted
    assert "aws-secret" in quoted
    assert "azure-vault-call" in quoted
    assert "aws-kms-key" not in quoted


@pytest.mark.parametrize("data", [b"\xff", b"nonsense", b"checked = 1", b"checked = 2026-01-01\nprices = 3"])
def test_a_list_of_prices_that_is_none(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the list of prices cannot be read"):
        cost.parse_prices(data)


# --- by hand


def test_a_key_on_aws_by_hand() -> None:
    first = reckoned("aws", asked(DAYS_90)).first
    rotations = 730 / (90 * 24)
    assert first.storage == pytest.approx(2 * 0.40)  # the key, and the manifests' keys
    assert first.ticks == pytest.approx(TICKS * 3 * 0.05 / 10_000)
    assert first.rotations == pytest.approx(rotations * 4 * 0.05 / 10_000)
    assert first.manifests == pytest.approx((TICKS * 3 + rotations) * 0.0004 / 1000 + rotations * 2 * 0.005 / 1000)
    assert first.kms == pytest.approx(1 + (TICKS + rotations * 2) * 0.03 / 10_000)
    assert first.readers == 0
    parts = (first.storage, first.ticks, first.rotations, first.manifests, first.kms)
    assert first.total() == pytest.approx(sum(parts))


def test_a_key_on_azure_by_hand() -> None:
    first = reckoned("azure", asked(DAYS_90)).first
    rotations = 730 / (90 * 24)
    assert first.storage == first.kms == 0
    assert first.ticks == pytest.approx(TICKS * 4 * 0.03 / 10_000)
    assert first.rotations == pytest.approx(rotations * 7 * 0.03 / 10_000)
    assert first.manifests == pytest.approx(
        (TICKS * 3 + rotations * 2) * 0.0043 / 10_000 + rotations * 2 * 0.054 / 10_000
    )


def test_a_key_on_gcp_by_hand() -> None:
    first = reckoned("gcp", asked(DAYS_90)).first
    rotations = 730 / (90 * 24)
    assert first.storage == pytest.approx(2 * 0.06)
    assert first.ticks == pytest.approx(TICKS * 4 * 0.03 / 10_000)
    assert first.rotations == pytest.approx(rotations * 3 * 0.03 / 10_000)
    assert first.kms == 0


def test_the_local_store_costs_nothing() -> None:
    found = reckoned("local", asked(DAYS_90, reads=10**9, years=50))
    assert found == StoreCost("local", Bill(), Bill(), 0.0)


def test_making_a_key_once() -> None:
    aws = reckoned("aws", asked(DAYS_90, DAYS_90)).creation
    one = 6 * 0.05 / 10_000 + 2 * 0.03 / 10_000 + 3 * 0.005 / 1000 + 0.0004 / 1000
    assert aws == pytest.approx(2 * one)


# --- what grows


@pytest.mark.parametrize(
    ("policy", "years", "expected"),
    [
        pytest.param(DAYS_90, 0, 1, id="today"),
        pytest.param(DAYS_90, 1, 5, id="90-days"),
        pytest.param(KeyPolicy(rotate_after_days=365), 1, 2, id="on-the-day"),
        pytest.param(KeyPolicy(rotate_after_days=366), 1, 1, id="not-yet"),
        pytest.param(KeyPolicy(rotate_after_days=90, jitter_days=60), 1, 7, id="jitter-shortens-by-its-half"),
        pytest.param(KeyPolicy(rotate_after_days=1), 50, 18251, id="daily-for-50-years"),
    ],
)
def test_versions_after_years(policy: KeyPolicy, years: int, expected: int) -> None:
    assert cost.versions(policy, years) == expected


@pytest.mark.parametrize(("number", "expected"), [(1, 0), (16, 0), (17, 1), (32, 1), (33, 2), (48, 2), (49, 3)])
def test_archives_on_aws(number: int, expected: int) -> None:
    assert cost.archives(number) == expected


def test_what_is_kept_on_aws_grows_by_archives_alone() -> None:
    assert reckoned("aws", asked(DAYS_90, years=3)).later.storage == pytest.approx(0.80)  # 13 versions
    assert reckoned("aws", asked(DAYS_90, years=4)).later.storage == pytest.approx(1.20)  # 17


def test_the_kms_keys_material_is_charged_twice_at_most() -> None:
    of = [reckoned("aws", asked(DAYS_90, years=years)).later.kms for years in (1, 2, 3, 9)]
    assert [round(each) for each in of] == [2, 3, 3, 3]


def test_every_version_is_kept_on_gcp_and_each_location_counts() -> None:
    """What is merely disabled is charged too, so `keep_versions` saves nothing there."""
    assert reckoned("gcp", asked(DAYS_90, years=1)).later.storage == pytest.approx(6 * 0.06)
    few = KeyPolicy(keep_versions=1)
    assert reckoned("gcp", asked(few, years=1)).later.storage == pytest.approx(6 * 0.06)
    assert reckoned("gcp", asked(DAYS_90, locations=3)).first.storage == pytest.approx(2 * 3 * 0.06)


def test_readers_cost_what_they_read() -> None:
    wanted = asked(DAYS_90, DAYS_90, reads=10_000)
    assert reckoned("aws", wanted).first.readers == pytest.approx(2 * (0.05 + 0.03))
    assert reckoned("azure", wanted).first.readers == pytest.approx(2 * 0.03)
    assert reckoned("gcp", wanted).first.readers == pytest.approx(2 * 0.03)


def test_slower_ticks_cost_less() -> None:
    hourly = reckoned("gcp", asked(DAYS_90)).first.ticks
    assert reckoned("gcp", asked(DAYS_90, interval=timedelta(days=1))).first.ticks == pytest.approx(hourly / 24)


@given(st.sampled_from(PROVIDERS), st.integers(1, 400), st.integers(1, 20), st.integers(0, 3))
def test_more_is_never_cheaper(provider: str, days: int, years: int, keep: int) -> None:
    plain, few = KeyPolicy(rotate_after_days=days), KeyPolicy(rotate_after_days=days, keep_versions=keep)
    one, two = (reckoned(provider, asked(*keys, years=years)) for keys in ([plain], [plain, few]))
    assert two.first.total() >= one.first.total()
    assert one.later.total() >= one.first.total() - 1e-9
    assert two.creation >= one.creation >= 0


# --- pages of listings


@pytest.mark.parametrize(
    ("provider", "keys", "pages"),
    [("aws", 1, 1), ("aws", 100, 1), ("aws", 101, 2), ("azure", 12, 1), ("azure", 13, 2), ("azure", 1000, 81)],
)
def test_pages_of_a_listing(provider: str, keys: int, pages: int) -> None:
    assert cost.tick_calls(provider, keys).store == COUNTED[provider].tick.store + pages


def test_on_gcp_each_key_is_looked_at_and_the_listing_is_free() -> None:
    calls = cost.tick_calls("gcp", 1001)
    assert calls.store == COUNTED["gcp"].tick.store + 1001
    assert calls.free == COUNTED["gcp"].tick.free + 2


def test_archives_are_listed_too() -> None:
    assert cost.tick_calls("aws", 99, archives=2).store == cost.tick_calls("aws", 99).store + 1


def test_calls_add_up() -> None:
    assert Calls(1, 2, 3, 4, 5).total() == 15
    assert cost._sum(Calls(store=1), Calls(store=2, reads=3)) == Calls(store=3, reads=3)
