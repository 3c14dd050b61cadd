"""SIGINT and SIGTERM: the first lets the step finish and saves, the second leaves at once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

logger = logging.getLogger("voxformer.training")


@dataclass
class Stop:
    """Set by a signal to any process; the loop saves and leaves at the next step."""

    signal_number: int | None = None
    own: bool = False
    left: bool = False
    previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def hear(self, signals: Iterable[int | None]) -> None:
        """Take over a signal that any process has had; one's own is not forgotten.

        Raises:
            SystemExit: a second one came where Python drops exceptions, such as in a destructor.
        """
        if self.left:
            raise SystemExit(128 + (self.signal_number or 0))
        for number in signals:
            if number is not None:
                self.signal_number = number
                return

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.own:
            self.left = True
            raise SystemExit(128 + number)
        self.own, self.signal_number = True, number
        logger.warning(
            "%s: saving and leaving after this step; once more leaves at once",
            signal.Signals(number).name,
        )
