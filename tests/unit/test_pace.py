"""Turns: so many in so many seconds, in the order of asking, and nobody waits for one that comes too late."""

import threading

import pytest

from daena_kms.model import Status
from daena_kms.stores import aws_secrets
from daena_kms.stores.pace import Pace
from tests.support import aws_world
from tests.support.aws_scene import Scene
from tests.support.virtual_time import VirtualTime


class Slow:
    """A clock that sleeps move, and that each look at it moves a little."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.mark.parametrize(("most", "seconds"), [(1, 0.5), (3, 1.0), (300, 10.0)])
def test_so_many_pass_in_so_many_seconds_and_not_one_more(most: int, seconds: float) -> None:
    clock = Slow(0.001)
    pace, passed = Pace(most, seconds, clock, clock.sleep), []
    for _ in range(4 * most):
        assert pace.wait()
        passed.append(clock.now)
    for first, later in zip(passed, passed[most:], strict=False):
        assert later - first >= seconds - 1e-9
    assert passed[-1] < 3 * seconds + most * 0.002, "and nobody waits longer than that"


def test_a_turn_that_is_too_far_away_is_not_taken() -> None:
    clock = Slow()
    pace = Pace(1, 10.0, clock, clock.sleep)
    assert pace.wait()
    assert not pace.wait(9.9)
    assert clock.now == 0.0
    assert pace.wait(10.0)
    assert clock.now == 10.0, "the turn that was not taken is another's"


def test_turns_are_given_in_the_order_of_asking() -> None:
    clock = VirtualTime(0.0)
    pace, passed = Pace(1, 1.0, clock.monotonic, clock.sleep), list[tuple[int, float]]()

    def ask(number: int) -> None:
        clock.sleep(number / 1000)
        pace.wait()
        passed.append((number, clock.monotonic()))

    clock.each(range(20), ask, 20)
    assert [number for number, _ in passed] == list(range(20))
    assert [at for _, at in passed] == pytest.approx(range(20), abs=0.001)


def test_aws_is_written_to_at_less_than_its_quota() -> None:
    clock = Slow()
    aws_world.emptied()
    scene = Scene()
    scene.rotate()
    pace = Pace(aws_secrets.WRITES, aws_secrets.PER_SECONDS, clock, clock.sleep)
    scene.aws._secrets._pace = pace
    pace.wait()
    assert scene.force().status is Status.ROTATED
    assert clock.now == pytest.approx(2 / 47), "PutSecretValue and UpdateSecretVersionStage; tags have another quota"
    assert 45 <= aws_secrets.WRITES / aws_secrets.PER_SECONDS < 50


def test_threads_that_wait_are_all_let_pass() -> None:
    passed, lock = [0], threading.Lock()
    clock = VirtualTime(0.0)
    pace = Pace(5, 1.0, clock.monotonic, clock.sleep)

    def ask(_: int) -> None:
        pace.wait()
        with lock:
            passed[0] += 1

    clock.each(range(100), ask, 16)
    assert passed == [100]
    assert clock.monotonic() == pytest.approx(19.0)
