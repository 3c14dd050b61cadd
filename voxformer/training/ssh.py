"""SFTP with host keys, aliases, keys and agents as ssh has them.

fsspec's own SFTP is paramiko behind fsspec's interface, but it knows no `~/.ssh/config` and takes
any host key. This class changes how it connects, and asks for many blocks at once, since a block
for each round trip would be all that a distant machine gives.
"""

from __future__ import annotations

import contextlib
import getpass
import glob
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem
from paramiko.sftp import CMD_EXTENDED

from voxformer.training.remote import FarEndError, UnreachableError, reason

KEEPALIVE_S = 15


class SshFileSystem(SFTPFileSystem):
    """Files on a host that `ssh` reaches; paths are absolute, or relative to the home folder."""

    protocol = "sftp"
    cachable = False  # a connection that was cut must not be handed out again

    def __init__(
        self, host: str, user: str | None, port: int | None, timeout_s: float, **options: Any
    ) -> None:
        """Connect.

        Args:
            host: a name, an address, or a `Host` of `~/.ssh/config`.
            user: on that host; default: as ssh would.
            port: default: as ssh would.
            timeout_s: silence after which the connection counts as cut.
            options: fsspec's.

        Raises:
            FarEndError: the host's key is not known or has changed, or no key of ours is taken.
            UnreachableError: it does not answer.
        """
        self.wanted, self.timeout_s = (host, user, port), timeout_s
        super().__init__(host, **options)

    def _connect(self) -> None:
        host, user, port = self.wanted
        config = _ssh_config().lookup(host)
        name = config.get("hostname", host)
        port = port or int(config.get("port", 22))
        user = user or config.get("user") or getpass.getuser()
        flag = f"-p {port} " if port != 22 else ""
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(_RefuseUnknown(flag, name))
        for path in _known_hosts(config):
            with contextlib.suppress(OSError):
                self.client.load_system_host_keys(str(path))
        keys = [os.path.expanduser(key) for key in config.get("identityfile", [])]
        try:
            self.client.connect(
                name,
                port=port,
                username=user,
                key_filename=[key for key in keys if os.path.exists(key)] or None,
                look_for_keys=not keys,
                sock=_proxy(config, name, port),
                timeout=self.timeout_s,
                banner_timeout=self.timeout_s,
                auth_timeout=self.timeout_s,
                channel_timeout=self.timeout_s,
            )
            transport = self.client.get_transport()
            assert transport is not None
            transport.set_keepalive(KEEPALIVE_S)
            self.ftp = self.client.open_sftp()
            channel = self.ftp.get_channel()
            assert channel is not None
            channel.settimeout(self.timeout_s)
        except BaseException as error:
            self.client.close()
            target = f"{user}@{name}"
            if isinstance(error, paramiko.BadHostKeyException):
                raise FarEndError(
                    f"{host}: its host key is not the one in known_hosts; if the machine was set "
                    f"up anew, run `ssh-keygen -R {_known_name(name, port)}` and then "
                    f"`ssh-keyscan {flag}{name} >> ~/.ssh/known_hosts`, else do not trust it"
                ) from None
            no_key = "No authentication methods" in str(error)  # none was found to try
            if no_key or isinstance(error, paramiko.AuthenticationException):
                raise FarEndError(
                    f"{host}: no key was taken for {target}; add one to ~/.ssh/config "
                    f"(IdentityFile) or to the agent (ssh-add), and try `ssh {flag}{target}`"
                ) from None
            if isinstance(error, (OSError, EOFError, paramiko.SSHException)):
                raise UnreachableError(f"{host}: {reason(error)}") from None
            raise

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def close(self) -> None:
        """Cut the connection."""
        self.client.close()

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        file = self.ftp.open(path, mode)
        if mode == "rb":
            return _AheadFile(file)
        file.set_pipelined(True)
        return file

    def sync_file(self, file: paramiko.SFTPFile) -> None:
        """Have the other end put a file on its disk, where it knows how (OpenSSH does)."""
        with contextlib.suppress(OSError):
            self.ftp._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)

    def mv(self, old: str, new: str, **_: Any) -> None:
        """Rename, replacing what has the new name."""
        try:
            self.ftp.posix_rename(old, new)
        except OSError as error:
            if "unsupported" not in str(error).lower():
                raise
            # A server without OpenSSH's extension: for an instant there is nothing there.
            with contextlib.suppress(FileNotFoundError):
                self.ftp.remove(new)
            self.ftp.rename(old, new)


class _AheadFile:
    """A remote file whose `read` asks for all of its blocks before it waits for the first."""

    def __init__(self, file: paramiko.SFTPFile) -> None:
        self.file, self.at = file, 0
        self.size = file.stat().st_size or 0
        fetch = file._prefetch_thread  # type: ignore[attr-defined]

        def fetch_quietly(*arguments: Any) -> None:
            # On a thread of paramiko's; the reader comes upon the same error.
            with contextlib.suppress(Exception):
                fetch(*arguments)

        file._prefetch_thread = fetch_quietly  # type: ignore[attr-defined]

    def seek(self, offset: int) -> None:
        self.at = offset

    def read(self, size: int) -> bytes:
        size = min(size, self.size - self.at)
        if size <= 0:
            return b""
        data = b"".join(self.file.readv([(self.at, size)]))
        self.at += len(data)
        return data

    def __enter__(self) -> _AheadFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    """Says how to make a host known; nothing is ever added here."""

    def __init__(self, flag: str, name: str) -> None:
        self.flag, self.name = flag, name

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        raise FarEndError(
            f"{hostname}: its host key ({key.get_name()} {key.fingerprint}) is not in "
            f"~/.ssh/known_hosts; connect once with `ssh {self.flag}{self.name}`, or compare and "
            f"add it: `ssh-keyscan {self.flag}{self.name} >> ~/.ssh/known_hosts`"
        )


def _ssh_config() -> paramiko.SSHConfig:
    """The user's and the system's configuration, `Include` resolved; the first value counts."""
    config = paramiko.SSHConfig()
    for path in (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")):
        # Each file begins outside of any `Host`, whatever the one before ended in.
        config.parse(iter(["Host *\n", *_lines(path)]))  # type: ignore[arg-type]
    return config


def _lines(path: Path, depth: int = 0) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        words = line.replace("=", " ", 1).split()
        if len(words) < 2 or words[0].lower() != "include" or depth > 8:
            yield line
            continue
        for pattern in shlex.split(" ".join(words[1:])):
            whole = path.parent / os.path.expanduser(pattern)  # an absolute pattern stays
            for found in sorted(glob.glob(str(whole))):
                yield from _lines(Path(found), depth + 1)
                yield "\n"


def _known_hosts(config: Any) -> Iterator[Path]:
    own = config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    everyone = config.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts")
    for name in f"{own} {everyone}".split():
        yield Path(name).expanduser()


def _proxy(config: Any, name: str, port: int) -> Any:
    command = config.get("proxycommand")
    jump = config.get("proxyjump")
    if command is None and jump is not None and jump.lower() != "none":
        command = f"ssh -W [{name}]:{port} {shlex.quote(jump)}"
    if command is None or command.lower() == "none":
        return None
    return paramiko.ProxyCommand(command)


def _known_name(name: str, port: int) -> str:
    return name if port == 22 else f"'[{name}]:{port}'"
