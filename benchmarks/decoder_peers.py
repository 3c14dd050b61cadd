"""One adapter for each decoder of benchmarks/decoder.py.

What a user would have at hand is prepared outside the clock: contiguous float32 log-probs, or
probabilities for fast-ctc-decode; decoders, their language models and token tables. Inside is the
call that searches, with what it returns, and nothing else; of ours, whose text and times are made
when they are asked for, those of the best, which a search returns first. flashlight-text makes its
results' fields in the same way. Turning the result into ids is outside.

flashlight-text, pyctcdecode and ctc-beam-decoder keep a prefix that may end in blank or not as two
entries of the beam; ours and fast-ctc-decode as one. "Exact" is therefore the same search only as
the beam grows.

Imports a decoder only when it is opened: each worker runs in the environment that has it.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BLANK_ID = 0
SPACE = "\u2581"
UNLIMITED = 1e9
# At which a language model is applied, for every decoder: ln p(tokens) + 0.5 ln p(words).
LM_WEIGHT = 0.5
# Of each hotword, in nats: pyctcdecode's default weight.
HOTWORD_BOOST = 10.0
# What pyctcdecode drops by default, in the names of our options.
PRUNED = {"beam_threshold": 10.0, "token_min_log_prob": -5.0}


class Unsupported(ValueError):
    """A decoder cannot do what a cell asks for; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What a decoder is opened with.

    Attributes:
        tokens: the vocabulary by id, with the blank at 0 and `▁` as SentencePiece has it.
        beam: prefixes kept.
        threads: utterances decoded at once.
        token_lm: ARPA file of 3-grams over tokens, or None.
        word_lm: ARPA file of 3-grams over words, or None.
        hotwords: words to prefer.
        options: of the adapter, from `CONFIGURATIONS`.
    """

    tokens: list[str]
    beam: int
    threads: int = 1
    token_lm: str | None = None
    word_lm: str | None = None
    hotwords: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """A decoder with options; `limits` says in words what its search leaves out."""

    library: str
    options: dict[str, Any]
    limits: str


CONFIGURATIONS = {
    "voxformer": Configuration("voxformer", {"n_best": None}, "exact; whole beam, with times"),
    "voxformer, best only": Configuration("voxformer", {"n_best": 1}, "exact; best, with times"),
    "voxformer, LM over words": Configuration(
        "voxformer", {"n_best": None, "lm_unit": "word"}, "exact; whole beam, with times"
    ),
    "voxformer, pruned": Configuration(
        "voxformer", {"n_best": None, **PRUNED}, "as pyctcdecode's defaults; whole beam, with times"
    ),
    "voxformer, pruned, best only": Configuration(
        "voxformer", {"n_best": 1, **PRUNED}, "as pyctcdecode's defaults; best, with times"
    ),
    "voxformer, pruned, LM over words": Configuration(
        "voxformer",
        {"n_best": None, "lm_unit": "word", **PRUNED},
        "as pyctcdecode's defaults; whole beam, with times",
    ),
    # The package has no defaults; these are those of torchaudio's ctc_decoder, built on it.
    "flashlight-text": Configuration(
        "flashlight-text",
        {"log_add": False, "threshold": 50.0, "tokens": None},
        "torchaudio's defaults: best alignment instead of the sum, 50 nats below the best dropped",
    ),
    "flashlight-text, exact": Configuration(
        "flashlight-text",
        {"log_add": True, "threshold": UNLIMITED, "tokens": None},
        "sum over alignments, all tokens, no threshold",
    ),
    "flashlight-text, pruned": Configuration(
        "flashlight-text",
        {"log_add": True, "threshold": 25.0, "tokens": 32},
        "sum over alignments, 32 tokens a frame, 25 nats below the best dropped",
    ),
    "pyctcdecode": Configuration(
        "pyctcdecode", {}, "defaults: tokens under e^-5 and prefixes 10 nats below the best dropped"
    ),
    "pyctcdecode, exact": Configuration(
        "pyctcdecode",
        {"beam_prune_logp": -UNLIMITED, "token_min_logp": -UNLIMITED},
        "all tokens, no threshold",
    ),
    "ctc-beam-decoder": Configuration("ctc-beam-decoder", {}, "defaults: as pyctcdecode"),
    "ctc-beam-decoder, exact": Configuration(
        "ctc-beam-decoder",
        {"beam_prune_logp": -UNLIMITED, "token_min_logp": -UNLIMITED},
        "all tokens, no threshold",
    ),
    "fast-ctc-decode": Configuration("fast-ctc-decode", {"cut": 0.0}, "defaults: nothing dropped"),
    "fast-ctc-decode, pruned": Configuration(
        "fast-ctc-decode",
        {"cut": 0.0067},
        "tokens under e^-5 dropped, or under half of 1/vocabulary where that is less",
    ),
}
FLOOR = "row maximum (NumPy)"


class Adapter(Protocol):
    """A decoder that is open.

    Attributes:
        version: of its package.
        parallel: how it decodes several utterances at once. `own`: `decode` takes all of them;
            `threads`: its search lets go of Python's lock; `processes`: it does not.
        items: what `decode` takes, one for each utterance (`own`: one for all).
    """

    version: str
    parallel: str
    items: Sequence[Any]

    def decode(self, item: Any) -> Any:
        """The search, timed."""
        ...

    def token_ids(self, result: Any) -> list[list[int]]:
        """The best hypothesis of each utterance in what `decode` returned, not timed."""
        ...


class VoxFormer:
    """Ours. All utterances are one padded batch, as `voxformer` itself makes them."""

    parallel = "own"

    def __init__(self, setting: Setting, log_probs: Sequence[FloatArray]) -> None:
        decoding = importlib.import_module("voxformer.decoding")
        self.version = importlib.import_module("voxformer").__version__
        unit = setting.options.get("lm_unit", "token")
        path = setting.token_lm if unit == "token" else setting.word_lm
        if unit == "word" and path is None:
            raise Unsupported("the same as voxformer where there is no language model")
        model = None if path is None else decoding.NgramLanguageModel.load(path, cache=False)
        n_best = setting.options["n_best"] or setting.beam
        pruned = {name: setting.options[name] for name in PRUNED if name in setting.options}
        options = decoding.BeamOptions(setting.beam, n_best, BLANK_ID, **pruned)
        self._decoder = decoding.CtcBeamDecoder(
            setting.tokens,
            options,
            setting.threads,
            language_model=model,
            hotwords=dict.fromkeys(setting.hotwords, HOTWORD_BOOST),
            fusion=decoding.FusionOptions(lm_weight=LM_WEIGHT, lm_unit=unit),
        )
        lengths = np.array([len(utterance) for utterance in log_probs])
        if len(log_probs) == 1:
            batch = log_probs[0][None]
        else:
            shape = (len(log_probs), int(lengths.max()), log_probs[0].shape[1])
            batch = np.zeros(shape, dtype=np.float32)
            for row, utterance in zip(batch, log_probs, strict=True):
                row[: len(utterance)] = utterance
        self.items = [(batch, lengths)]

    def decode(self, item: Any) -> Any:
        result = self._decoder.decode(*item)
        for hypotheses in result:
            _ = hypotheses[0].text  # with which all else of the best is made
        return result

    def token_ids(self, result: Any) -> list[list[int]]:
        return [list(hypotheses[0].token_ids) for hypotheses in result]


class Flashlight:
    """flashlight-text's LexiconFreeDecoder: with ZeroLM, or KenLM over tokens.

    It returns all of its beam, each hypothesis with a token for every frame.
    """

    parallel = "processes"

    def __init__(self, setting: Setting, log_probs: Sequence[FloatArray]) -> None:
        library = importlib.import_module("flashlight.lib.text.decoder")
        self.version = version("flashlight-text")
        if setting.hotwords:
            raise Unsupported("LexiconFreeDecoder has no hotwords")
        vocab = len(setting.tokens)
        options = library.LexiconFreeDecoderOptions(
            beam_size=setting.beam,
            beam_size_token=min(setting.options["tokens"] or vocab, vocab),
            beam_threshold=setting.options["threshold"],
            # KenLM's scores come in common logarithms.
            lm_weight=LM_WEIGHT * float(np.log(10.0)) if setting.token_lm else 0.0,
            sil_score=0.0,
            log_add=setting.options["log_add"],
            criterion_type=library.CriterionType.CTC,
        )
        if setting.token_lm:
            kenlm = importlib.import_module("flashlight.lib.text.decoder.kenlm")
            dictionary = importlib.import_module("flashlight.lib.text.dictionary")
            self._lm = kenlm.KenLM(setting.token_lm, dictionary.Dictionary(setting.tokens))
        else:
            self._lm = library.ZeroLM()
        # A silence token pads both ends of the result; -1 is none of ours.
        self._decoder = library.LexiconFreeDecoder(options, self._lm, -1, BLANK_ID, [])
        self.items = list(log_probs)

    def decode(self, item: FloatArray) -> Any:
        return self._decoder.decode(item.ctypes.data, *item.shape)

    def token_ids(self, result: Any) -> list[list[int]]:
        path = np.array(result[0].tokens[1:-1])
        kept = path[np.insert(path[1:] != path[:-1], 0, True)] if len(path) else path
        return [[int(i) for i in kept if i != BLANK_ID]]


class PyCtcDecode:
    """pyctcdecode, or ctc-beam-decoder, which has its interface.

    Both decode to text, with times of words, and return all of their beam. Texts lose a space at
    either end or after another space. In both, the language model is over words.
    """

    def __init__(
        self, setting: Setting, log_probs: Sequence[FloatArray], module: str = "pyctcdecode"
    ) -> None:
        library = importlib.import_module(module)
        ours = module == "ctc_beam_decoder"
        self.version = version(module.replace("_", "-"))
        self.parallel = "threads" if ours else "processes"
        self._options = {**setting.options, "beam_width": setting.beam}
        if setting.hotwords:
            self._options["hotwords"] = setting.hotwords
        labels, self._ids = readable(setting.tokens)
        lm: dict[str, Any] = {}
        if setting.word_lm:
            lm = {"kenlm_model_path": setting.word_lm, "alpha": LM_WEIGHT}
            if setting.options:
                lm["beta"] = 0.0
        self._decoder = library.build_ctcdecoder(labels, **lm)
        self.items = list(log_probs)

    def decode(self, item: FloatArray) -> Any:
        return self._decoder.decode_beams(item, **self._options)

    def token_ids(self, result: Any) -> list[list[int]]:
        text = result[0][0] if result else ""
        return [[self._ids[c] for c in text if c in self._ids]]


class CtcBeamDecoder(PyCtcDecode):
    """ctc-beam-decoder."""

    def __init__(self, setting: Setting, log_probs: Sequence[FloatArray]) -> None:
        super().__init__(setting, log_probs, "ctc_beam_decoder")


class FastCtcDecode:
    """fast-ctc-decode: from probabilities to the best text and the frame of each token."""

    parallel = "threads"

    def __init__(self, setting: Setting, log_probs: Sequence[FloatArray]) -> None:
        library = importlib.import_module("fast_ctc_decode")
        self.version = version("fast-ctc-decode")
        if setting.token_lm or setting.hotwords:
            raise Unsupported("it has neither language model nor hotwords")
        self._search = library.beam_search
        vocab = len(setting.tokens)
        self._alphabet = [chr(FIRST_PRIVATE + i) for i in range(vocab)]
        self._beam = setting.beam
        self._cut = min(setting.options["cut"], 0.5 / vocab)
        self.items = [np.exp(utterance) for utterance in log_probs]

    def decode(self, item: FloatArray) -> Any:
        return self._search(item, self._alphabet, self._beam, self._cut)

    def token_ids(self, result: Any) -> list[list[int]]:
        return [[ord(c) - FIRST_PRIVATE for c in result[0]]]


class Floor:
    """No search: the largest value of each row, which any search has to find."""

    parallel = "threads"

    def __init__(self, setting: Setting, log_probs: Sequence[FloatArray]) -> None:
        if setting.token_lm or setting.hotwords:
            raise Unsupported("nothing is searched")
        self.version = np.__version__
        self.items = list(log_probs)

    def decode(self, item: FloatArray) -> Any:
        return item.max(axis=1)

    def token_ids(self, result: Any) -> list[list[int]]:
        return [[]]


FIRST_PRIVATE = 0xE000
ADAPTERS: dict[str, Any] = {
    "voxformer": VoxFormer,
    "flashlight-text": Flashlight,
    "pyctcdecode": PyCtcDecode,
    "ctc-beam-decoder": CtcBeamDecoder,
    "fast-ctc-decode": FastCtcDecode,
    "floor": Floor,
}


def open_adapter(library: str, setting: Setting, log_probs: Sequence[FloatArray]) -> Adapter:
    """A decoder, ready to be timed.

    Raises:
        Unsupported: it cannot do what is asked for.
        ImportError: it is not installed in this environment.
    """
    adapter: Adapter = ADAPTERS[library](setting, log_probs)
    return adapter


def readable(tokens: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Labels for a decoder that returns text, and the id of each of their characters.

    Each token but blank has one character of its own, after `▁` where the token begins a word; the
    token `▁` is a space if no other token begins with it.
    """
    spells = not any(t.startswith(SPACE) and t != SPACE for t in tokens)
    labels, ids = [""], {}
    for i, token in enumerate(tokens):
        if i == BLANK_ID:
            continue
        if token == SPACE and spells:
            label = character = " "
        else:
            character = token[-1] if len(token.replace(SPACE, "")) == 1 else ""
            if not character or character in ids:
                character = chr(FIRST_PRIVATE + i)
            label = SPACE + character if token.startswith(SPACE) else character
        labels.append(label)
        ids[character] = i
    return labels, ids


def return_freed_memory() -> None:
    """Give what the allocator holds back to the system, so that growth is growth (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
