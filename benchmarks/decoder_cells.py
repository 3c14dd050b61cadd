"""Measuring one cell of benchmarks/decoder.py: every decoder on the same matrices, in turns."""

from __future__ import annotations

import json
import math
import os
import random
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from decoder_matrices import FloatArray
from decoder_peers import CONFIGURATIONS, FLOOR, Configuration, Setting
from decoder_scoring import ctc_log_prob

from voxformer.decoding import BeamOptions, CtcBeamDecoder

REFERENCE_BEAM = 1000
REFERENCE_N_BEST = 16
SAMPLE_S = 0.02
MOST_CALLS = 200
SLOW_S = 1.0
SLOW_ROUNDS = 2
OURS = "voxformer"


@dataclass(frozen=True)
class Cell:
    """Attributes:
    kind: `peaky`, `diffuse`, or the name of a file of matrices.
    vocab: tokens, the blank among them.
    seconds: of each utterance; of all together for a file.
    beam: prefixes kept.
    threads: utterances decoded at once.
    extra: `none`, `lm` or `hotwords`.
    """

    kind: str
    vocab: int
    seconds: float
    beam: int
    threads: int = 1
    extra: str = "none"

    def covers(self, other: Cell) -> bool:
        """Whether this is the same work or more of it."""
        return (self.kind, self.extra) == (other.kind, other.extra) and all(
            getattr(self, name) >= getattr(other, name)
            for name in ("vocab", "seconds", "beam", "threads")
        )

    def __str__(self) -> str:
        extra = "" if self.extra == "none" else f", {self.extra}"
        return (
            f"{self.kind}, {self.vocab} tokens, {self.seconds:g} s, beam {self.beam}, "
            f"{self.threads} thread{'s' * (self.threads > 1)}{extra}"
        )


@dataclass
class Material:
    """What the cells of one set of matrices share.

    Attributes:
        log_probs: float32 [time, vocab] of each utterance.
        tokens: the vocabulary by id.
        folder: for files that workers read.
        token_lm, word_lm: ARPA files, or None.
        hotwords: words of the language.
    """

    log_probs: list[FloatArray]
    tokens: list[str]
    folder: Path
    token_lm: str | None = None
    word_lm: str | None = None
    hotwords: list[str] = field(default_factory=list)
    references: list[float] = field(default_factory=list)

    def file(self, count: int) -> Path:
        """The frames of the first utterances, as workers map them into memory."""
        path = self.folder / f"log_probs-{count}.npy"
        if not path.exists():
            np.save(path, np.concatenate(self.log_probs[:count]))
        return path

    def reference(self, count: int) -> list[float]:
        """The best ln p of the first utterances among what our search finds with a wide beam.

        The search ranks by the alignments that it kept, which are not all where log-probs are flat:
        the best of the n-best is taken by its exact ln p.
        """
        options = BeamOptions(beam_size=REFERENCE_BEAM, n_best=REFERENCE_N_BEST)
        decoder = CtcBeamDecoder(None, options, 1)
        for log_probs in self.log_probs[len(self.references) : count]:
            [hypotheses] = decoder.decode(log_probs[None])
            exact = (ctc_log_prob(log_probs, h.token_ids) for h in hypotheses)
            self.references.append(max(exact))
        return self.references[:count]

    def setting(self, cell: Cell, options: dict[str, Any]) -> Setting:
        """What a decoder of the cell is opened with."""
        lm = cell.extra == "lm"
        return Setting(
            tokens=self.tokens,
            beam=cell.beam,
            threads=cell.threads,
            token_lm=self.token_lm if lm else None,
            word_lm=self.word_lm if lm else None,
            hotwords=self.hotwords if cell.extra == "hotwords" else [],
            options=options,
        )


class WorkerFailed(RuntimeError):
    """A worker died, or was stopped because it took too long; the message says which."""


