"""A process of benchmarks/decoder.py that holds one decoder and times it when told.

Requests and answers are JSON, one a line, on standard input and output. `open` gets a decoder
ready, `first` decodes once (with memory and token ids), `time` decodes some times, `close` ends.
CPU seconds are the process's own (`time.process_time`, all threads) or, where utterances are
decoded in processes, the sum of theirs; wall seconds are of `time.perf_counter`.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from decoder_peers import Adapter, Setting, Unsupported, open_adapter, return_freed_memory

# Of the decoder, for children that are forked from this process.
_adapter: Adapter | None = None


class Worker:
    """One decoder and the matrices that it reads."""

    def __init__(self, request: dict[str, Any]) -> None:
        global _adapter
        limit = int(request["memory_gib"] * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        frames = np.load(request["log_probs"], mmap_mode="r")
        frames.max()  # pages that are read for the first time are not the decoder's growth
        log_probs = np.split(np.asarray(frames), np.cumsum(request["lengths"])[:-1])
        setting = Setting(**request["setting"])
        self.threads = setting.threads
        self.adapter = _adapter = open_adapter(request["library"], setting, log_probs)
        self._pool: Any = None
        self._map = self._mapper()

    def _mapper(self) -> Callable[[], list[tuple[Any, float]]]:
        """Decodes all items: results of each, with CPU seconds where these are not the process's"""
        adapter = self.adapter
        if self.threads == 1 or adapter.parallel == "own":
            return lambda: [(adapter.decode(item), 0.0) for item in adapter.items]
        if adapter.parallel == "threads":
            threads = ThreadPoolExecutor(self.threads)
            return lambda: [(r, 0.0) for r in threads.map(adapter.decode, adapter.items)]
        pool = self._pool = multiprocessing.get_context("fork").Pool(self.threads)
        numbers = range(len(adapter.items))
        return lambda: pool.map(_decode_in_child, numbers, chunksize=1)

    def first(self) -> dict[str, Any]:
        """Decode once: token ids, seconds, and by how many bytes the process grew at its peak."""
        gc.collect()
        return_freed_memory()
        before = _reset_peak()
        began, cpu_began = time.perf_counter(), time.process_time()
        results = self._map()
        cpu, wall = time.process_time() - cpu_began, time.perf_counter() - began
        growth = _status("VmHWM") - before
        cpu += sum(seconds for _, seconds in results)
        return {
            "cpu_s": cpu,
            "wall_s": wall,
            # Children have memory of their own, which is not in here.
            "memory_bytes": growth if self.threads == 1 else None,
            "token_ids": [ids for result, _ in results for ids in self._token_ids(result)],
            "version": self.adapter.version,
            "parallel": self.adapter.parallel,
        }

    def time(self, calls: int) -> dict[str, Any]:
        """Seconds of one call, the mean of some."""
        children = 0.0
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(calls):
            results = self._map()
            children += sum(seconds for _, seconds in results)
        cpu, wall = time.process_time() - cpu_began, time.perf_counter() - began
        return {"cpu_s": (cpu + children) / calls, "wall_s": wall / calls}

    def close(self) -> None:
        """End the processes that this one started."""
        if self._pool is not None:
            self._pool.terminate()

    def _token_ids(self, result: Any) -> list[list[int]]:
        return [result] if self._pool is not None else self.adapter.token_ids(result)


def _decode_in_child(number: int) -> tuple[Any, float]:
    """The token ids of the best hypothesis: what decoders return cannot all be sent."""
    assert _adapter is not None
    began = time.process_time()
    result = _adapter.decode(_adapter.items[number])
    seconds = time.process_time() - began
    return _adapter.token_ids(result)[0], seconds


def _reset_peak() -> int:
    """Bytes of this process now, which its peak counts from hereafter."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def main() -> None:
    # Libraries may print; answers go where nothing else does.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request["op"] == "open":
                worker = Worker(request)
            elif request["op"] == "close":
                break
            elif worker is None:
                raise ValueError("nothing is open")
            else:
                answer = (
                    worker.first() if request["op"] == "first" else worker.time(request["calls"])
                )
        except Unsupported as error:
            answer = {"unsupported": str(error)}
        except ImportError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # whatever a peer raises is a result of its cell
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if worker is not None:
        worker.close()


if __name__ == "__main__":
    main()
