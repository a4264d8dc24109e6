"""A person's session at a terminal: blocks of a page, one after another, in processes of their own.

What a shell block exports, the next one finds. Python runs in a fresh interpreter. Nothing of this process's
environment is handed on but where programs and the home folder are.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.blocks import Block, agrees, commands

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOOLS = [ROOT / ".venv" / "tools" / name / "bin" for name in ("age", "awscli")]
TIMEOUT_SECONDS = 120
FILES = ("json", "toml")
ELSEWHERE = ("/media/usb", "/mnt/backups")
"""Places away from the session's folder: folders beside it."""
_DUMP = f"{shlex.quote(sys.executable)} -S -c 'import json, os; print(json.dumps(dict(os.environ)))' >&3"


class Ran(NamedTuple):
    """What a block came to. `printed` has standard output and standard error, in the order in which they were said."""

    status: int
    printed: str

    @property
    def line(self) -> str:
        """The first line that is no warning."""
        lines = [line for line in self.printed.splitlines() if line.strip()]
        return next((line for line in lines if not line.startswith("warning:")), lines[0] if lines else "")


class Session:
    """A folder and an environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        """`replaced`: what of the blocks' text cannot be as it stands -> what stands there instead."""
        self.folder = folder
        self.replaced = {**replaced, **{place: str(folder.parent / Path(place).name) for place in ELSEWHERE}}
        for place in (folder, *(Path(self.replaced[place]) for place in ELSEWHERE)):
            place.mkdir(exist_ok=True)
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        path = [BIN, *TOOLS, *os.environ["PATH"].split(os.pathsep)]
        self.environment = {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self.told: list[str] = []
        """Everything that was printed."""

    def run(self, block: Block) -> Ran:
        """Run a block as its language says. What names a file, as `json policy.json` does, is put there first.

        `bash` and `sh` end at the first failure; `toml` and `json` are files and nothing else.
        """
        if block.mark:
            (self.folder / block.mark).write_text(block.text)
        if block.language in FILES:
            return Ran(0, "")
        return self.python(block.text) if block.language == "python" else self.shell(block.text)

    def shell(self, text: str) -> Ran:
        """Run lines in bash, and keep what they export."""
        reading, writing = os.pipe()
        script = f"exec 3>&{writing} {writing}>&-; set -e\n{text}\n{_DUMP}"
        try:
            done = self._run(["bash", "-c", script], pass_fds=(writing,))
            os.close(writing)
            with os.fdopen(reading) as dumped:
                said = dumped.read()
        except BaseException:
            os.close(reading)
            raise
        if said:
            left = ("_", "SHLVL", "PWD", "OLDPWD")
            self.environment = {name: value for name, value in json.loads(said).items() if name not in left}
        return done

    def python(self, text: str) -> Ran:
        """Run a program in a fresh interpreter."""
        return self._run([sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", text])

    def console(self, block: Block) -> None:
        """Run a block's commands, which must succeed, and print what the page says. AssertionError otherwise."""
        for shown in commands(block.text):
            ran = self.shell(shown.command)
            assert ran.status == 0, f"$ {shown.command}\n{ran.printed}"
            if shown.printed:
                lines = ran.printed.splitlines()
                assert agrees(shown.printed, lines), f"$ {shown.command}\n{ran.printed}\nthe page has:\n" + "\n".join(
                    shown.printed
                )

    def copy(self, folder: Path) -> "Session":
        """The same, somewhere else."""
        shutil.copytree(self.folder, folder)
        return Session(folder, self.environment, self.replaced)

    def _run(self, command: list[str], pass_fds: tuple[int, ...] = ()) -> Ran:
        words = [self._here(word) for word in command]
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={name: self._here(value) for name, value in self.environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            pass_fds=pass_fds,
        )
        printed = done.stdout
        for there, here in self.replaced.items():
            printed = printed.replace(here, there)
        self.told.append(printed)
        return Ran(done.returncode, printed)

    def _here(self, text: str) -> str:
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text
