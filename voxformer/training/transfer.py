"""How a file gets to the far end and back: never under its final name before it verifies.

Order of a write: a temporary name that holds the content's digest, so that a part is continued only
with the same content; the whole of it read back and hashed; the digest file in place; rename. A
file that is replaced has a digest file that names the earlier digests too until the rename is done.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from voxformer.training.remote import CHUNK, FarEndError, FarFolder, UnreachableError
from voxformer.training.storage import (
    NUMBERED,
    file_digest,
    link_verified,
    place_verified,
    remove_verified,
)

TOKENIZER = "tokenizer"
LOGS = ("metrics.jsonl", "training.log")
PART = ".part"

logger = logging.getLogger("voxformer.training")


class FarDamageError(FarEndError):
    """A file at the far end that is not what its digest says."""


class Halted(Exception):
    """The transfer was told to stop."""


@dataclass(frozen=True)
class Pulled:
    """What a pull has put into a run folder.

    Attributes:
        checkpoint: the step file.
        files: all that is new, the checkpoint included.
    """

    checkpoint: Path
    files: list[Path]

    def undo(self) -> None:
        """Delete it again, as when the run turns out to be another one."""
        for path in self.files:
            remove_verified(path)


class Pace:
    """Passes chunks on at no more than a rate, until it is halted.

    Args:
        megabytes_per_second: None is no limit.
        halted: set when whatever is under way should stop.
    """

    def __init__(
        self, megabytes_per_second: float | None = None, halted: threading.Event | None = None
    ) -> None:
        self.rate = megabytes_per_second
        self.halted = halted or threading.Event()

    def __call__(
        self, chunks: Iterable[bytes], passed: Callable[[int], None] | None = None
    ) -> Iterator[bytes]:
        """The same chunks; `passed` is told the length of each."""
        for chunk in chunks:
            if self.halted.is_set():
                raise Halted
            yield chunk
            if passed is not None:
                passed(len(chunk))
            if self.rate is not None:
                self.halted.wait(len(chunk) / (self.rate * 1e6))


def put(
    far: FarFolder,
    name: str,
    file: BinaryIO,
    size: int,
    digest: str,
    pace: Pace,
    passed: Callable[[int], None] | None = None,
) -> None:
    """Bring the first `size` bytes of an open file to the far end under `name`.

    A part that an earlier attempt left is continued; it is trusted no more than the rest, since all
    of it is read back before it gets its name.

    Raises:
        UnreachableError: it did not get there, or is not there what it is here.
    """
    below = name.rpartition("/")[0]
    if below:
        far.make(below)
    temporary = part_name(name, digest)
    part = far.entries(below).get(temporary)
    start = part.size if part is not None and part.size <= size else 0
    if part is None or part.size != size:
        _send(far, temporary, pace(_local(file, start, size), passed), start)
    actual = far_digest(far, temporary, pace)
    if actual != digest:
        far.remove(temporary)
        raise UnreachableError(
            f"{far.url}: {name} is not there what it is here; it is sent again (is the disk full?)"
        )
    line = _line(name, digest)
    earlier = recorded(far, name) if _is_there(far, name) else []
    if earlier:
        lines = "".join(_line(name, known) for known in earlier if known != digest)
        _put_small(far, f"{name}.sha256", lines + line)
    else:
        _put_small(far, f"{name}.sha256", line)
    far.rename(temporary, name)
    if earlier:
        _put_small(far, f"{name}.sha256", line)


def verify_far(far: FarFolder, name: str, pace: Pace) -> str:
    """Read a file at the far end and return its digest.

    Raises:
        FileNotFoundError: it is not there.
        FarDamageError: it has no digest file, or is not what that says.
    """
    known = recorded(far, name)
    if not known:
        raise FarDamageError(f"{far.url}: {name} has no digest beside it")
    actual = far_digest(far, name, pace)
    if actual not in known:
        raise FarDamageError(f"{far.url}: {name} is not what its digest says")
    return actual


def prune_far(far: FarFolder, keep: int, newest: int) -> list[str]:
    """Delete the step files before the last `keep` of those up to `newest`, file before digest."""
    steps = [step for step in far_steps(far) if step <= newest]
    names = [f"step_{step}.pt" for step in steps[:-keep]]
    for name in names:
        far.remove(name)
        far.remove(f"{name}.sha256")
    return names


def remove_parts(far: FarFolder, keep: set[str]) -> None:
    """Delete what transfers that were given up have left."""
    for below in ("", TOKENIZER):
        for name in far.entries(below):
            base = name.rpartition("/")[2]
            if base.startswith(".") and base.endswith(PART) and name not in keep:
                far.remove(name)


def far_steps(far: FarFolder) -> list[int]:
    """The N of every `step_N.pt` at the far end, in order."""
    found = (NUMBERED.match(name) for name in far.entries())
    return sorted(int(match.group(2)) for match in found if match and match.group(1) == "step")


def pull(far: FarFolder, folder: Path, pace: Pace | None = None, only: str | None = None) -> Pulled:
    """Fetch a run into a folder: the newest step file that verifies, `best.pt`, tokenizer and logs.

    Checkpoints get their names last and together, `latest.pt` being the step file, so that a pull
    that was cut leaves a folder without checkpoints.

    Args:
        far: where from.
        folder: a run folder without checkpoints.
        pace: how fast.
        only: this step file and no other.

    Raises:
        UnreachableError: the connection was cut.
        FarEndError: nothing there verifies.
    """
    pace = pace or Pace()
    names = [only] if only else [f"step_{step}.pt" for step in reversed(far_steps(far))]
    if not names:
        raise FarEndError(f"{far.url}: holds no step_N.pt, so there is nothing to go on from")
    name, temporary, digest = _fetch_first(far, names, folder, pace)
    best, files = None, []
    if only is None:
        best = _fetch_or_warn(far, "best.pt", folder, pace)
        for other in ("config.yaml", *sorted(far.entries(TOKENIZER)), *LOGS):
            target = folder / other
            if target.name.startswith(".") or target.suffix == ".sha256":
                continue
            if target.exists() and target.stat().st_size:
                continue
            fetched = _fetch_or_warn(far, other, folder, pace)
            if fetched is not None:
                os.replace(fetched[0], target)
                files.append(target)
    place_verified(temporary, folder / name, digest)
    files.append(folder / name)
    if best is not None:
        place_verified(best[0], folder / "best.pt", best[1])
        files.append(folder / "best.pt")
    link_verified(folder / name, folder / "latest.pt")
    return Pulled(folder / name, [*files, folder / "latest.pt"])


def recorded(far: FarFolder, name: str) -> list[str]:
    """Digests that the digest file at the far end allows."""
    try:
        text = b"".join(far.read(f"{name}.sha256")).decode("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in text.splitlines() if line.split()]


def far_digest(far: FarFolder, name: str, pace: Pace) -> str:
    """SHA-256 of a file at the far end, read from there."""
    digest = hashlib.sha256()
    for chunk in pace(far.read(name)):
        digest.update(chunk)
    return digest.hexdigest()


def stream_digest(file: BinaryIO, size: int, pace: Pace) -> str:
    """SHA-256 of the first `size` bytes of an open file here."""
    digest = hashlib.sha256()
    for chunk in _local(file, 0, size):
        if pace.halted.is_set():
            raise Halted
        digest.update(chunk)
    return digest.hexdigest()


def part_name(name: str, digest: str) -> str:
    """The temporary name of a file with this content."""
    below, separator, base = name.rpartition("/")
    return f"{below}{separator}.{base}.{digest[:16]}{PART}"


def _send(far: FarFolder, name: str, chunks: Iterator[bytes], start: int) -> None:
    if not start:
        far.write(name, chunks)
        return
    try:
        far.write(name, chunks, append=True)
    except (NotImplementedError, ValueError) as error:
        if isinstance(error, FarEndError):
            raise
        far.remove(name)  # a store that cannot append
        raise UnreachableError(f"{far.url}: {name} cannot be continued; it is sent anew") from None


def _fetch(far: FarFolder, name: str, folder: Path, pace: Pace) -> tuple[Path, str]:
    """A verified copy under a temporary name, and its digest; a part that is here is continued."""
    known = recorded(far, name)
    if not known:
        far_entry = _is_there(far, name)
        what = "has no digest beside it" if far_entry else "is not there"
        raise FarDamageError(f"{far.url}: {name} {what}")
    temporary = folder / part_name(name, known[-1])
    temporary.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        continued = temporary.exists() and temporary.stat().st_size > 0
        try:
            with temporary.open("ab") as file:
                for chunk in pace(far.read(name, file.tell())):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            break
        digest = file_digest(temporary)
        if digest in known:
            return temporary, digest
        temporary.unlink()
        if not continued:
            break
    raise FarDamageError(f"{far.url}: {name} is not what its digest says")


def _fetch_first(
    far: FarFolder, names: list[str], folder: Path, pace: Pace
) -> tuple[str, Path, str]:
    """The first of these files that verifies: its name, where its copy is, its digest."""
    for name in names:
        try:
            return name, *_fetch(far, name, folder, pace)
        except FarDamageError as error:
            if len(names) == 1:
                raise
            logger.warning("%s; an older one is looked for", error)
    raise FarEndError(f"{far.url}: no checkpoint there verifies")


def _fetch_or_warn(far: FarFolder, name: str, folder: Path, pace: Pace) -> tuple[Path, str] | None:
    if not _is_there(far, name):
        return None
    try:
        return _fetch(far, name, folder, pace)
    except FarDamageError as error:
        logger.warning("%s; left out", error)
        return None


def _put_small(far: FarFolder, name: str, text: str) -> None:
    below, separator, base = name.rpartition("/")
    temporary = f"{below}{separator}.{base}{PART}"
    far.write(temporary, [text.encode("ascii")])
    if b"".join(far.read(temporary)) != text.encode("ascii"):
        raise UnreachableError(f"{far.url}: {name} is not there what it is here")
    far.rename(temporary, name)


def _is_there(far: FarFolder, name: str) -> bool:
    return name in far.entries(name.rpartition("/")[0])


def _line(name: str, digest: str) -> str:
    return f"{digest}  {name.rpartition('/')[2]}\n"


def _local(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (chunk := file.read(min(CHUNK, end - start))):
        start += len(chunk)
        yield chunk
