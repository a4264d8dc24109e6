"""The clock of the load campaign, and the quotas that doubles enforce on it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import botocore.retries.bucket
import pytest
from azure.core.pipeline.transport import RequestsTransport
from google.api_core import exceptions
from google.api_core.retry import Retry

from daena_kms import app, many
from tests.support.quotas import Limit, Quotas
from tests.support.virtual_time import VirtualTime

LONG = 1_000_000.0


@pytest.fixture
def clock() -> VirtualTime:
    return VirtualTime(0.0)


def test_a_long_sleep_takes_no_time(clock: VirtualTime) -> None:
    begun = time.monotonic()
    with clock.taking_part():
        clock.sleep(LONG)
    assert clock.monotonic() == clock.time() == LONG
    assert clock.now() == datetime(1970, 1, 12, 13, 46, 40, tzinfo=UTC)
    assert time.monotonic() - begun < 5


def test_everybody_wakes_in_the_order_of_his_time_and_never_before(clock: VirtualTime) -> None:
    woken: list[tuple[float, float]] = []

    def work(number: int) -> None:
        due = 0.0
        for step in range(5):
            seconds = (number * 7 + step * 3) % 11 + 1
            due += seconds
            clock.sleep(seconds)
            woken.append((due, clock.monotonic()))

    clock.each(range(8), work, 8)
    assert len(woken) == 40
    assert all(due == at for due, at in woken)
    assert woken == sorted(woken)


def test_time_stands_still_while_somebody_works(clock: VirtualTime) -> None:
    at_work, seen = threading.Event(), list[float]()

    def work(number: int) -> None:
        if number:
            clock.sleep(1.0)
            return
        at_work.set()
        time.sleep(0.05)  # as one who waits for a server does
        seen.append(clock.monotonic())

    clock.each(range(4), work, 4)
    assert at_work.is_set()
    assert seen == [0.0]
    assert clock.monotonic() == 1.0


def test_one_works_at_a_time(clock: VirtualTime) -> None:
    at_work, most = [0], [0]

    def work(_: int) -> None:
        clock.sleep(1.0)
        for _ in range(20):
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            time.sleep(0)
            at_work[0] -= 1
            clock.sleep(0.5)

    clock.each(range(8), work, 8)
    assert most == [1]


@pytest.mark.parametrize(("items", "threads"), [(0, 3), (1, 3), (3, 3), (50, 3), (7, 1)])
def test_work_for_many_takes_as_long_as_its_threads_need(clock: VirtualTime, items: int, threads: int) -> None:
    def work(item: int) -> int:
        clock.sleep(1.0)
        return item

    with clock.taking_part():
        assert clock.each(range(items), work, threads) == list(range(items))
        assert clock.monotonic() == -(-items // threads)
        clock.sleep(1.0)
    assert clock.monotonic() == -(-items // threads) + 1


def test_nobody_gains_time_while_the_caller_of_a_pool_is_told_its_results(clock: VirtualTime) -> None:
    """Another, who sleeps and wakes all the time, makes it run as soon as nobody else is counted as awake."""
    over, there = threading.Event(), threading.Event()

    def restless() -> None:
        with clock.taking_part():
            there.set()
            while not over.is_set():
                clock.sleep(0.001)

    other = threading.Thread(target=restless)
    with clock.taking_part():
        other.start()
        there.wait()
        for _ in range(50):
            clock.each(range(4), lambda _: clock.sleep(1.0), 4)
        assert clock.monotonic() == pytest.approx(50.0, abs=0.2)
        over.set()
        clock.sleep(0.01)
        other.join()


def test_an_error_in_the_work_comes_out_and_time_goes_on(clock: VirtualTime) -> None:
    def work(number: int) -> None:
        clock.sleep(1.0)
        if number == 2:
            raise ValueError(number)

    with clock.taking_part():
        with pytest.raises(ValueError, match="2"):
            clock.each(range(5), work, 2)
        clock.sleep(1.0)
    assert clock.monotonic() == 4.0


def test_who_takes_no_part_sleeps_in_real_time(clock: VirtualTime) -> None:
    begun = time.monotonic()
    clock.sleep(0.02)
    assert time.monotonic() - begun >= 0.02
    assert clock.monotonic() == 0.0


def test_the_library_and_the_sdks_live_in_it(clock: VirtualTime) -> None:
    root: Any = app  # whose clock, and whose pool of threads, are names of no one else's
    pools: Any = many
    now = root.utc_now
    with clock.installed(), clock.taking_part():
        root.time.sleep(100.0)
        assert root.time.monotonic() == root.time.time() == 100.0
        assert root.utc_now() == clock.now()
        many.each(range(4), lambda _: root.time.sleep(10.0), 2)
        assert clock.monotonic() == 120.0
        RequestsTransport().sleep(30.0)
        assert clock.monotonic() == 150.0
    assert pools.ThreadPoolExecutor is ThreadPoolExecutor
    assert root.time is time
    assert root.utc_now is now


def test_google_s_retries_live_in_it(clock: VirtualTime) -> None:
    asked: list[float] = []

    unavailable: Any = exceptions.ServiceUnavailable

    def ask() -> None:
        asked.append(clock.monotonic())
        raise unavailable("no")

    with clock.installed(), clock.taking_part(), pytest.raises(exceptions.RetryError):
        Retry(initial=100.0, maximum=100.0, timeout=1_000.0)(ask)()
    assert len(asked) > 5
    assert 500 < clock.monotonic() <= 1_000


def test_botocore_s_leave_to_send_lives_in_it(clock: VirtualTime) -> None:
    with clock.installed(), clock.taking_part():
        bucket: Any = botocore.retries.bucket.TokenBucket(max_rate=0.5, clock=botocore.retries.bucket.Clock())
        for _ in range(10):
            bucket.acquire()
    assert clock.monotonic() == pytest.approx(20.0, abs=2.0)


# --- quotas


def quotas(clock: VirtualTime, **how: bool) -> Quotas:
    limits = [Limit("writes", frozenset({"put", "move"}), 3, 10.0), Limit("all else", frozenset(), 5, 10.0)]
    return Quotas(limits, clock.monotonic, **how)


def test_exactly_so_many_are_let_through_and_then_refused(clock: VirtualTime) -> None:
    made = quotas(clock)
    asked = [made.over(call) for call in ("put", "move", "put", "put", "move")]
    assert [over is not None for over in asked] == [False, False, False, True, True]
    assert [made.over("get") is not None for _ in range(6)] == [False] * 5 + [True]
    assert made.passed == {"writes": 3, "all else": 5}
    assert made.refused == {"writes": 2, "all else": 1}


def test_what_was_spent_comes_back_when_its_time_is_over_and_not_before(clock: VirtualTime) -> None:
    made = quotas(clock)
    limit = Limit("writes", frozenset({"put", "move"}), 3, 10.0)
    with clock.taking_part():
        for _ in range(3):
            assert made.over("put") is None
            clock.sleep(1.0)
        assert made.over("put") == limit
        assert made.frees(limit) == 7.0
        clock.sleep(6.75)
        assert made.over("put") == limit, "what is refused is not spent"
        clock.sleep(0.25)
        assert made.frees(limit) == 0.0
        assert made.over("put") is None
        assert made.over("put") == limit, "one came back"
        clock.sleep(1.0)
        assert made.over("put") is None


def test_apart_each_has_the_limit_for_itself(clock: VirtualTime) -> None:
    made = quotas(clock, apart=True)
    assert [made.over(call) is None for call in ("put",) * 4 + ("move",) * 4] == [True] * 3 + [False] + [True] * 3 + [
        False
    ]


def test_a_call_under_no_limit_passes(clock: VirtualTime) -> None:
    made = Quotas([Limit("writes", frozenset({"put"}), 0, 10.0)], clock.monotonic)
    assert made.over("get") is None
    assert made.over("put") is not None
