from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voxformer.audio.io import read_audio
from voxformer.config.schema import AugmentConfig
from voxformer.data import Utterance, loader
from voxformer.data.loader import Batch, decode_all, iterate_batches
from voxformer.data.sampler import BucketingSampler

RATE = 16000
AUGMENT = AugmentConfig(noise_probability=0.5)


def batches_of(utterances, tokenizer, start=0, workers=0, **options) -> list[Batch]:
    sampler = BucketingSampler([u.duration for u in utterances], 4, 8.0, seed=1)
    options = {"augment": AUGMENT, "seed": 1, **options}
    return list(
        iterate_batches(utterances, tokenizer, sampler, 3, start, num_workers=workers, **options)
    )


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for field in fields(Batch):
            x, y = getattr(a, field.name), getattr(b, field.name)
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, field.name


def test_every_position_resumes_to_the_same_batches(corpus, tokenizer) -> None:
    whole = batches_of(corpus, tokenizer)
    for start in range(len(whole) + 1):
        assert_equal(batches_of(corpus, tokenizer, start), whole[start:])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(corpus, tokenizer, workers: int) -> None:
    assert_equal(batches_of(corpus, tokenizer, workers=workers), batches_of(corpus, tokenizer))


def test_a_cache_changes_nothing(corpus, tokenizer) -> None:
    cache = decode_all(corpus)
    assert cache is not None
    assert len(cache) == len(corpus)
    assert_equal(batches_of(corpus, tokenizer, cache=cache), batches_of(corpus, tokenizer))
    assert decode_all(corpus, max_hours=0.001) is None


def test_an_utterance_is_the_same_in_whatever_batch(corpus, tokenizer) -> None:
    def waveforms(order: list[Utterance]) -> dict[str, torch.Tensor]:
        return {
            name: batch.waveforms[row, : batch.waveform_lengths[row]]
            for batch in batches_of(order, tokenizer)
            for row, name in enumerate(batch.ids)
        }

    forward, backward = waveforms(corpus), waveforms(corpus[::-1])
    assert forward.keys() == backward.keys()
    assert all(torch.equal(forward[name], backward[name]) for name in forward)


def test_contents(corpus, tokenizer) -> None:
    by_id = {u.id: u for u in corpus}
    for batch in batches_of(corpus, tokenizer, augment=None):
        assert batch.waveforms.dtype == torch.float32
        for tensor in (batch.waveform_lengths, batch.tokens, batch.token_lengths, batch.seeds):
            assert tensor.dtype == torch.int64
        for row, name in enumerate(batch.ids):
            length, count = batch.waveform_lengths[row], batch.token_lengths[row]
            expected = read_audio(by_id[name].audio_path)
            np.testing.assert_allclose(batch.waveforms[row, :length], expected, atol=2**-15)
            assert not batch.waveforms[row, length:].any()
            assert batch.tokens[row, :count].tolist() == tokenizer.encode(by_id[name].text)
            assert not batch.tokens[row, count:].any()
            assert batch.texts[row] == by_id[name].text
        assert batch.audio_seconds == pytest.approx(float(batch.waveform_lengths.sum()) / RATE)
        assert batch.bad == []


def test_epochs_and_seeds_change_the_audio(corpus, tokenizer) -> None:
    one = batches_of(corpus, tokenizer)[0]
    two = batches_of(corpus, tokenizer, seed=2)[0]
    assert one.ids == two.ids
    assert not torch.equal(one.seeds, two.seeds)
    assert one.audio_seconds != two.audio_seconds or not torch.equal(one.waveforms, two.waveforms)


def test_without_a_tokenizer_there_are_no_tokens(corpus) -> None:
    for batch in batches_of(corpus, None):
        assert batch.tokens.shape == (len(batch), 0)
        assert not batch.token_lengths.any()


