"""Files that are complete and verifiable under their final name, or not there at all.

Order of a write: temporary name, data, flush, fsync, digest in place, rename, fsync of the folder.
When an existing file is replaced, its digest file names the old digests and the new one until the
rename is done, so that kills at any instants leave a file that one of them describes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from voxformer.text.atomic import write_atomically

CHUNK = 1 << 20
RECORDED = re.compile(r"([0-9a-f]{64}) [ *](.+)")
NUMBERED = re.compile(r"^(step|epoch)_(\d+)\.pt$")


class DigestError(ValueError):
    """A file whose content is not what its `.sha256` says."""


class FolderError(ValueError):
    """A folder that is not what a command needs; the message says what to do."""


class Abandoned(Exception):
    """A write that was told to stop before it was done."""


def digest_path(path: Path) -> Path:
    """Where the digest of `path` stands: `<name>.sha256`, in sha256sum's format."""
    return path.with_name(path.name + ".sha256")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def recorded_digests(path: Path) -> list[str]:
    """Digests that `path`'s digest file allows: one, or more while it is being replaced.

    None where there is no such file, or where anything in it is not as it was written.
    """
    try:
        text = digest_path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    lines = [RECORDED.fullmatch(line) for line in text.split("\n")[:-1]]
    if not text.endswith("\n") or not all(line and line[2] == path.name for line in lines):
        return []
    return [line[1] for line in lines if line]


def verify(path: Path) -> str:
    """Check a file against its digest file and return the digest.

    Raises:
        FileNotFoundError: the file itself is missing.
        DigestError: there is no digest, or it does not match.
    """
    actual = file_digest(path)
    recorded = recorded_digests(path)
    if not recorded:
        beside = digest_path(path)
        wrong = f"{beside.name} is damaged or of another file" if beside.exists() else ""
        missing = f"no {beside.name} beside it"
        raise DigestError(f"{path}: {wrong or missing}, so it cannot be verified")
    if actual not in recorded:
        raise DigestError(
            f"{path}: SHA-256 is {actual[:12]}…, {digest_path(path).name} says otherwise"
        )
    return actual


def write_verified(
    path: Path, write: Callable[[BinaryIO], None], stopped: threading.Event | None = None
) -> str:
    """Write a file atomically through `write(file)` with its digest, and return the digest.

    Raises:
        OSError: as the file system says (ENOSPC …); no temporary file is left, and what stood under
            the final name is untouched.
        Abandoned: `stopped` was set meanwhile; the same holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            hashing = _HashingWriter(file, stopped or threading.Event())
            write(cast(BinaryIO, hashing))
            file.flush()
            os.fsync(file.fileno())
        digest = hashing.digest.hexdigest()
        if file_digest(temporary) != digest:
            raise OSError(f"{path}: what was read back is not what was written")
        place_verified(temporary, path, digest)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return digest


def link_verified(source: Path, path: Path) -> None:
    """Make `path` a hard link to the verified file `source`, replacing it atomically."""
    digest = recorded_digests(source)[-1]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        write_verified(path, lambda file: _copy(source, file))
        return
    try:
        place_verified(temporary, path, digest)
    finally:
        # Renaming one link of a file over another leaves both.
        temporary.unlink(missing_ok=True)


def has_hard_links(folder: Path) -> bool:
    """Whether the file system of a folder knows hard links; true where it cannot be tried."""
    probe, link = (folder / f".{name}.{os.getpid()}.tmp" for name in ("probe", "link"))
    try:
        probe.touch()
        os.link(probe, link)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    finally:
        link.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)
    return True


def remove_verified(path: Path) -> None:
    """Delete a file, then its digest; a digest alone is what a stopped write leaves too."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        digest_path(path).unlink()


def numbered_checkpoints(folder: Path, kind: str) -> list[Path]:
    """`step_N.pt` or `epoch_N.pt` files, oldest first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            match = NUMBERED.match(path.name)
            if match and match.group(1) == kind:
                found.append((int(match.group(2)), path))
    return [path for _, path in sorted(found)]


def holds_checkpoints(folder: Path) -> bool:
    """Whether a run folder has any checkpoint, usable or not."""
    return folder.is_dir() and any(folder.glob("*.pt"))


def place_verified(temporary: Path, path: Path, digest: str) -> None:
    """Give a complete file its final name, with its digest in place before."""
    line = f"{digest}  {path.name}\n"
    if path.exists():
        # All of them: where a replacement was cut before its rename, the file is the first's.
        earlier = [known for known in recorded_digests(path) if known != digest]
        old = "".join(f"{known}  {path.name}\n" for known in earlier)
        write_atomically(digest_path(path), old + line)
        os.replace(temporary, path)
        sync_folder(path.parent)
        write_atomically(digest_path(path), line)
    else:
        write_atomically(digest_path(path), line)
        os.replace(temporary, path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, as they are now, survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: BinaryIO) -> None:
    for chunk in _chunks(source):
        target.write(chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class _HashingWriter:
    """The part of a binary file that `torch.save` needs, hashing what passes."""

    def __init__(self, file: BinaryIO, stopped: threading.Event) -> None:
        self.file, self.stopped = file, stopped
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        if self.stopped.is_set():
            raise Abandoned
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
