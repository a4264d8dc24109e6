"""Many keys to AWS by the command as it is installed, on a terminal, where it draws a bar."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

from . import checks
from .killing import Runner
from .scene import require

COMMAND = Path(sys.executable).with_name("daena-key-rotate")
CONCURRENCY = "8"
VERIFIED = 20  # one key of so many
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(rb"keys [^\r\n]*?(\d{1,3})%")


def migrated_on_a_terminal(runner: Runner) -> str:
    """Move them all; how long that took, how much memory, and what was seen of the bar."""
    scene = runner.scene
    source, target = scene.lived_in(), scene.place("aws", DAENA_CONCURRENCY=CONCURRENCY)
    command = [str(COMMAND), "migrate", "--from", str(source.file), "--to", str(target.file)]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    started = time.monotonic()
    child = subprocess.Popen(
        command,
        cwd=scene.folder,
        env=scene.child({"TERM": "xterm-256color"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        raw, peak = _watched(ours, child.pid)
        status = child.wait(60)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    seconds = time.monotonic() - started
    (scene.folder / "said" / "terminal").write_bytes(raw)
    require(status == 0, f"it ended with {status}: {raw[-1500:].decode(errors='replace')}")
    seen = [int(share) for share in _BAR.findall(_CONTROL.sub(b"", raw))]
    require(
        seen and seen == sorted(seen) and len(set(seen)) >= min(20, len(scene.keys) // 3),
        f"the bar was seen at {sorted(set(seen))}",
    )
    way = [source, target]
    checks.all_arrived(scene, target)
    checks.in_one_place(scene, way)
    for place in way:  # of some: each listing of the double goes through everything in its bucket
        checks.sound(scene, place, scene.keys[::VERIFIED])
    checks.rotates_nothing(scene, source)
    count = len(scene.keys)
    return (
        f"{seconds:.1f} s, {count / seconds:.1f} keys/s with {CONCURRENCY} at once, peak {peak / 1024:.0f} MiB; "
        f"the bar was drawn {len(seen)} times, at {len(set(seen))} different percentages, from {seen[0]} to {seen[-1]}"
    )


def _watched(terminal: int, child: int) -> tuple[bytes, int]:
    """Everything that was drawn, until the other side is closed; and the most memory it had, in KiB."""
    seen, peak = bytearray(), 0
    while True:
        peak = max(peak, _peak(child))
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if not ready:
            continue
        data = b""
        with suppress(OSError):  # what Linux answers once the other side is closed
            data = os.read(terminal, 1 << 16)
        if not data:
            return bytes(seen), peak
        seen += data


def _peak(child: int) -> int:
    """What Linux says was the most of it that lay in memory."""
    with suppress(OSError):
        for line in Path(f"/proc/{child}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
