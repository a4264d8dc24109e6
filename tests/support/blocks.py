"""The code blocks of a page in Markdown, the commands in them, and what they print, without what differs each time."""

import re
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w*)[ \t]*([^\n`]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{2,6}) (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*(#|//)")
ANYTHING = "…"
"""In what a page shows: anything, in the middle of a line; on a line of its own: any number of lines."""
_DIFFERS = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:?\d\d(:?\d\d(\.\d+)?)?( UTC|Z)?"), "<time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<date>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d{6}Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "<hash>"),
    (re.compile(r"\bage1[0-9a-z]{58}\b"), "<recipient>"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "<here>"),
    (re.compile(r"\b\d+ bytes\b"), "<size>"),
    (re.compile(r"\b(cryptography|botocore|azure-[a-z-]+|google-[a-z-]+) \d+(\.\d+)+"), r"\1 <version>"),
    (re.compile(r"[ \t]+"), " "),
)


class Block(NamedTuple):
    """One fenced block of a page."""

    number: int
    """From 1, in the page's order."""
    headings: tuple[str, ...]
    """The headings above it, the largest first; the page's own title is not among them."""
    language: str
    mark: str
    """What stands behind the language: `account`, say."""
    text: str

    @property
    def section(self) -> str:
        """The heading of the second level."""
        return self.headings[0] if self.headings else ""

    @property
    def line(self) -> str:
        """Its first line that is no comment."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return next((line for line in lines if not _COMMENT.match(line)), lines[0] if lines else "")


class Shown(NamedTuple):
    """A command in a `console` block, and what the page says that it prints."""

    command: str
    printed: list[str]


def blocks(page: str) -> list[Block]:
    """Every fenced block, in order. Raises ValueError for a fence that is not closed."""
    found = []
    for number, match in enumerate(_FENCE.finditer(page), 1):
        found.append(Block(number, _above(page[: match.start()]), match[1], match[2].strip(), match[3]))
    if len(found) * 2 != len(re.findall(r"^```", page, re.MULTILINE)):
        raise ValueError("there is a fence that is not closed")
    return found


def _above(text: str) -> tuple[str, ...]:
    """The headings that hold at the end of a text. What looks like one inside a block is a comment."""
    held: dict[int, str] = {}
    for marks, title in _HEADING.findall(_FENCE.sub("", text)):
        held = {level: name for level, name in held.items() if level < len(marks)} | {len(marks): title}
    return tuple(held[level] for level in sorted(held))


def commands(text: str) -> list[Shown]:
    """The commands of a `console` block: lines that begin with `$ `, and those that a backslash continues."""
    found: list[Shown] = []
    continues = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Shown(line.removeprefix("$ "), []))
        elif continues:
            found[-1] = Shown(f"{found[-1].command}\n{line}", [])
        elif found:
            found[-1].printed.append(line)
        else:
            raise ValueError(f"{line!r} is printed by no command")
        continues = line.endswith("\\") and (continues or line.startswith("$ "))
    return found


def masked(line: str) -> str:
    """A line without dates, hashes, addresses and sizes, its columns one space apart."""
    for what, instead in _DIFFERS:
        line = what.sub(instead, line)
    return line.strip()


def agrees(shown: list[str], printed: list[str]) -> bool:
    """Whether what a page shows is what was printed, but for what differs each time."""
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == ANYTHING else f"{_line(line)}\n" for line in shown if line.strip()
    )
    text = "".join(f"{masked(line)}\n" for line in printed if line.strip())
    return re.fullmatch(pattern, text) is not None


def _line(shown: str) -> str:
    return r"[^\n]*".join(re.escape(masked(part)) for part in shown.split(ANYTHING))
