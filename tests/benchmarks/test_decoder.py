"""The parts of benchmarks/decoder.py: matrices, exact scores, adapters and claims."""

from __future__ import annotations

import itertools
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import decoder_cells
import decoder_peers
import numpy as np
import pytest
from decoder_language import make_language, write_arpa, write_arpas
from decoder_matrices import MatrixError, Utterances, load, make
from decoder_report import claim_lines, claims, plot
from decoder_scoring import ctc_log_prob

PEERS_PYTHON = Path(__file__).resolve().parents[2] / "build" / "peers" / "bin" / "python"


@pytest.mark.parametrize("vocab", [29, 500])
@pytest.mark.parametrize("kind", ["peaky", "diffuse"])
def test_rows_are_distributions_and_follow_from_the_seed(kind, vocab):
    language = make_language(vocab, 3)
    [first, second], words = make(language, kind, 8.0, 2, seed=3)
    assert first.shape == (200, vocab)
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.exp(first.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)
    again, _ = make(make_language(vocab, 3), kind, 8.0, 2, seed=3)
    np.testing.assert_array_equal(again[0], first)
    assert not np.array_equal(first, second)
    assert len(words) == 2


def test_peaky_frames_are_blank_as_often_as_the_docstring_says():
    [log_probs], _ = make(make_language(500, 1), "peaky", 120.0, 1, seed=1)
    best = log_probs.argmax(axis=1)
    assert 0.7 <= (best == 0).mean() <= 0.8
    spikes = np.exp(log_probs.max(axis=1))[best != 0]
    assert spikes.min() > 0.55
    assert 0.7 < spikes.mean() < 0.9


def test_diffuse_peaks_average_what_the_docstring_says():
    [log_probs], _ = make(make_language(500, 1), "diffuse", 40.0, 1, seed=1)
    assert np.exp(log_probs.max(axis=1)).mean() == pytest.approx(0.4, abs=0.05)


def test_saved_matrices_are_read_back_and_others_refused(tmp_path):
    path = tmp_path / "some.npz"
    log_probs, _ = make(make_language(29, 1), "peaky", 4.0, 2, seed=1)
    Utterances([log_probs[0], log_probs[1][:60]], make_language(29, 1).tokens).save(path)
    found = load(path)
    np.testing.assert_array_equal(found.log_probs[1], log_probs[1][:60])
    Utterances([log_probs[0] + 1], found.tokens).save(path)
    with pytest.raises(MatrixError, match=r"some\.npz"):
        load(path)


def test_exact_score_equals_sum_over_alignments():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 3))
    log_probs = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        collapsed = tuple(i for i, _ in itertools.groupby(path) if i != 0)
        probability = np.exp(sum(float(log_probs[t, i]) for t, i in enumerate(path)))
        sums[collapsed] = sums.get(collapsed, 0.0) + probability
    for token_ids, probability in sums.items():
        assert ctc_log_prob(log_probs, token_ids) == pytest.approx(np.log(probability), abs=1e-9)
    assert ctc_log_prob(log_probs, [1] * 4) == -np.inf


def test_backed_off_probabilities_sum_to_one(tmp_path):
    path = tmp_path / "lm.arpa"
    write_arpa([["a", "b", "a"], ["a", "c"], ["b"]], path)
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in path.read_text().splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            backoff = 10 ** float(parts[2]) if len(parts) > 2 else 1.0
            grams[tuple(parts[1].split())] = (10 ** float(parts[0]), backoff)

    def probability(gram):
        if gram in grams:
            return grams[gram][0]
        return grams.get(gram[:-1], (0.0, 1.0))[1] * probability(gram[1:])

    words = ["a", "b", "c", "</s>", "<unk>"]
    for history in [(), ("a",), ("<s>",), ("<s>", "a"), ("b", "a"), ("c", "b")]:
        total = sum(probability((*history, word)) for word in words)
        assert total == pytest.approx(1.0, abs=1e-4)


def test_labels_can_be_read_back_as_ids():
    for tokens in (
        make_language(29, 1).tokens,
        make_language(500, 1).tokens,
        ["<blank>", "<unk>", "▁", "▁the", "s", "ing"],
    ):
        labels, ids = decoder_peers.readable(tokens)
        assert len(labels) == len(set(labels)) == len(tokens)
        for token_id, label in enumerate(labels[1:], start=1):
            assert ids[label.removeprefix("▁")] == token_id


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [29, 120])
def test_every_decoder_finds_what_is_plain_to_see(tmp_path, vocab, threads):
    language = make_language(vocab, 5)
    frames = 50
    said = language.token_ids(language.sentence(np.random.default_rng(0), 9))[:12]
    log_probs = np.full((frames, vocab), np.log(1e-4 / (vocab - 1)), dtype=np.float32)
    path = np.zeros(frames, dtype=np.int64)
    path[3 : 3 + 3 * len(said) : 3] = said
    log_probs[np.arange(frames), path] = np.log1p(-1e-4)
    if language.spells:
        assert language.tokens.index("▁") not in (said[0], said[-1])
    material = decoder_cells.Material([log_probs, log_probs], language.tokens, tmp_path)
    peers = PEERS_PYTHON.exists()
    names = [
        name
        for name in decoder_peers.CONFIGURATIONS
        if (peers or name.startswith("voxformer")) and "LM" not in name
    ]
    bench = decoder_cells.Bench(
        str(PEERS_PYTHON) if peers else None, 1, 30.0, 4.0, names, random.Random(0)
    )
    cell = decoder_cells.Cell("peaky", vocab, 2.0, 4, threads)
    result = bench.measure(cell, material)
    for name, found in result["decoders"].items():
        assert found["status"] == "ok", name
        assert found["lost_nats"] == pytest.approx(0.0, abs=1e-6), name


