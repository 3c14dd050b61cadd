"""CTC log-probabilities for benchmarks/decoder.py: made up by a seed, or of a model's bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from decoder_language import Language

FloatArray = npt.NDArray[np.float32]
FRAME_RATE = 25
DIFFUSE_PEAK = 0.4


class MatrixError(ValueError):
    """A file of matrices that cannot be used; the message says why."""


@dataclass(frozen=True)
class Utterances:
    """Attributes:
    log_probs: float32 [time, vocab] of each utterance, natural logarithms.
    tokens: the vocabulary by id; the blank is 0.
    """

    log_probs: list[FloatArray]
    tokens: list[str]

    def save(self, path: Path) -> None:
        """Write an `.npz` that `load` reads: all frames, frames of each utterance, and tokens."""
        np.savez(
            path,
            log_probs=np.concatenate(self.log_probs),
            lengths=np.array([len(utterance) for utterance in self.log_probs]),
            tokens=np.array(self.tokens),
        )


def load(path: Path) -> Utterances:
    """What `Utterances.save` wrote.

    Raises:
        MatrixError: the arrays do not fit each other, or a row is no distribution.
    """
    with np.load(path) as arrays:
        frames, lengths, tokens = arrays["log_probs"], arrays["lengths"], arrays["tokens"].tolist()
    if frames.ndim != 2 or len(frames) != lengths.sum() or frames.shape[1] != len(tokens):
        raise MatrixError(f"{path}: log_probs {frames.shape}, lengths and tokens do not fit")
    if not np.allclose(np.exp(frames.astype(np.float64)).sum(axis=1), 1.0, atol=1e-3):
        raise MatrixError(f"{path}: rows of log_probs are not log-probabilities that sum to 1")
    return Utterances(np.split(frames.astype(np.float32), np.cumsum(lengths)[:-1]), tokens)


def make(
    language: Language, kind: str, seconds: float, count: int, seed: int
) -> tuple[list[FloatArray], list[list[int]]]:
    """Log-probs of `count` utterances and the words that each is made from.

    `peaky` is like a trained CTC model. A token is said in one frame (two in a fifth of the cases)
    and followed by 1 to 6 frames of blank, which make 70 to 80 % of all. In a token's frame it has
    a probability of 0.6 to 0.99; of the rest, 45 % go to blank, 45 % to up to four confusable
    tokens (the same ones for every occurrence) and 10 % to the floor. A blank frame misses 1e-5 to
    0.1 of its probability, evenly by its logarithm; half of that is the nearest token's and half
    the floor's. The floor is log-normal noise over the vocabulary with a deviation of 2 nats, drawn
    anew for each frame.

    `diffuse` is the same, divided by a temperature at which the largest probability of a frame is
    0.4 on average, and normalised again.

    Everything follows from the seed, the vocabulary's size, the seconds and the utterance's number.

    Args:
        language: what is said, and how many columns there are.
        kind: `peaky` or `diffuse`.
        seconds: of each utterance, at 25 frames a second.
        count: utterances.
        seed: of everything drawn.
    """
    if kind not in ("peaky", "diffuse"):
        raise ValueError(f"kind is {kind!r}; it must be peaky or diffuse")
    made, spoken = [], []
    frames = round(seconds * FRAME_RATE)
    for number in range(count):
        words, rng = _sentence(language, frames, number, seed)
        log_probs = peaky(language.token_ids(words), frames, len(language.tokens), seed, rng)
        if kind == "diffuse":
            log_probs = flatten(log_probs)
        made.append(log_probs.astype(np.float32))
        spoken.append(words)
    return made, spoken


def paths(language: Language, seconds: float, count: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """The token, or 0 for the blank, of each frame of the utterances that `make` makes."""
    frames = round(seconds * FRAME_RATE)
    found = []
    for number in range(count):
        words, rng = _sentence(language, frames, number, seed)
        found.append(_path(language.token_ids(words), frames, rng)[0])
    return found


def peaky(
    token_ids: Sequence[int], frames: int, vocab: int, seed: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """ln p [frames, vocab] as `make` describes it; tokens that find no room are left out."""
    path, nearest = _path(token_ids, frames, rng)
    probabilities = np.exp(rng.normal(0.0, 2.0, (frames, vocab)))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    spoken = path > 0
    peak = rng.uniform(0.6, 0.99, frames)
    missing = np.where(spoken, 1.0 - peak, 10.0 ** rng.uniform(-5.0, -1.0, frames))
    probabilities *= np.where(spoken, 0.1 * missing, 0.5 * missing)[:, None]
    rows = np.arange(frames)
    probabilities[rows, path] += 1.0 - missing
    silent = ~spoken
    probabilities[rows[silent], nearest[silent]] += 0.5 * missing[silent]
    probabilities[rows[spoken], 0] += 0.45 * missing[spoken]
    confusable = np.random.default_rng([seed, vocab, 2]).integers(1, vocab, (vocab, 4))
    shares = 0.45 * missing[spoken, None] * rng.dirichlet(np.ones(4), int(spoken.sum()))
    np.add.at(probabilities, (rows[spoken, None], confusable[path[spoken]]), shares)
    return np.log(probabilities / probabilities.sum(axis=1, keepdims=True))


def flatten(log_probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-probs at the temperature, found on 100 frames, at which peaks average `DIFFUSE_PEAK`."""
    sample = log_probs[:100]
    low, high = 1.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        if np.exp(_normalise(sample / middle)).max(axis=1).mean() > DIFFUSE_PEAK:
            low = middle
        else:
            high = middle
    return _normalise(log_probs / low)


def encode(bundle: str, manifest: str, limit: int | None) -> Utterances:
    """The CTC log-probs of a manifest's recordings by a bundle in ONNX Runtime."""
    from voxformer.audio import read_audio
    from voxformer.data import read_manifest
    from voxformer.evaluation.models import open_bundle
    from voxformer.runtime import encode as run_encoder
    from voxformer.runtime import pad_batch, read_bundle

    model = open_bundle(read_bundle(bundle), "cpu", 0)
    log_probs: list[FloatArray] = []
    for utterance in read_manifest(manifest)[:limit]:
        waveforms, lengths = pad_batch([read_audio(utterance.audio_path, model.engine.sample_rate)])
        encoded = run_encoder(model.engine, waveforms, lengths)
        log_probs.append(encoded.log_probs[0, : int(encoded.lengths[0])])
    return Utterances(log_probs, list(model.vocabulary.tokens[: log_probs[0].shape[1]]))


def _sentence(
    language: Language, frames: int, number: int, seed: int
) -> tuple[list[int], np.random.Generator]:
    """What utterance `number` says, and the generator of all else of it."""
    rng = np.random.default_rng([seed, len(language.tokens), frames, number])
    return language.sentence(rng, frames), rng


def _path(
    token_ids: Sequence[int], frames: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The token of each frame, 0 for blank, and the token said last before it (or first)."""
    path = np.zeros(frames, dtype=np.int64)
    nearest = np.full(frames, token_ids[0], dtype=np.int64)
    frame = int(rng.integers(2, 8))
    for token in token_ids:
        end = frame + (2 if rng.random() < 0.2 else 1)
        if end >= frames:
            break
        path[frame:end] = token
        nearest[frame:] = token
        frame = end + int(rng.integers(1, 7))
    return path, nearest


def _normalise(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scores = scores - scores.max(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return normalised
