"""A folder at another place, as the few operations that a mirror needs, over any fsspec store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.implementations.local import LocalFileSystem

from voxformer.config.locations import check_url, is_url, without_passwords

CHUNK = 1 << 21


class FarEndError(ValueError):
    """A far end that cannot be used as it is named; the message says what to do."""


class UnreachableError(FarEndError):
    """A far end that did not answer, or refused an operation: it may work later."""


@dataclass(frozen=True)
class Entry:
    """What a listing says about a file."""

    size: int
    changed: Any


class FarFolder:
    """Files of one folder and its sub-folders, by name relative to it."""

    def __init__(self, files: AbstractFileSystem, path: str, url: str) -> None:
        self.files, self.path, self.url = files, path.rstrip("/") or "/", url

    def close(self) -> None:
        """Cut the connection, where there is one."""
        close = getattr(self.files, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):
                close()

    def make(self, below: str = "") -> None:
        """Make the folder, or one below it; on this machine only where its parent is there."""
        self._check_mounted()
        with self._errors("cannot be made"):
            self.files.makedirs(self._at(below) if below else self.path, exist_ok=True)

    def entries(self, below: str = "") -> dict[str, Entry]:
        """Files of the folder, or of one below it; none where it does not exist."""
        path = self._at(below) if below else self.path
        with self._errors("cannot be listed"):
            try:
                found = self.files.ls(path, detail=True)
            except FileNotFoundError:
                self._check_mounted()
                return {}
        prefix = f"{below}/" if below else ""
        return {
            prefix + str(item["name"]).rstrip("/").rpartition("/")[2]: Entry(
                int(item["size"] or 0), str(item.get("mtime") or item.get("LastModified") or "")
            )
            for item in found
            if item["type"] == "file"
        }

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `offset` on.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._errors(f"{name} cannot be read"), self.files.open(self._at(name), "rb") as file:
            if offset:
                file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk

    def write(self, name: str, chunks: Iterable[bytes], append: bool = False) -> None:
        """Write a file, or the rest of one, and have it put on disk where the store can."""
        mode = "ab" if append else "wb"
        with (
            self._errors(f"{name} cannot be written"),
            self.files.open(self._at(name), mode) as file,
        ):
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            getattr(self.files, "sync_file", _sync)(file)

    def rename(self, old: str, new: str) -> None:
        """Give a file its final name, replacing what has it."""
        with self._errors(f"{new} cannot be put in place"):
            self.files.mv(self._at(old), self._at(new))
            if isinstance(self.files, LocalFileSystem):
                folder = os.open(Path(self._at(new)).parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""
        with self._errors(f"{name} cannot be deleted"), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._at(name))

    def _check_mounted(self) -> None:
        # A mount that is missing would else be taken for an empty folder of the system's disk.
        parent = Path(self.path).parent
        if isinstance(self.files, LocalFileSystem) and not parent.is_dir():
            raise UnreachableError(f"{self.url}: {parent} is not there; is it mounted?")

    def _at(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (FarEndError, FileNotFoundError):
            raise
        except (OSError, EOFError) as error:
            raise UnreachableError(f"{self.url}: {what}: {reason(error)}") from None
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("voxformer", "builtins"):
                raise
            # Every store has exceptions of its own, paramiko's and those of plugins.
            raise UnreachableError(f"{self.url}: {what}: {reason(error)}") from None


def open_far_folder(url: str, timeout_s: float = 30.0) -> FarFolder:
    """Connect to the folder that a URL or a path names; it need not be there yet.

    Raises:
        UnreachableError: it does not answer.
        FarEndError: anything else that will not pass by itself, with what to do.
    """
    checked(url)
    if not is_url(url):
        return FarFolder(LocalFileSystem(), str(Path(url).absolute()), url)
    parts = urlsplit(url)
    if parts.scheme in ("file", "local"):
        return FarFolder(LocalFileSystem(), unquote(parts.path), url)
    if parts.scheme in ("sftp", "ssh"):
        if find_spec("paramiko") is None:
            raise FarEndError(f"{url}: needs paramiko: pip install 'voxformer[mirror]'")
        from voxformer.training.ssh import SshFileSystem

        files = SshFileSystem(str(parts.hostname), parts.username, parts.port, timeout_s)
        path = unquote(parts.path)
        return FarFolder(files, path[3:] if path.startswith("/~/") else path, url)
    try:
        kind = get_filesystem_class(parts.scheme)
        path = str(kind._strip_protocol(url))
        return FarFolder(kind(**kind._get_kwargs_from_urls(url)), path, url)
    except (ImportError, ValueError) as error:
        raise FarEndError(f"{url}: fsspec cannot open it: {reason(error)}") from None
    except Exception as error:
        raise UnreachableError(f"{url}: {reason(error)}") from None


def checked(url: str) -> str:
    """The URL, if it is one that may be written down.

    Raises:
        FarEndError: it holds a password, or cannot be read.
    """
    if not url:  # as of a shell variable that is not set
        raise FarEndError("the place of the mirror is empty; name a folder or a URL")
    try:
        return check_url(url)
    except ValueError as error:
        raise FarEndError(f"{without_passwords(url)}: {error}") from None


def check_store(url: str, folder: Path) -> None:
    """Find out, without connecting, that a mirror of `folder` cannot be at `url`.

    Raises:
        FarEndError: a library is missing, or it is the folder itself.
    """
    if is_url(url):
        scheme = urlsplit(url).scheme
        if scheme in ("sftp", "ssh"):
            if find_spec("paramiko") is None:
                raise FarEndError(f"{url}: needs paramiko: pip install 'voxformer[mirror]'")
        elif scheme not in ("file", "local"):
            try:
                get_filesystem_class(scheme)
            except (ImportError, ValueError) as error:
                raise FarEndError(f"{url}: fsspec cannot open it: {reason(error)}") from None
    if not is_url(url) or urlsplit(url).scheme in ("file", "local"):
        place = Path(unquote(urlsplit(url).path) if is_url(url) else url).resolve()
        if place == folder.resolve() or folder.resolve() in place.parents:
            raise FarEndError(f"{url}: is in the run folder {folder}; a mirror is elsewhere")


def reason(error: BaseException) -> str:
    """What an exception says, on one line and without passwords."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_passwords(" ".join(str(text).split()))[:300]


def _sync(file: Any) -> None:
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError):  # a store that is no file system
        return
    os.fsync(descriptor)
