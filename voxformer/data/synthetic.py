"""A corpus of spoken commands made by text-to-speech, for trying the whole path without data.

Training hears one set of voices and sentences. `test_sentences` is other sentences in those voices,
`test_voices` the same sentences in voices of other speakers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..text import normalise
from .commands import sample_sentences
from .manifest import DataError, Utterance, write_manifest
from .seeds import derived_generator
from .voices import (
    HELD_OUT_VOICES,
    SAMPLE_RATE,
    TRAIN_VOICES,
    VERSION,
    Task,
    Voice,
    require_engines,
    to_json,
)

Progress = Callable[[int, int], None]

TEXT_WORDS = (4, 24)
"""Words of an utterance of `synthesise_text`, least and most."""


def synthesise(
    out_dir: str | os.PathLike[str],
    seed: int = 1,
    num_train: int = 1500,
    num_dev: int = 60,
    num_test: int = 100,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Make the corpus below `out_dir`; recordings that are already there are kept.

    Args:
        out_dir: gets `audio/` and one manifest a set.
        seed: decides sentences, voices and tempos; the same seed gives the same corpus.
        num_train: utterances for training.
        num_dev: utterances for choosing a model: held-out sentences, training voices.
        num_test: utterances in each of the two test sets.
        num_workers: processes; default: one a core.
        progress: called with recordings done and recordings in all.

    Returns:
        Manifest of `train`, `dev`, `test_sentences` and `test_voices`.

    Raises:
        DataError: a text-to-speech package is missing or an engine fails.
    """
    require_engines()
    out_dir = Path(out_dir)
    sets = plan(out_dir / "audio", seed, num_train, num_dev, num_test)
    _speak_missing([task for tasks in sets.values() for task in tasks], num_workers, progress)
    manifests = {}
    for name, tasks_of_set in sets.items():
        manifests[name] = out_dir / f"{name}.jsonl"
        write_manifest(manifests[name], [_utterance(task) for task in tasks_of_set])
    return manifests


def plan(
    audio_dir: Path, seed: int, num_train: int, num_dev: int, num_test: int
) -> dict[str, list[Task]]:
    """What each set says, in which voices: a function of the arguments."""
    generator = derived_generator("corpus", seed)
    train, held_out = sample_sentences(generator, num_train, num_dev + num_test)
    dev, test = held_out[:num_dev], held_out[num_dev:]
    # In tests a recorded voice is itself: warped copies are for training only.
    plain = [tuple(v for v in row if v.warp == 1.0) for row in TRAIN_VOICES]
    return {
        "train": _tasks(audio_dir, train, TRAIN_VOICES, generator),
        "dev": _tasks(audio_dir, dev, plain, generator),
        "test_sentences": _tasks(audio_dir, test, plain, generator),
        "test_voices": _tasks(audio_dir, test, [(v,) for v in HELD_OUT_VOICES], generator),
    }


def synthesise_text(
    text: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    name: str = "synthetic-train",
    sentences: int = 2000,
    seed: int = 1,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Have every engine read parts of a text, as further training speech; returns the manifest.

    Lines are taken at random and cut to a run of `TEXT_WORDS` words, so that no utterance is long.

    Args:
        text: UTF-8, a sentence or a few a line.
        out_dir: gets `name`/ and `name`.jsonl; recordings that are already there are kept.
        name: of the set.
        sentences: utterances, at most as many as there are lines.
        seed: decides lines, voices and tempos.
        num_workers: processes; default: one a core.
        progress: called with recordings done and recordings in all.

    Raises:
        DataError: the text cannot be used, a package is missing or an engine fails.
    """
    require_engines()
    try:
        lines = [normalise(line) for line in Path(text).read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{text}: not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise DataError(f"{text}: cannot be read: {error.strerror}") from None
    lines = [line for line in lines if len(line.split()) >= TEXT_WORDS[0]]
    if not lines:
        raise DataError(f"{text}: no line of {TEXT_WORDS[0]} words or more")
    generator = derived_generator("text", seed)
    spoken = []
    for index in generator.permutation(len(lines))[:sentences]:
        words = lines[int(index)].split()
        count = min(len(words), int(generator.integers(TEXT_WORDS[0], TEXT_WORDS[1] + 1)))
        start = int(generator.integers(len(words) - count + 1))
        spoken.append(" ".join(words[start : start + count]))
    out_dir = Path(out_dir)
    voices = [*TRAIN_VOICES, HELD_OUT_VOICES]
    tasks = _tasks(out_dir / name, spoken, voices, generator)
    _speak_missing(tasks, num_workers, progress)
    write_manifest(out_dir / f"{name}.jsonl", [_utterance(task) for task in tasks])
    return out_dir / f"{name}.jsonl"


def _speak_missing(
    tasks: Sequence[Task], num_workers: int | None, progress: Progress | None
) -> None:
    """Make the recordings that are not there yet."""
    by_path = {task.path: task for task in tasks}
    missing = [task for path, task in by_path.items() if not Path(path).is_file()]
    done = len(by_path) - len(missing)
    if progress is not None:
        progress(done, len(by_path))
    for _ in _speak_all(missing, num_workers or os.cpu_count() or 1):
        done += 1
        if progress is not None:
            progress(done, len(by_path))


def _tasks(
    audio_dir: Path,
    sentences: Sequence[str],
    voices: Sequence[Sequence[Voice]],
    generator: np.random.Generator,
) -> list[Task]:
    """Engines (rows of `voices`) in turn, a voice of each at random."""
    tasks = []
    for number, sentence in enumerate(sentences):
        row = voices[number % len(voices)]
        voice = row[int(generator.integers(len(row)))]
        rate = round(float(generator.uniform(0.85, 1.2)), 3)
        # The name says what is in the file, so that one which exists is never the wrong one.
        key = hashlib.blake2b(
            repr((VERSION, voice, sentence, rate)).encode(), digest_size=6
        ).hexdigest()
        path = audio_dir / f"{voice.name.replace('+', '-')}-{key}.flac"
        tasks.append(Task(voice, sentence, rate, str(path)))
    return tasks


def _speak_all(tasks: Sequence[Task], num_workers: int) -> Iterator[None]:
    """Yield once for every finished recording; the worker processes end with the iteration."""
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    workers = [_start_worker() for _ in range(min(num_workers, len(tasks)))]
    try:
        for worker in workers:
            threading.Thread(target=_feed, args=(worker, waiting, answers), daemon=True).start()
        for _ in tasks:
            problem = answers.get()
            if problem:
                raise DataError(f"text-to-speech failed: {problem}")
            yield
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def _start_worker() -> subprocess.Popen[str]:
    # The worker must be this very package, whether installed or in a checkout.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "voxformer.data.voices"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
    )


def _feed(
    worker: subprocess.Popen[str],
    waiting: queue.SimpleQueue[Task],
    answers: queue.SimpleQueue[str],
) -> None:
    """Give a worker one task after the other, so that a slow engine holds up nobody else."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    while True:
        try:
            task = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            worker.stdin.write(to_json(task) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except (OSError, ValueError) as error:
            answers.put(f"the engine of {task.voice.name} died: {error}")
            return
        if not answer:
            answers.put(f"the engine of {task.voice.name} died saying {task.text!r}")
            return
        answers.put(answer.strip())


def _utterance(task: Task) -> Utterance:
    import soundfile

    path = Path(task.path).resolve()
    duration = soundfile.info(str(path)).frames / SAMPLE_RATE
    return Utterance(path.stem, path, duration, task.text, task.voice.name)
