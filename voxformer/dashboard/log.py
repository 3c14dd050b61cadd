"""`training.log`, read as it grows."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path

CHUNK = 1 << 20
SHOWN_LINES = 60
LONGEST_LINE = 2000

_OPENING = re.compile(r" INFO stage .* (\d+) steps$")


class LogFile:
    """The end of a run's log.

    Attributes:
        lines: the last ones that are whole.
        total_steps: the run's plan, as its last opening line has it; None where there is none yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.total_steps: int | None = None
        self._stopped = False
        self._file_id: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""

    def poll(self) -> None:
        """Read what is new; a log that was replaced is read anew, one that is gone is empty."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._file_id or status.st_size < self._offset:
                    self._forget()
                    self._file_id = identity
                file.seek(self._offset)
                while chunk := file.read(CHUNK):
                    self._offset += len(chunk)
                    *lines, self._rest = (self._rest + chunk).split(b"\n")
                    self._rest = self._rest[:CHUNK]
                    for line in lines:
                        self._add(line.decode("utf-8", errors="replace").rstrip("\r"))
        except OSError:
            self._forget()

    def _add(self, line: str) -> None:
        self.lines.append(line[:LONGEST_LINE])
        match = _OPENING.search(line)
        if match:
            self.total_steps = int(match.group(1))
        self._stopped = (" ERROR " in line and "; the run stops (" in line) or (
            self._stopped and not match
        )

    @property
    def says_finished(self) -> bool:
        """Whether its last word is that the run is done."""
        last = self.lines[-1] if self.lines else ""
        return " INFO done: " in last or " INFO already finished" in last

    @property
    def says_stopped(self) -> bool:
        """Whether the run's watch stopped it, and it was not resumed since."""
        return self._stopped
