"""The README shows what is there."""

import re
from pathlib import Path

from daena_kms.cli import cli
from daena_kms.model import Status
from daena_kms.settings import settings_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_the_codes_own() -> None:
    assert settings_table() in README


def test_every_command_that_it_shows_exists() -> None:
    shown = set(re.findall(r"daena-key-rotate ([a-z]+)", README))
    assert shown
    assert shown <= set(cli.commands)


def test_every_status_is_explained() -> None:
    explained = set(re.findall(r"`([a-z-]+)`", README))
    assert {status.value for status in Status} - {"done", "due"} <= explained


def test_every_page_that_it_links_to_is_there() -> None:
    for page in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / page).exists(), page
