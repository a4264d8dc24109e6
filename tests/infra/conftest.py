"""What takes a minute by itself begins before the first test, and its tests come last."""

import pytest

from . import aws_ministack

LATE = "test_aws_ministack"


def _is_late(item: pytest.Item) -> bool:
    return item.path.stem == LATE


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_late)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(map(_is_late, session.items)):
        aws_ministack.begin()


def pytest_sessionfinish() -> None:
    aws_ministack.end()
