"""A file under its final name is complete: written beside it, flushed, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

_KEPT_OF_NAME = 200
"""Bytes of the name in the temporary one, which has more to hold and no more room."""

_STREAM_FOLDERS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview | str) -> None:
    """Replace `path` with `content`; a crash leaves the old file or the new one.

    What cannot be replaced, a device or a pipe such as `/dev/stdout`, is written to.

    Args:
        path: of the file; folders that are missing on the way are made.
        content: text is written as UTF-8, and what is no Unicode in it, which is of file names, as
            the escape that JSON has for it.

    Raises:
        OSError: it cannot be written; `filename` is `path`, or the folder that cannot be made.
    """
    path = Path(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    if _is_stream(path):
        with path.open("ab") as stream:
            stream.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _replace(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_stream(path: Path) -> bool:
    if path.absolute().parent in _STREAM_FOLDERS:
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def _replace(path: Path, data: bytes | memoryview) -> None:
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{os.fsdecode(os.fsencode(path.name)[:_KEPT_OF_NAME])}.",
        suffix=".tmp",
        dir=path.parent,
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            # mkstemp makes private files; a result is as readable as any other new file.
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
