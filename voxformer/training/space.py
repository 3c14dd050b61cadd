"""Room on the disk: how much a checkpoint finds, and which older ones may go for it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from voxformer.training.storage import (
    DigestError,
    numbered_checkpoints,
    remove_verified,
    verify,
)

logger = logging.getLogger("voxformer.training")

# Digests, logs and folder entries want a little, too.
MARGIN_BYTES = 256 * 1024


class NoRoomError(OSError):
    """The disk has no room for a checkpoint, and nothing may be deleted for it."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)


@dataclass
class _Content:
    """One file's content, under all the names (hard links) that it has in a run folder."""

    bytes: int
    paths: list[Path] = field(default_factory=list)


def free_bytes(folder: Path) -> int | None:
    """Bytes that a user without privileges may still write; None where that is not known."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def make_room(folder: Path, needed: int, quota_refused: bool = False) -> None:
    """See to it that `needed` bytes fit, deleting the oldest checkpoints as far as they must go.

    Steps go before epochs. The newest that verifies and `best.pt` stay, and so does everything
    where deleting all that may go would not be enough.

    Args:
        folder: the run folder.
        needed: bytes.
        quota_refused: a quota, of which the free space says nothing, refused the last write.

    Raises:
        NoRoomError: there is not enough room; the message has the numbers.
    """
    free = 0 if quota_refused else free_bytes(folder)
    needed += MARGIN_BYTES
    if free is None or free >= needed:
        return
    deletable = _deletable(folder)
    most = free + sum(content.bytes for content in deletable)
    if most < needed:
        older = f", {shown(most - free)} more without older checkpoints" if most > free else ""
        raise NoRoomError(
            f"it needs {shown(needed)}, and {shown(free)} are free in {folder}{older}"
        )
    for content in deletable:
        for path in content.paths:
            remove_verified(path)
        names = " and ".join(path.name for path in content.paths)
        logger.warning("%s deleted, %s: room was short", names, shown(content.bytes))
        free += content.bytes
        if free >= needed:
            return


def newest_that_verifies(paths: Iterable[Path]) -> Path | None:
    """The first of `paths`, newest first, that is what its digest says."""
    for path in paths:
        try:
            verify(path)
        except (DigestError, OSError):
            continue
        return path
    return None


def shown(size: float) -> str:
    """Bytes for people, with a binary unit."""
    power = min(3, max(0, int(size).bit_length() - 1) // 10)
    number = f"{size:.0f}" if power == 0 else f"{size / 1024**power:.1f}"
    return f"{number} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def _deletable(folder: Path) -> list[_Content]:
    """What may go for a new checkpoint, in the order in which it goes."""
    steps, epochs = (numbered_checkpoints(folder, kind) for kind in ("step", "epoch"))
    latest, best = folder / "latest.pt", folder / "best.pt"
    newest = newest_that_verifies([latest, *reversed(steps), *reversed(epochs)])
    keep = {path.stat().st_ino for path in (newest, latest, best) if path and path.is_file()}
    contents: dict[int, _Content] = {}
    for path in (*epochs, *steps):
        status = path.stat()
        if status.st_ino not in keep:
            content = contents.setdefault(status.st_ino, _Content(status.st_blocks * 512))
            content.paths.append(path)
    # What is the content of an epoch and of a step goes with the epochs.
    return sorted(contents.values(), key=lambda content: content.paths[0].name.startswith("epoch"))
