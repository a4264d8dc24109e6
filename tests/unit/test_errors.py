"""An error fits into a log, whatever it quotes."""

import pickle

import pytest

from daena_kms.errors import LONGEST_MESSAGE, KmsError, NotFoundError


@pytest.mark.parametrize("length", [0, 5, LONGEST_MESSAGE])
def test_what_fits_is_told_as_it_is(length: int) -> None:
    problem = KmsError("m" * length, "h" * length)
    assert (problem.message, problem.hint, str(problem)) == ("m" * length, "h" * length, "m" * length)


def test_of_what_is_too_long_the_beginning_is_told() -> None:
    problem = NotFoundError("a key " + "k" * 60_000, "h" * 20_000)
    assert len(problem.message) == len(problem.hint) == LONGEST_MESSAGE
    assert problem.message.startswith("a key kkk")
    assert problem.message.endswith("k… (60,006 characters in all)")
    again = pickle.loads(pickle.dumps(problem))  # noqa: S301  # our own
    assert (again.message, again.hint) == (problem.message, problem.hint)