@pytest.mark.parametrize("extra", ["lm", "hotwords"])
def test_ours_takes_language_models_and_hotwords(tmp_path, extra):
    language = make_language(29, 1)
    log_probs, _ = make(language, "peaky", 4.0, 1, seed=1)
    material = decoder_cells.Material(log_probs, language.tokens, tmp_path)
    by_token, by_word = write_arpas(language, 0, tmp_path)
    material.token_lm, material.word_lm = str(by_token), str(by_word)
    material.hotwords = ["ab"]
    names = ["voxformer", "voxformer, LM over words"]
    bench = decoder_cells.Bench(None, 1, 30.0, 4.0, names, random.Random(0))
    result = bench.measure(decoder_cells.Cell("peaky", 29, 4.0, 4, extra=extra), material)
    same = "skipped: the same as voxformer where there is no language model"
    over_words = "ok" if extra == "lm" else same
    assert [result["decoders"][name]["status"] for name in names] == ["ok", over_words]


def test_decoder_that_took_too_long_is_left_out_of_larger_cells_by_name(tmp_path):
    language = make_language(29, 1)
    log_probs, _ = make(language, "peaky", 4.0, 1, seed=1)
    material = decoder_cells.Material(log_probs, language.tokens, tmp_path)
    names = ["voxformer, best only"]
    bench = decoder_cells.Bench(None, 1, 30.0, 4.0, names, random.Random(0))
    small = decoder_cells.Cell("peaky", 29, 2.0, 4)
    bench.slow[names[0]] = [(small, "7.0 s")]
    result = bench.measure(decoder_cells.Cell("peaky", 29, 4.0, 4), material)
    status = result["decoders"][names[0]]["status"]
    assert status == f"skipped: too slow (7.0 s at {small})"
    unlike = bench.measure(decoder_cells.Cell("diffuse", 29, 4.0, 4), material)
    assert unlike["decoders"][names[0]]["status"] == "ok"


def figures(ratio, **more):
    return {"status": "ok", "cpu_s": 0.01 * ratio, "cpu_over_ours": ratio, "lost_nats": 0.0, **more}


def cell(seconds, peer_ratio):
    return {
        "kind": "peaky",
        "vocab": 2001,
        "seconds": seconds,
        "beam": 10,
        "threads": 1,
        "extra": "none",
        "frames": int(seconds * 25),
        "decoders": {"voxformer": figures(1.0), "flashlight-text": figures(peer_ratio)},
    }


def test_claims_are_decided_by_the_least_ratio():
    found = claims([cell(4.0, 90.0), cell(10.0, 30.0)])
    flashlight = found[0]
    [every] = [c for c in found if c["claim"].startswith("fastest peer / voxformer, CPU, 1 thread")]
    assert (flashlight["pass"], flashlight["least"], flashlight["cells"]) == (False, 30.0, 2)
    assert flashlight["over_aim"] == 0.75
    assert "10 s" in flashlight["cell"]
    assert every["pass"] is True
    assert found[1]["pass"] is None
    assert any("FAIL" in line and "30.00" in line for line in claim_lines(found))


def test_a_peer_that_returns_one_text_is_also_compared_with_ours_that_does() -> None:
    measured = {**cell(4.0, 90.0), "vocab": 29}
    measured["decoders"] = {
        "voxformer": figures(1.0),
        "voxformer, best only": figures(0.5),
        "fast-ctc-decode": figures(0.9),
    }
    least = {c["claim"]: c["least"] for c in claims([measured])}
    assert least["fast-ctc-decode / voxformer, CPU, peaky, 29 tokens, beam 10"] == 0.9
    assert least["fast-ctc-decode / voxformer, best only, CPU, peaky, 29 tokens, beam 10"] == 1.8
    alike = "fastest peer / ours as the peer is set, CPU, 1 thread, every cell"
    assert least[alike] == 1.8


def test_plot_is_well_formed_and_has_a_line_for_each_decoder():
    svg = plot([cell(4.0, 90.0)], "a < b")
    root = ElementTree.fromstring(svg)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
