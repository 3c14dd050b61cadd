"""The web application: one page, its assets, and JSON about runs.

Events go out through a plain streaming response: an event is two lines of text, and reconnecting is
the browser's, so a library for it would add a dependency and no behaviour.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from voxformer import __version__
from voxformer.dashboard import system
from voxformer.dashboard.access import Access
from voxformer.dashboard.runs import DashboardError, Run
from voxformer.dashboard.transcripts import MEDIA_TYPES
from voxformer.nvml import Nvml

STATIC = Path(__file__).parent / "static"
INTERVAL_S = 1.0
HEARTBEAT_S = 15.0
FRESH_S = 0.5
POINTS = 400
MOST_POINTS = 4000


class Board:
    """All runs on the page, read at most twice a second however many browsers look."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self._nvml = Nvml()
        self._lock = threading.Lock()
        self._read_at = -FRESH_S
        self._status: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        """What every folder and the machine say now."""
        with self._lock:
            reading = any(run.metrics.reading for run in self.runs)
            if reading or time.monotonic() - self._read_at >= FRESH_S:
                for run in self.runs:
                    run.metrics.poll(0.3 / len(self.runs))
                self._status = {
                    "version": __version__,
                    "time": round(time.time(), 3),
                    "system": system.snapshot(self._nvml),
                    "runs": [run.status() for run in self.runs],
                }
                self._read_at = time.monotonic()
            return self._status


def make_app(
    runs: list[Run], token: str | None = None, closing: Callable[[], bool] = lambda: False
) -> Starlette:
    """The application.

    Args:
        runs: what to show.
        token: what a browser must know; None means loopback only.
        closing: says that the server is about to stop, so that streams end.
    """
    board = Board(runs)

    def find(request: Request) -> Run | None:
        number = request.query_params.get("run", "0")
        valid = number.isascii() and number.isdigit() and len(number) < 6
        return runs[int(number)] if valid and int(number) < len(runs) else None

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def home(request: Request) -> Response:
        return RedirectResponse("/training", 307)

    async def status(request: Request) -> Response:
        return _json(await asyncio.to_thread(board.status))

    async def series(request: Request) -> Response:
        run = find(request)
        try:
            first, last, points = (
                int(request.query_params[key][:18]) if request.query_params.get(key) else None
                for key in ("from", "to", "points")
            )
        except ValueError:
            return _problem("from, to and points are whole numbers", 400)
        if run is None:
            return _problem("no such run", 404)
        await asyncio.to_thread(board.status)
        buckets = min(max(points or POINTS, 10), MOST_POINTS)
        revision = run.metrics.revision
        found = await asyncio.to_thread(run.metrics.series, buckets, first, last)
        return _json({"revision": revision, "reading": run.metrics.reading, "series": found})

    async def samples(request: Request) -> Response:
        run = find(request)
        if run is None:
            return _problem("no such run", 404)
        return _json(await asyncio.to_thread(run.samples))

    async def audio(request: Request) -> Response:
        run = find(request)
        wanted = request.query_params.get("id", "")
        path = None if run is None else await asyncio.to_thread(run.audio, wanted)
        if path is None:
            return _problem("no such recording", 404)
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix.lower()])

    async def verify(request: Request) -> Response:
        run = find(request)
        name = request.query_params.get("name", "")
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _problem("asked from another site", 403)
        state = None if run is None else await asyncio.to_thread(run.verify, name)
        if state is None:
            return _problem("no such checkpoint with a digest", 404)
        return _json({"name": name, "state": state})

    async def events(request: Request) -> Response:
        return StreamingResponse(
            _events(board, closing),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    return Starlette(
        routes=[
            Route("/", home),
            Route("/training", page),
            Route("/api/training-status", status),
            Route("/api/series", series),
            Route("/api/samples", samples),
            Route("/api/audio", audio),
            Route("/api/verify", verify, methods=["POST"]),
            Route("/api/events", events),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Access, token=token)],
    )


async def _events(board: Board, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """A `status` event when anything changed, else a comment now and then."""
    sent, sent_at = "", 0.0
    while not closing():
        now = await asyncio.to_thread(board.status)
        content = json.dumps({**now, "time": None})
        if content != sent:
            yield f"event: status\ndata: {json.dumps(now)}\n\n"
            sent, sent_at = content, time.monotonic()
        elif time.monotonic() - sent_at > HEARTBEAT_S:
            yield ": still here\n\n"
            sent_at = time.monotonic()
        reading = any(run.metrics.reading for run in board.runs)
        await asyncio.sleep(0.05 if reading else INTERVAL_S)


def _json(content: Any, status: int = 200) -> Response:
    # Escapes keep half characters, which UTF-8 cannot hold, out of the way.
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, media_type="application/json")


def _problem(text: str, status: int) -> Response:
    return _json({"error": text}, status)


def serve(runs: list[Run], host: str, port: int, token: str | None) -> None:
    """Answer until a signal.

    Raises:
        DashboardError: the address cannot be taken.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DashboardError(f"{host}, port {port}: {reason}; try another --port") from None
    with listening:
        server: uvicorn.Server

        def closing() -> bool:
            return server.should_exit

        config = uvicorn.Config(
            make_app(runs, token, closing),
            log_level="warning",
            access_log=False,  # the first request's address holds the token
            lifespan="off",
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        query = "" if token is None else f"?token={token}"
        print(f"http://{shown}:{listening.getsockname()[1]}/training{query}", flush=True)
        server.run(sockets=[listening])