def test_torch_random_state_is_left_alone(corpus, tokenizer) -> None:
    before = torch.random.get_rng_state()
    batches_of(corpus, tokenizer, workers=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_in_mid_epoch_is_left_out_and_named(
    corpus, tokenizer, tmp_path: Path, workers: int
) -> None:
    broken = tmp_path / "broken.flac"
    broken.write_bytes(corpus[7].audio_path.read_bytes()[:4000])
    utterances = [replace(u, audio_path=broken) if u.id == "u7" else u for u in corpus]
    good = {b.ids[0]: b for b in batches_of(corpus, tokenizer)}
    batches = batches_of(utterances, tokenizer, workers=workers)
    assert [name for b in batches for name, _ in b.bad] == ["u7"]
    assert sum(len(b) for b in batches) == len(corpus) - 1
    assert good.keys() >= {b.ids[0] for b in batches if not b.bad}


def test_a_batch_may_come_out_empty(corpus, tokenizer, tmp_path: Path) -> None:
    utterances = [replace(u, audio_path=tmp_path / "none.flac") for u in corpus[:3]]
    [batch] = batches_of(utterances, tokenizer)
    assert len(batch) == 0
    assert batch.waveforms.shape == (0, 0)
    assert batch.audio_seconds == 0.0
    assert len(batch.bad) == 3
    assert all("no such audio file" in reason for _, reason in batch.bad)


def test_audio_much_shorter_than_the_manifest_says_is_bad(corpus, tokenizer) -> None:
    [batch] = batches_of([replace(corpus[0], duration=3.0)], tokenizer)
    assert "truncated" in batch.bad[0][1]


def test_speed_is_kept_where_faster_speech_could_not_be_aligned(
    tokenizer, tmp_path: Path, write_audio
) -> None:
    text = "seven three"
    frames_needed = len(tokenizer.encode(text)) + 1  # ee
    samples = 400 + 160 * (4 * frames_needed - 1)
    path = write_audio(tmp_path / "a.wav", samples / RATE)
    utterance = Utterance("a", path, samples / RATE, text)
    fast = AugmentConfig(speed_factors=[1.1])
    [batch] = batches_of([utterance], tokenizer, augment=fast)
    assert int(batch.waveform_lengths[0]) == samples
    [batch] = batches_of([replace(utterance, text="one")], tokenizer, augment=fast)
    assert int(batch.waveform_lengths[0]) < samples


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_of_an_utterance_are_augmented_apart_and_resume(
    corpus, tokenizer, workers: int
) -> None:
    def batches(start: int = 0, num_workers: int = 0) -> list[Batch]:
        durations = [u.duration for u in corpus]
        sampler = BucketingSampler(durations, 4, 8.0, seed=1, weights=[2.5] * len(corpus))
        options = {"augment": AUGMENT, "seed": 1, "num_workers": num_workers}
        return list(iterate_batches(corpus, tokenizer, sampler, 3, start, **options))

    whole = batches(num_workers=workers)
    for start in (1, len(whole) // 2, len(whole) - 1):
        assert_equal(batches(start), whole[start:])
    heard: dict[str, list[tuple[int, bytes]]] = {}
    for batch in whole:
        for row, name in enumerate(batch.ids):
            samples = batch.waveforms[row, : batch.waveform_lengths[row]].numpy().tobytes()
            heard.setdefault(name, []).append((int(batch.seeds[row]), samples))
    assert sorted({len(copies) for copies in heard.values()}) == [2, 3]
    assert all(len(set(copies)) == len(copies) for copies in heard.values())
    # The first copy is what an epoch without weights would hold.
    single = {
        name: int(s)
        for b in batches_of(corpus, tokenizer)
        for name, s in zip(b.ids, b.seeds, strict=True)
    }
    assert all(single[name] in [seed for seed, _ in copies] for name, copies in heard.items())


def test_a_connection_that_breaks_before_the_signal_is_a_workers_death(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """As when a batch is being taken from a worker that is killed."""

    def broken() -> Iterator[Batch]:
        raise ConnectionResetError("reset by peer")
        yield

    def die(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    previous = signal.signal(signal.SIGALRM, die)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            next(loader._until_a_worker_dies(broken()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    monkeypatch.setattr(loader, "_SIGNAL_SECONDS", 0.0)
    with pytest.raises(ConnectionResetError):
        next(loader._until_a_worker_dies(broken()))
