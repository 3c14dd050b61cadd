"""The mirror over SFTP, with a real sshd on loopback."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from voxformer.config import MirrorConfig
from voxformer.training import storage
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.loop import train
from voxformer.training.mirror import Mirror
from voxformer.training.remote import FarEndError, UnreachableError, open_far_folder
from voxformer.training.transfer import part_name, pull

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd (openssh-server) is not installed")


class Server:
    """An sshd of this user's on loopback, and a home folder whose `.ssh` reaches it as `box`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.etc, self.far = folder / "home", folder / "etc", folder / "far"
        for part in (self.home / ".ssh", self.etc, self.far):
            part.mkdir(parents=True, mode=0o700)
        self.key = self.home / "key"
        for key in (self.key, self.etc / "host"):
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(f"{self.key}.pub", self.etc / "authorized_keys")
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        (self.etc / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.etc}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.etc}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        )
        self.known_hosts = self.home / ".ssh" / "known_hosts"
        public = (self.etc / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        self.config = self.home / ".ssh" / "config"
        self.config.write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.key}\n"
        )
        self.url = f"sftp://box{self.far}/run"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd asks for it where root starts it
        command = [SSHD, "-D", "-e", "-f", str(self.etc / "sshd_config")]
        with (self.etc / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        pytest.fail((self.etc / "log").read_text())

    def kill(self) -> None:
        """SIGKILL for the server and its sessions."""
        if self.process is not None:
            for number in [*_descendants(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _descendants(process: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    children = [number for number, parent in parents.items() if parent == process]
    return [*children, *(below for child in children for below in _descendants(child))]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(tmp_path)
    monkeypatch.setenv("HOME", str(running.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield running
    running.kill()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one step of 5 MB."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("stage: ctc\n")
    content = os.urandom(5_000_000)
    storage.write_verified(folder / "step_1.pt", lambda file: file.write(content) and None)
    return folder


def mirror_of(run: Path, url: str, **settings: Any) -> Mirror:
    return Mirror(MirrorConfig(url=url, timeout_seconds=20, **settings), run)


def assert_all_verify(far: Path) -> None:
    for path in far.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".sha256":
            digests = path.with_name(path.name + ".sha256").read_text()
            assert hashlib.sha256(path.read_bytes()).hexdigest() in digests, path.name


def test_there_and_back_through_an_alias(server: Server, run: Path, tmp_path: Path) -> None:
    assert mirror_of(run, server.url).copy() == ["config.yaml", "step_1.pt"]
    assert mirror_of(run, server.url).copy() == []
    assert_all_verify(server.far)
    (tmp_path / "back").mkdir()
    pull(open_far_folder(server.url), tmp_path / "back")
    content = (run / "step_1.pt").read_bytes()
    assert (tmp_path / "back" / "latest.pt").read_bytes() == content
    (server.far / "run" / "step_1.pt").write_bytes(content[:-1] + b"x")
    assert mirror_of(run, server.url).copy() == ["step_1.pt"]
    assert_all_verify(server.far)


def test_an_included_file_and_the_parts_of_the_url_count(server: Server, run: Path) -> None:
    (server.home / ".ssh" / "more").write_text(server.config.read_text())
    server.config.write_text("Include more\n")
    assert "step_1.pt" in mirror_of(run, server.url).copy()
    server.config.write_text(f"IdentityFile {server.key}\n")
    url = f"sftp://{getpass.getuser()}@127.0.0.1:{server.port}{server.far}/run"
    assert mirror_of(run, url).copy() == []


def test_an_unknown_host_key_is_refused_with_the_fix(server: Server, run: Path) -> None:
    known = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    with pytest.raises(FarEndError, match=r"is not in ~/\.ssh/known_hosts") as error:
        mirror_of(run, server.url).copy()
    assert f"`ssh-keyscan -p {server.port} 127.0.0.1 >> ~/.ssh/known_hosts`" in str(error.value)
    assert not isinstance(error.value, UnreachableError)
    assert server.known_hosts.read_text() == ""
    other = Path(f"{server.key}.pub").read_text()
    server.known_hosts.write_text(f"{known.split()[0]} {other}")
    with pytest.raises(FarEndError, match="is not the one in known_hosts"):
        mirror_of(run, server.url).copy()


def test_a_key_that_is_not_taken_is_named_and_an_agents_key_is(
    server: Server, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = server.home / "hidden"
    server.key.rename(hidden)
    with pytest.raises(FarEndError, match=r"no key was taken for .*@127\.0\.0\.1; add one"):
        mirror_of(run, server.url).copy()
    path = server.home / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not path.exists():
                assert agent.poll() is None
                time.sleep(0.02)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
            subprocess.run(["ssh-add", "-q", str(hidden)], check=True)
            assert "step_1.pt" in mirror_of(run, server.url).copy()
        finally:
            agent.kill()


def test_a_far_end_that_is_not_there_is_unreachable(server: Server, run: Path) -> None:
    server.kill()
    with pytest.raises(UnreachableError, match="box: "):
        mirror_of(run, server.url).copy()


def part_of(server: Server, run: Path) -> Path:
    digest = storage.recorded_digests(run / "step_1.pt")[0]
    return server.far / "run" / part_name("step_1.pt", digest)


def when_half_is_there(server: Server, run: Path, alive: Callable[[], bool]) -> None:
    part = part_of(server, run)
    while not part.exists() or part.stat().st_size < 2_000_000:
        assert alive()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_server_that_dies_is_come_back_to(server: Server, run: Path) -> None:
    with mirror_of(run, server.url, megabytes_per_second=4) as mirror:
        when_half_is_there(server, run, mirror._thread.is_alive)
        server.kill()
        assert_all_verify(server.far)
        size = part_of(server, run).stat().st_size
        assert 0 < size < 5_000_000
        server.start()
    assert mirror.state.status == "finished"
    assert (server.far / "run" / "step_1.pt").read_bytes() == (run / "step_1.pt").read_bytes()
    assert_all_verify(server.far)
    assert mirror.state.last_error is not None


@pytest.mark.slow
def test_a_mirroring_process_that_is_killed_leaves_only_what_verifies(
    server: Server, run: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from voxformer.config import MirrorConfig;"
        "from voxformer.training.mirror import Mirror;"
        "Mirror(MirrorConfig(url=sys.argv[1], megabytes_per_second=2), Path(sys.argv[2])).copy()"
    )
    command = [sys.executable, "-c", script, server.url, str(run)]
    with subprocess.Popen(command) as process:
        when_half_is_there(server, run, lambda: process.poll() is None)
        process.kill()
    assert_all_verify(server.far)
    assert not (server.far / "run" / "step_1.pt").exists()
    mirror = mirror_of(run, server.url)
    assert "step_1.pt" in mirror.copy()
    assert_all_verify(server.far)
    assert not list((server.far / "run").glob(".*"))


@pytest.mark.slow
def test_a_run_on_a_machine_that_is_gone_goes_on_elsewhere_bit_for_bit(
    server: Server, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"save_interval": 2, "ema_decay": 0.9, "num_epochs": 6}
    assert train(make_config("hybrid", "whole", **options), "whole") == 0
    config = make_config("hybrid", "gone", **options)
    config.mirror.url, config.mirror.every_minutes = server.url, 0.001
    process = multiprocessing.get_context("spawn").Process(target=train, args=(config, "gone"))
    process.start()
    while process.is_alive() and not list((server.far / "run").glob("step_*.pt")):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert_all_verify(server.far)
    shutil.rmtree(tmp_path / "gone")
    assert train(config, "gone") == 0
    log = (tmp_path / "gone" / "training.log").read_text()
    assert "fetched from the mirror" in log
    whole, gone = (load_checkpoint(tmp_path / name / "latest.pt") for name in ("whole", "gone"))
    for key in ("model", "ema"):
        assert all(torch.equal(whole[key][name], gone[key][name]) for name in whole[key])
    assert_all_verify(server.far)
