"""The n-gram model against a scorer by definition, against KenLM, and against damage."""

import gzip
import math
import os
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from voxformer.decoding import NgramLanguageModel, WordScore

from .arpa_models import WORDS, random_model, random_sentence

SEEDS = st.integers(0, 2**32 - 1)


def written(folder, model, name="lm.arpa", **style):
    path = folder / name
    path.write_bytes(model.text(**style).encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared by the examples of a property, which overwrite each other's files."""
    return tmp_path_factory.mktemp("models")


def assert_same(scores, expected):
    assert [score[1:] for score in scores] == [tuple(score[1:]) for score in expected]
    for score, (log_prob, _, _) in zip(scores, expected, strict=True):
        # The file's numbers are kept as floats, and KenLM adds floats.
        assert math.isclose(score.log_prob, log_prob, rel_tol=1e-6, abs_tol=2e-6)


@settings(deadline=None, max_examples=150)
@given(
    seed=SEEDS,
    with_unknown=st.booleans(),
    separator=st.sampled_from("\t "),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_scores_are_those_of_the_definition(folder, seed, with_unknown, separator, line_end):
    model = random_model(seed, with_unknown=with_unknown)
    path = written(folder, model, separator=separator, line_end=line_end)
    loaded = NgramLanguageModel.load(path, cache=False)
    assert loaded.order == model.order
    assert loaded.num_ngrams == tuple(len(model.of_length(n + 1)) for n in range(model.order))
    rng = random.Random(seed)
    for _ in range(20):
        sentence = random_sentence(rng)
        bos, eos = rng.random() < 0.7, rng.random() < 0.7
        expected = model.full_scores(sentence, bos, eos)
        scores = loaded.full_scores(sentence, bos, eos)
        assert_same(scores, expected)
        assert loaded.score(sentence, bos, eos) == sum(score.log_prob for score in scores)
    for word in [*WORDS, "out-of-vocabulary"]:
        assert (word in loaded) == (word in model.vocabulary - {"<unk>"})


@settings(deadline=None, max_examples=80)
@given(seed=SEEDS, with_unknown=st.booleans())
def test_scores_are_kenlms(folder, seed, with_unknown):
    kenlm = pytest.importorskip("kenlm")
    model = random_model(seed, with_unknown=with_unknown)
    path = written(folder, model)
    loaded = NgramLanguageModel.load(path, cache=False)
    try:
        theirs = kenlm.Model(os.fspath(path))
    except OSError as error:
        # Its hash tables may have no room for so many missing suffixes.
        refusal = str(error)
    else:
        refusal = ""
    assert refusal == "" or "pruning" in refusal
    assume(not refusal)
    rng = random.Random(seed)
    for _ in range(60):
        # KenLM splits sentences itself.
        sentence = random_sentence(rng)
        bos, eos = rng.random() < 0.7, rng.random() < 0.7
        expected = [
            (log10_prob * math.log(10), length, oov)
            for log10_prob, length, oov in theirs.full_scores(" ".join(sentence), bos, eos)
        ]
        assert_same(loaded.full_scores(sentence, bos, eos), expected)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_states_are_equal_where_kenlms_are(folder, seed):
    kenlm = pytest.importorskip("kenlm")
    path = written(folder, random_model(seed, missing_suffixes=False))
    core = NgramLanguageModel.load(path, cache=False).to_core()
    theirs = kenlm.Model(os.fspath(path))
    rng = random.Random(seed)
    pairs = []
    for _ in range(12):
        state, their_state = core.empty_state(), kenlm.State()
        theirs.NullContextWrite(their_state)
        if rng.random() < 0.5:
            state = core.begin_state()
            theirs.BeginSentenceWrite(their_state)
        for word in random_sentence(rng):
            _, state = core.score(state, core.find(word.encode()))
            their_next = kenlm.State()
            theirs.BaseScore(their_state, word, their_next)
            their_state = their_next
        pairs.append((state, their_state))
    for state, their_state in pairs:
        for other, their_other in pairs:
            assert (state == other) == (their_state == their_other)
            assert state != other or hash(state) == hash(other)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_equal_states_have_equal_futures(folder, seed):
    core = NgramLanguageModel.load(written(folder, random_model(seed)), cache=False).to_core()
    rng = random.Random(seed)
    ids = [core.find(word.encode()) for word in WORDS]
    futures = {}
    for _ in range(30):
        state = rng.choice([core.begin_state(), core.empty_state()])
        for word in rng.choices(ids, k=rng.randint(0, 6)):
            _, state = core.score(state, word)
        assert len(state.words) < core.order
        future = [core.score(state, word) for word in ids]
        assert futures.setdefault(state, future) == future


@settings(deadline=None, max_examples=150)
@given(seed=SEEDS, data=st.data())
def test_a_damaged_voxlm_file_is_refused(folder, seed, data):
    path = written(folder, random_model(seed, ngrams=20), name="damaged.arpa")
    NgramLanguageModel.load(path)
    image = bytearray((folder / "damaged.arpa.voxlm").read_bytes())
    kind = data.draw(st.sampled_from(["bytes", "cut", "more"]))
    damaged = bytearray(image)
    if kind == "cut":
        damaged = damaged[: data.draw(st.integers(0, len(image) - 1))]
    elif kind == "more":
        damaged += bytes(data.draw(st.integers(1, 64)))
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    (folder / "other.voxlm").write_bytes(damaged)
    if damaged == image:
        return
    with pytest.raises(ValueError, match=r"other\.voxlm: ") as refusal:
        NgramLanguageModel.load(folder / "other.voxlm")
    assert "\n" not in str(refusal.value)


@settings(deadline=None, max_examples=300)
@given(seed=SEEDS, data=st.data())
def test_a_damaged_arpa_file_is_refused_or_is_a_model(folder, seed, data):
    text = bytearray(random_model(seed, ngrams=10).text().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        piece = data.draw(
            st.sampled_from([b"", b"\n", b"\t", b" ", b"0", b"-", b"e9", b"nan", b"\xff", b"\0"])
        )
        text[start:end] = piece
    path = folder / "damaged.arpa"
    path.write_bytes(text)
    try:
        model = NgramLanguageModel.load(path, cache=False)
    except ValueError as error:
        refusal = str(error)
    else:
        assert all(math.isfinite(score.log_prob) for score in model.full_scores(WORDS * 3))
        return
    assert refusal.startswith(f"{path}, line ")
    assert "\n" not in refusal


@pytest.mark.parametrize("name", ["lm.arpa.gz", "no-suffix"])
def test_gzip_is_seen_from_the_file_and_not_its_name(tmp_path, name):
    model = random_model(3)
    plain = NgramLanguageModel.load(written(tmp_path, model), cache=False)
    path = tmp_path / name
    path.write_bytes(gzip.compress(model.text().encode()))
    assert NgramLanguageModel.load(path, cache=False).full_scores(WORDS) == plain.full_scores(WORDS)


def test_damaged_gzip_is_a_value_error(tmp_path):
    whole = gzip.compress(random_model(3).text().encode())
    path = tmp_path / "lm.arpa.gz"
    for damaged in [whole[:-1], whole[:40], whole[:30] + b"\xff" * 9 + whole[39:], whole[:3]]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"lm\.arpa\.gz"):
            NgramLanguageModel.load(path)
    assert os.listdir(tmp_path) == ["lm.arpa.gz"]


def test_the_second_load_maps_what_the_first_wrote(tmp_path, monkeypatch):
    path = written(tmp_path, random_model(5))
    first = NgramLanguageModel.load(path)
    assert sorted(os.listdir(tmp_path)) == ["lm.arpa", "lm.arpa.voxlm"]
    monkeypatch.setattr("voxformer.decoding.language_model._read_arpa", None)
    second = NgramLanguageModel.load(path)
    alone = NgramLanguageModel.load(tmp_path / "lm.arpa.voxlm")
    renamed = tmp_path / "renamed"
    (tmp_path / "lm.arpa.voxlm").rename(renamed)
    for model in [second, alone, NgramLanguageModel.load(renamed)]:
        assert model.full_scores(WORDS) == first.full_scores(WORDS)
        assert bytes(memoryview(model.to_core())) == renamed.read_bytes()


def test_the_cache_may_be_elsewhere_or_nowhere(tmp_path):
    source, other = tmp_path / "source", tmp_path / "other"
    source.mkdir()
    other.mkdir()
    path = written(source, random_model(5))
    NgramLanguageModel.load(path, cache=False)
    NgramLanguageModel.load(path, cache=other)
    NgramLanguageModel.load(path, cache=other / "mine.voxlm")
    assert os.listdir(source) == ["lm.arpa"]
    assert sorted(os.listdir(other)) == ["lm.arpa.voxlm", "mine.voxlm"]
    with pytest.raises(ValueError, match=r"end with \.voxlm"):
        NgramLanguageModel.load(path, cache=path)


@pytest.mark.parametrize("kind", ["of another time", "of another size", "damaged"])
def test_a_cache_that_is_not_the_files_is_made_again(tmp_path, kind):
    path = written(tmp_path, random_model(5))
    cached = tmp_path / "lm.arpa.voxlm"
    NgramLanguageModel.load(path)
    if kind == "damaged":
        cached.write_bytes(cached.read_bytes()[:-8])
    elif kind == "of another time":
        os.utime(path, ns=(0, 12345))
    else:
        status = path.stat()
        path.write_bytes(path.read_bytes() + b"\n")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    NgramLanguageModel.load(path)
    assert NgramLanguageModel.load(cached).to_core().source == (
        path.stat().st_size,
        path.stat().st_mtime_ns,
    )
    assert sorted(os.listdir(tmp_path)) == ["lm.arpa", "lm.arpa.voxlm"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxformer.decoding.language_model.write_atomically", refuse)
    path = written(tmp_path, random_model(5))
    with pytest.warns(RuntimeWarning, match=r"lm\.arpa\.voxlm: not written \(No space left"):
        model = NgramLanguageModel.load(path)
    assert model.full_scores(WORDS) == NgramLanguageModel.load(path, cache=False).full_scores(WORDS)
    with pytest.raises(OSError, match="No space left"):
        NgramLanguageModel.load(path, cache=tmp_path)


def test_a_mapped_model_outlives_its_file(tmp_path):
    path = written(tmp_path, random_model(5))
    model = NgramLanguageModel.load(path)
    scores = model.full_scores(WORDS)
    written(tmp_path, random_model(6))
    NgramLanguageModel.load(path)
    os.unlink(tmp_path / "lm.arpa.voxlm")
    assert model.full_scores(WORDS) == scores


def test_files_that_are_not_there_or_no_models(tmp_path):
    with pytest.raises(FileNotFoundError):
        NgramLanguageModel.load(tmp_path / "lm.arpa")
    for name, content in [("lm.voxlm", b""), ("lm.voxlm", b"\\data\\\n"), ("lm.arpa", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            NgramLanguageModel.load(tmp_path / name)
    # What is quoted need not be text.
    (tmp_path / "lm.arpa").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r'line 1: .*"\\xff\\xfe"'):
        NgramLanguageModel.load(tmp_path / "lm.arpa")


def test_scores_worked_out_by_hand(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(
        "\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t-0.5\n-2\t</s>\n"
        "-0.5\ta\t-0.25\n\n\\2-grams:\n-0.125\t<s> a\n-0.0625\ta a\n\n\\end\\\n"
    )
    model = NgramLanguageModel.load(path)
    assert (model.order, model.num_ngrams) == (2, (4, 2))
    expected = [(-0.125, 2, False), (-0.0625, 2, False), (-1.25, 1, True), (-2.0, 1, False)]
    scores = model.full_scores("a a b")
    assert scores == [WordScore(p * math.log(10), n, oov) for p, n, oov in expected]
    assert model.score(["a", "a", "b"]) == sum(score.log_prob for score in scores)
    assert model.score("", eos=False) == 0.0
    assert model.score(["a\ud800"], bos=False, eos=False) == -math.log(10)
    assert "a" in model
    assert "b" not in model
    assert "<unk>" not in model