class WorkerProcess:
    """This side of `decoder_worker.py`."""

    def __init__(self, python: str) -> None:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("decoder_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **single},
            start_new_session=True,  # with what it forks, it can be stopped as one
        )

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            WorkerFailed: there was none.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed("its process died") from None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            self.stop()
            raise WorkerFailed(f"stopped after {timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerFailed(f"its process died ({code}), at the limit of memory as a rule")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


@dataclass
class Bench:
    """How cells are measured.

    Attributes:
        peers_python: interpreter of the environment that has the peers.
        rounds: samples of each decoder; those over `SLOW_S` get `SLOW_ROUNDS`.
        budget_s: a decoder that took longer is left out of cells with more work; one that takes
            four times as long is stopped.
        memory_gib: that a decoder may take.
        names: decoders, from `CONFIGURATIONS`, and `FLOOR`.
        order: of the turns.
    """

    peers_python: str | None
    rounds: int
    budget_s: float
    memory_gib: float
    names: Sequence[str]
    order: random.Random
    slow: dict[str, list[tuple[Cell, str]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def measure(self, cell: Cell, material: Material) -> dict[str, Any]:
        """Every decoder's figures in a cell, as the results keep them."""
        count = utterance_count(cell, material)
        runs: dict[tuple[str, int], _Run] = {}
        skipped: dict[str, str] = {}
        names = list(self.names)
        self.order.shuffle(names)
        # With several threads the same decoder on one is measured beside it: the speed-up.
        for name in names:
            for threads in sorted({1, cell.threads}):
                if name not in skipped:
                    run = _Run(name, threads)
                    reason = self._open(run, cell, material, count)
                    if reason is None:
                        runs[name, threads] = run
                    else:
                        skipped[name] = reason
        for name in skipped:
            for threads in (1, cell.threads):
                if (name, threads) in runs:
                    runs.pop((name, threads)).worker.stop()
        self._take_turns(list(runs.values()))
        scores = self._scores(cell, material, count, runs)
        reference = material.reference(count) if cell.extra == "none" else None
        decoders: dict[str, dict[str, Any]] = {
            name: {"status": f"skipped: {reason}"} for name, reason in skipped.items()
        }
        ours = runs.get((OURS, cell.threads))
        for name in names:
            if (name, cell.threads) in runs:
                lost = None
                if reference is not None and name in scores:
                    lost = sum(reference) - sum(scores[name])
                decoders[name] = _figures(
                    runs[name, cell.threads], runs.get((name, 1)), ours, cell.threads, lost
                )
        return {
            **asdict(cell),
            "utterances": count,
            "frames": sum(len(x) for x in material.log_probs[:count]),
            "reference_log_prob": None if reference is None else sum(reference),
            "decoders": {name: decoders[name] for name in self.names},
        }

    def _open(self, run: _Run, cell: Cell, material: Material, count: int) -> str | None:
        """Start a decoder and let it decode once; why it is left out, if it is."""
        for smaller, seconds in self.slow.get(run.name, []):
            if cell.covers(smaller):
                return f"too slow ({seconds} at {smaller})"
        cell = Cell(**{**asdict(cell), "threads": run.threads})
        limit_s = 4 * self.budget_s
        try:
            run.worker = self._start(run.name, cell, material, count)
            run.take(run.worker.ask(limit_s, op="first"))
        except WorkerFailed as error:
            self.slow.setdefault(run.name, []).append((cell, str(error)))
            return f"too slow or too large ({error})"
        except _LeftOut as error:
            return str(error)
        if run.first["wall_s"] > self.budget_s:
            taken = f"{run.first['wall_s']:.1f} s"
            self.slow.setdefault(run.name, []).append((cell, taken))
        self.versions[configuration(run.name).library] = run.first["version"]
        return None

    def _start(self, name: str, cell: Cell, material: Material, count: int) -> WorkerProcess:
        config = configuration(name)
        python: str | None = sys.executable
        if config.library not in ("voxformer", "floor"):
            python = self.peers_python
        if python is None:
            raise _LeftOut("not installed; see benchmarks/peers.txt")
        worker = WorkerProcess(python)
        answer = worker.ask(
            120.0,
            op="open",
            library=config.library,
            log_probs=str(material.file(count)),
            lengths=[len(utterance) for utterance in material.log_probs[:count]],
            setting=asdict(material.setting(cell, config.options)),
            memory_gib=self.memory_gib,
        )
        for key in ("unsupported", "missing", "error"):
            if key in answer:
                worker.stop()
                raise _LeftOut(answer[key])
        return worker

    def _take_turns(self, runs: list[_Run]) -> None:
        """All rounds, each in an order of its own; a worker that fails keeps its samples."""
        for number in range(self.rounds):
            self.order.shuffle(runs)
            for run in runs:
                wall = run.first["wall_s"]
                if wall > SLOW_S and number >= SLOW_ROUNDS:
                    continue
                calls = max(1, min(MOST_CALLS, math.ceil(SAMPLE_S / wall)))
                run.samples[number] = run.worker.ask(
                    20 * self.budget_s + 10, op="time", calls=calls
                )
        for run in runs:
            run.worker.stop()

    def _scores(
        self, cell: Cell, material: Material, count: int, runs: dict[tuple[str, int], _Run]
    ) -> dict[str, list[float]]:
        """ln p of each decoder's best output of each utterance, without the LM's part."""
        if cell.extra != "none":
            return {}
        known: dict[tuple[int, tuple[int, ...]], float] = {}
        scores: dict[str, list[float]] = {}
        for (name, threads), run in runs.items():
            if threads != cell.threads or name == FLOOR:
                continue
            scores[name] = []
            for i, ids in enumerate(run.first["token_ids"][:count]):
                key = (i, tuple(ids))
                if key not in known:
                    known[key] = ctc_log_prob(material.log_probs[i], ids)
                scores[name].append(known[key])
        return scores


def utterance_count(cell: Cell, material: Material) -> int:
    """One made-up utterance for one thread, or all; a file's are always all decoded."""
    single = cell.threads == 1 and cell.kind in ("peaky", "diffuse")
    return 1 if single else len(material.log_probs)


def configuration(name: str) -> Configuration:
    """The decoder of a name of the results."""
    return Configuration("floor", {}, "") if name == FLOOR else CONFIGURATIONS[name]


class _LeftOut(Exception):
    pass


@dataclass
class _Run:
    """A decoder in a cell: its worker, and what it answered."""

    name: str
    threads: int
    samples: dict[int, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.worker: WorkerProcess
        self.first: dict[str, Any] = {}

    def take(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self.worker.stop()
            raise _LeftOut(answer["error"])
        self.first = answer

    def median(self, key: str) -> float:
        return statistics.median(sample[key] for sample in self.samples.values())

    def ratio(self, other: _Run, key: str) -> float:
        """How many times as long as the other, the median over the rounds that both have."""
        both = self.samples.keys() & other.samples.keys()
        return statistics.median(self.samples[i][key] / other.samples[i][key] for i in both)


def _figures(
    run: _Run, single: _Run | None, ours: _Run | None, threads: int, lost: float | None
) -> dict[str, Any]:
    walls = [sample["wall_s"] for sample in run.samples.values()]
    figures: dict[str, Any] = {
        "status": "ok",
        "cpu_s": _rounded(run.median("cpu_s")),
        "wall_s": _rounded(run.median("wall_s")),
        "wall_range_s": [_rounded(min(walls)), _rounded(max(walls))],
        "rounds": len(walls),
        "memory_bytes": run.first["memory_bytes"],
        "lost_nats": None if lost is None or math.isinf(lost) else round(lost, 4) + 0.0,
    }
    if lost is not None and math.isinf(lost):
        figures["status"] = "ok, but its best output has probability 0"
    if ours is not None:
        figures["cpu_over_ours"] = _rounded(run.ratio(ours, "cpu_s"))
        figures["wall_over_ours"] = _rounded(run.ratio(ours, "wall_s"))
    if threads > 1 and single is not None:
        figures["parallel"] = run.first["parallel"]
        figures["one_thread_wall_s"] = _rounded(single.median("wall_s"))
        figures["speed_up"] = _rounded(single.ratio(run, "wall_s"))
    return figures


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
