"""How blocks are found on a page, and when what a page shows is what was printed."""

import pytest

from tests.support.blocks import agrees, blocks, commands, masked

_PAGE = """# Title
## One
```bash settings.sh
# a comment
export A=1
```
### Inside
1. A step:
```python
print(1)  # 1
```
## Two
```console
$ a \\
  --b
printed
$ c
```
"""


def test_blocks_are_found_under_their_headings() -> None:
    found = blocks(_PAGE)
    assert [(b.number, b.headings, b.language, b.mark) for b in found] == [
        (1, ("One",), "bash", "settings.sh"),
        (2, ("One", "Inside"), "python", ""),
        (3, ("Two",), "console", ""),
    ]
    assert found[0].line == "export A=1"
    assert commands(found[2].text) == [("a \\\n  --b", ["printed"]), ("c", [])]


def test_a_fence_that_is_not_closed_is_no_block() -> None:
    with pytest.raises(ValueError, match="not closed"):
        blocks(_PAGE + "```bash\nrm -r\n")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  1", "a 1", True),
        ("a 1", "a 2", False),
        ("a", "a\nb", False),
        ("a\n…", "a\nb\nc", True),
        ("…\nc", "a\nb\nc", True),
        ("…\nc", "a\nb", False),
        ("a … c", "a b c", True),
        ("a … c", "a b d", False),
        ("until 2027-01-13 00:30 UTC", "until 2026-12-01 11:22 UTC", True),
        ("ok  5ab234e60ed659ea", "ok  1a376c00e71ebbfe", True),
        ("ok  5ab234e60ed659ea", "ok  2 versions", False),
        ("at 127.0.0.1:40925", "at 127.0.0.1:33603", True),
        ("a.c", "abc", False),
    ],
)
def test_what_differs_each_time_is_left_out_and_nothing_else(shown: str, printed: str, same: bool) -> None:
    assert agrees(shown.splitlines(), printed.splitlines()) is same


def test_material_in_hex_is_masked_only_as_far_as_a_hash_is() -> None:
    """What is longer than any hash of ours stays, so that it is seen."""
    assert masked("a" * 64) == "<hash>"
    assert masked("a" * 96) == "a" * 96
