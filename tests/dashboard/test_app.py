"""What the server answers, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from voxformer.dashboard.runs import DashboardError, Run, open_runs
from voxformer.training.watch import stops

TOKEN = "a-token-of-some-length"


class Client:
    """Asks an application without a server, through ASGI itself."""

    def __init__(self, app: object, host: str = "localhost:3000") -> None:
        self.app, self.host = app, host

    def __call__(
        self, target: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        import asyncio

        path, _, query = target.partition("?")
        sent: list[dict[str, object]] = []
        named = {"host": self.host, **{k.replace("_", "-"): v for k, v in headers.items()}}

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        from urllib.parse import unquote

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in named.items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 3000),
        }
        asyncio.run(self.app(scope, receive, send))  # type: ignore[operator]
        start = next(m for m in sent if m["type"] == "http.response.start")
        body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")  # type: ignore[misc]
        answered = {k.decode(): v.decode() for k, v in start["headers"]}  # type: ignore[attr-defined]
        return start["status"], answered, body  # type: ignore[return-value]

    def json(self, target: str, **headers: str) -> dict[str, object]:
        status, _, body = self(target, **headers)
        assert status == 200, body
        return json.loads(body)  # type: ignore[no-any-return]


@pytest.fixture
def ask(run_folder: Path) -> Client:
    from voxformer.dashboard.app import make_app

    return Client(make_app(open_runs([str(run_folder)])))


@pytest.fixture
def guarded(run_folder: Path) -> Client:
    from voxformer.dashboard.app import make_app

    return Client(make_app(open_runs([str(run_folder)]), TOKEN), "10.0.0.7:3000")


def test_status_tells_where_the_run_is(ask: Client) -> None:
    run = ask.json("/api/training-status")["runs"][0]  # type: ignore[index]
    assert (run["name"], run["stage"], run["state"]) == ("run", "hybrid", "training")
    assert (run["step"], run["total_steps"], run["epoch"], run["num_epochs"]) == (
        200,
        1000,
        2.0,
        10,
    )
    assert (run["seconds_per_step"], run["eta_s"]) == (0.5, 400.0)
    assert run["wer"]["ctc_greedy"] == {"value": 0.3, "best": 0.3, "band": "moderate"}
    assert run["wer"]["attention"] == {"value": 0.15, "best": 0.15, "band": "good"}
    assert run["latest"]["gradient_norm"] == 1.5
    assert run["log"][-1].endswith("1000 steps")
    assert {c["name"]: c["state"] for c in run["checkpoints"]} == {
        "step_100.pt": "digest recorded",
        "best.pt": "no digest",
    }
    assert run["mirror"] is None
    assert run["disk"]["free"] > 0


def test_status_is_valid_json_whatever_the_machine_has(ask: Client) -> None:
    system = ask.json("/api/training-status")["system"]
    assert system["gpus"] or "no GPU" in system["gpu_note"]  # type: ignore[index,call-overload]


def test_finished_run_has_no_time_left(ask: Client, run_folder: Path) -> None:
    with (run_folder / "training.log").open("a") as log:
        log.write("2026-11-24 10:10:00,000 INFO done: run/latest.pt, 100 s in steps\n")
    run = ask.json("/api/training-status")["runs"][0]  # type: ignore[index]
    assert (run["state"], run["eta_s"]) == ("finished", None)


def test_findings_are_told_newest_first_and_a_stop_by_the_watch_is_a_state(
    ask: Client, run_folder: Path
) -> None:
    run = ask.json("/api/training-status")["runs"][0]  # type: ignore[index]
    assert [(f["step"], f["name"], f["severity"]) for f in run["findings"]] == [
        (100, "critical", "critical"),
        (100, "loop", "warning"),
    ]
    assert run["findings"][0]["message"].endswith("decode with rescoring")
    log = run_folder / "training.log"
    message = f"WER attention 120.0%; {stops('watch.critical_action')}"
    with log.open("a") as file:
        file.write(f"2026-11-24 10:10:00,000 ERROR {message}\n")
    stopped = Run(0, "run", run_folder)
    assert stopped.status()["state"] == "stopped by its watch"
    with log.open("a") as file:
        file.write("2026-11-24 11:00:00,000 INFO stage hybrid on cpu: 1.0 M, 1000 steps\n")
    assert stopped.status()["state"] == "training"


def test_empty_folder_waits_and_each_file_may_be_absent_or_broken(tmp_path: Path) -> None:
    from voxformer.dashboard.app import make_app

    folder = tmp_path / "empty"
    folder.mkdir()
    ask = Client(make_app(open_runs([str(folder)])))
    run = ask.json("/api/training-status")["runs"][0]  # type: ignore[index]
    assert (run["state"], run["step"], run["checkpoints"], run["log"]) == ("waiting", None, [], [])
    assert ask.json("/api/series")["series"] == {}
    assert ask.json("/api/samples") == {"step": None, "samples": []}
    for name in ("config.yaml", "samples.json", "mirror.json", "metrics.jsonl", "training.log"):
        (folder / name).write_bytes(b"\xff\x00{[: - half")
    ask.json("/api/training-status")
    (folder / "gone.pt").symlink_to(folder / "nowhere")
    assert Run(0, "empty", folder).status()["checkpoints"] == []
    folder_gone = Run(0, "gone", tmp_path / "gone")
    folder_gone.metrics.poll()
    assert folder_gone.status()["there"] is False


def test_numbers_and_text_that_json_or_utf8_cannot_hold_do_not_stop_the_page(
    ask: Client, run_folder: Path, rows: tuple[Callable[..., str], ...]
) -> None:
    odd = {"a": math.nan, "b": [math.inf]}
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(rows[0](210, loss=math.nan, epoch="x", odd=odd, note="\ud800"))
        file.write(rows[1](210, 10**400))  # type: ignore[arg-type]
    (run_folder / "mirror.json").write_text('{"pending": NaN, "url": "http://[x"}')
    (run_folder / "config.yaml").write_text("stage: 2020-01-01\ntraining: {num_epochs: .nan}\n")
    run = ask.json("/api/training-status")["runs"][0]  # type: ignore[index]
    assert (run["latest"]["loss"], run["latest"]["odd"]) == (None, {"a": None, "b": [None]})
    assert (run["epoch"], run["num_epochs"], run["mirror"]["pending"]) == (None, None, None)
    assert run["wer"]["ctc_greedy"]["value"] is None


def test_log_shows_whole_lines_and_follows_a_rotation(run_folder: Path) -> None:
    run = Run(0, "run", run_folder)
    log = run_folder / "training.log"
    with log.open("a") as file:
        file.write("half a li")
    assert run.status()["log"][-1].endswith("1000 steps")
    with log.open("a") as file:
        file.write("ne\n")
    assert run.status()["log"][-1] == "half a line"
    log.rename(log.with_name("training.log.1"))
    log.write_text("new\n")
    assert run.status()["log"] == ["new"]


def test_mirror_is_shown_without_its_credentials(run_folder: Path) -> None:
    content = {"url": "s3://key:secret@host/b?sig=1", "last_success": 5, "pending": ["a", "b"]}
    (run_folder / "mirror.json").write_text(json.dumps(content))
    assert Run(0, "run", run_folder).status()["mirror"] == {
        "url": "s3://host/b",
        "last_success": 5,
        "last_error": None,
        "pending": 2,
    }


def test_series_are_decimated_as_asked(ask: Client) -> None:
    series = ask.json("/api/series?points=1000&from=50&to=100")["series"]
    assert series["train.loss"]["x"] == [50, 60, 70, 80, 90, 100]  # type: ignore[index,call-overload]
    assert series["valid.wer_ctc_greedy"] == {"x": [100], "y": [1.2]}  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/series?run=1", 404),
        ("/api/series?run=-1", 404),
        ("/api/series?run=\u00b2".replace("\u00b2", "%C2%B2"), 404),
        ("/api/series?from=x", 400),
        ("/api/samples?run=9", 404),
        ("/nothing", 404),
    ],
)
def test_bad_questions_are_answered_as_such(ask: Client, target: str, status: int) -> None:
    assert ask(target)[0] == status


def test_samples_mark_their_differences(ask: Client) -> None:
    sample = ask.json("/api/samples")["samples"][0]  # type: ignore[index]
    assert sample["playable"]
    assert sample["hypotheses"]["ctc_greedy"][1:3] == [["missing", "on"], ["extra", "the"]]


def test_audio_is_served_for_listed_ids_alone(ask: Client) -> None:
    status, headers, body = ask("/api/audio?id=a/1")
    assert (status, headers["content-type"], body[:4]) == (200, "audio/wav", b"RIFF")
    assert ask("/api/audio?id=a/1", range="bytes=0-3")[2] == b"RIFF"
    for target in ("a.wav", "../a.wav", "/etc/passwd", "a/1/", "", "a/1%00"):
        assert ask(f"/api/audio?id={quote(target, safe='%')}")[0] == 404


@pytest.mark.parametrize("name", ["secret.txt", "relative.wav", "link.wav"])
def test_samples_file_cannot_make_the_server_hand_out_other_files(
    ask: Client, run_folder: Path, name: str, rows: object
) -> None:
    (run_folder / "secret.txt").write_text("secret")
    (run_folder / "link.wav").symlink_to(run_folder / "secret.txt")
    audio = "relative.wav" if name == "relative.wav" else str(run_folder / name)
    sample = {"id": "x", "reference": "", "hypotheses": {}, "audio": audio}
    (run_folder / "samples.json").write_text(json.dumps({"step": 1, "samples": [sample]}))
    assert ask("/api/audio?id=x")[0] == 404


@pytest.mark.parametrize(
    "target",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
        "/../../etc/passwd",
    ],
)
def test_static_files_stay_in_their_folder(ask: Client, target: str) -> None:
    assert ask(target)[0] in (400, 404)


def test_verification_hashes_what_is_listed_when_asked(ask: Client, run_folder: Path) -> None:
    def verify(name: str, **headers: str) -> tuple[int, dict[str, str]]:
        status, _, body = ask(f"/api/verify?name={quote(name)}", "POST", **headers)
        return status, json.loads(body)

    assert verify("step_100.pt") == (200, {"name": "step_100.pt", "state": "verified"})
    assert verify("step_100.pt", sec_fetch_site="cross-site")[0] == 403
    for name in ("best.pt", "../run/step_100.pt", "config.yaml", str(run_folder / "step_100.pt")):
        assert verify(name)[0] == 404
    assert ask("/api/verify?name=step_100.pt")[0] == 405
    (run_folder / "step_100.pt").write_bytes(b"changed")
    assert verify("step_100.pt")[1]["state"] == "damaged: the digest does not match"


def test_another_name_for_this_host_is_refused_without_a_token(ask: Client) -> None:
    for host in ("localhost", "127.0.0.1:3000", "[::1]:3000"):
        assert ask("/training", host=host)[0] == 200
    for host in ("evil.example", "localhost.evil.example:3000", "", "10.0.0.7"):
        assert ask("/api/training-status", host=host)[0] == 403


def test_token_opens_by_query_then_cookie_or_by_header(guarded: Client) -> None:
    assert guarded("/training")[0] == 401
    assert guarded("/training?token=wrong")[0] == 401
    assert guarded("/static/app.js")[0] == 401
    status, headers, _ = guarded(f"/training?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/training")
    assert "HttpOnly" in headers["set-cookie"]
    assert TOKEN not in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert guarded("/training", cookie=cookie)[0] == 200
    assert guarded("/training", cookie=cookie[:-1])[0] == 401
    assert guarded("/api/training-status", authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded("/api/training-status", authorization="Bearer é")[0] == 401
    location = guarded(f"//evil.example/?token={TOKEN}")[1]["location"]
    assert location == "/evil.example/"


def test_token_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, guarded: Client
) -> None:
    from voxformer.dashboard import access

    asked = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: bool(asked.append((a, b))))
    assert guarded(f"/training?token={TOKEN}")[0] == 401
    assert (TOKEN.encode(), TOKEN.encode()) in asked


def test_page_is_told_to_load_nothing_from_elsewhere(ask: Client) -> None:
    status, headers, body = ask("/training")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in body
    assert b"https://" not in body


def test_folder_of_runs_stands_for_its_runs(tmp_path: Path) -> None:
    for name in ("stage2", "stage1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "other").mkdir()
    assert [run.name for run in open_runs([str(tmp_path)])] == ["stage1", "stage2"]
    with pytest.raises(DashboardError, match="no such folder"):
        open_runs([str(tmp_path / "nope")])


def test_package_does_not_bring_the_server() -> None:
    code = "import sys, voxformer, voxformer.cli; assert 'starlette' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from voxformer.cli import main

    for name in [m for m in sys.modules if m.startswith("voxformer.dashboard.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [m for m in sys.modules if m.partition(".")[0] == "starlette"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["dashboard", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'voxformer[dashboard]'" in said


@pytest.fixture
def served(run_folder: Path) -> Iterator[Callable[..., str]]:
    started = []

    def start(*options: str) -> str:
        command = [sys.executable, "-m", "voxformer", "dashboard", str(run_folder), "--port", "0"]
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert not err


@pytest.mark.slow
def test_command_serves_streams_and_stops_on_a_signal(
    served: Callable[..., str], run_folder: Path, rows: tuple[Callable[..., str], ...]
) -> None:
    address = served()
    base = address.removesuffix("/training")
    assert base.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{base}/api/events", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.readline() == b"event: status\n"
        first = json.loads(stream.readline().removeprefix(b"data: "))
        assert first["runs"][0]["step"] == 200
        with (run_folder / "metrics.jsonl").open("a") as file:
            file.write(rows[0](210))
        for line in stream:
            if line.startswith(b"data: ") and json.loads(line[6:])["runs"][0]["step"] == 210:
                break


@pytest.mark.slow
def test_beyond_loopback_a_token_is_made_and_needed(served: Callable[..., str]) -> None:
    address = served("--host", "0.0.0.0").replace("0.0.0.0", "127.0.0.1")
    path, _, token = address.partition("?token=")
    assert len(token) >= 32
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(path, timeout=30)
    request = urllib.request.Request(path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert b"VoxFormer training" in answer.read()
