"""When tokens and words were said: our times and those of other decoders, beside the truth.

    python benchmarks/decoder_times.py --json benchmarks/results/decoder-times.json

Made-up matrices (`decoder_matrices.py`) are drawn from a path, which says in which frames each
token is spoken. The best hypothesis of every decoder is aligned with it (`difflib`), and of what
agrees a time is right if it lies in those frames; an error is the distance to the nearest of them,
in frames of 40 ms. flashlight-text returns a token for every frame, whose first frames torchaudio
takes; fast-ctc-decode a frame for each token; pyctcdecode and ctc-beam-decoder the first frame of
each word and the one after its last. Ours has peaks, starts and ends of tokens. Peers are run by
the interpreter of `build/peers`, see decoder.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from decoder_language import SPACE, Language, make_language
from decoder_matrices import make, paths
from decoder_peers import BLANK_ID, CONFIGURATIONS, Setting, open_adapter

SECONDS, UTTERANCES, BEAM = 30.0, 4, 10
TOKENS = ("voxformer", "flashlight-text, exact", "fast-ctc-decode")
WORDS = ("voxformer", "pyctcdecode", "ctc-beam-decoder")
COLUMNS = ("matrices", "decoder", "time of", "compared", "right", "mean error", "largest error")


@dataclass(frozen=True)
class Spoken:
    """A token or a word, and the frames in which it is, from `first` to `last`."""

    what: str
    first: int
    last: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of decoders' times, in frames.")
    parser.add_argument("--vocabs", nargs="+", type=int, default=[29, 500])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers-python", default="build/peers/bin/python")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        name, kind, vocab = args.alone
        print(json.dumps(_decode(name, kind, int(vocab), args.seed)))
        return
    from voxformer.evaluation.circumstances import circumstances
    from voxformer.evaluation.results import write_json

    rows: list[list[Any]] = []
    for vocab in args.vocabs:
        language = make_language(vocab, args.seed)
        truth = paths(language, SECONDS, UTTERANCES, args.seed)
        said = {
            "token": [_tokens_of(path.tolist()) for path in truth],
            "word": [_words_of(_tokens_of(path.tolist()), language) for path in truth],
        }
        for kind in ("peaky", "diffuse"):
            for name in dict.fromkeys(TOKENS + WORDS):
                python = sys.executable if name == "voxformer" else args.peers_python
                command = [python, __file__, "--seed", str(args.seed), "--alone", name, kind]
                done = subprocess.run([*command, str(vocab)], stdout=subprocess.PIPE, check=True)
                for what, unit, found in json.loads(done.stdout):
                    heard = [[Spoken(*item) for item in utterance] for utterance in found]
                    row = _compare(said[unit], heard, last=what.endswith("end"))
                    rows.append([f"{kind}, {vocab} tokens", name, f"{unit}: {what}", *row])
                    print("  ".join(map(str, rows[-1])), flush=True)
    if args.json:
        note = (
            f"{UTTERANCES} utterances of {SECONDS:g} s, seed {args.seed}, beam {BEAM}; frames of "
            "40 ms."
        )
        results = {"columns": list(COLUMNS), "rows": rows, "note": note}
        write_json(args.json, {**results, **circumstances()})


def _decode(name: str, kind: str, vocab: int, seed: int) -> list[tuple[str, str, list[Any]]]:
    """What a time is of, in tokens or words, and for each utterance what was heard when."""
    language = make_language(vocab, seed)
    log_probs, _ = make(language, kind, SECONDS, UTTERANCES, seed)
    configuration = CONFIGURATIONS[name]
    setting = Setting(language.tokens, BEAM, options=configuration.options)
    adapter = open_adapter(configuration.library, setting, log_probs)
    results = [adapter.decode(item) for item in adapter.items]
    if name == "voxformer":
        return _ours([hypotheses[0] for hypotheses in results[0]], language)
    if name.startswith("flashlight"):
        heard = [_tokens_of(result[0].tokens[1:-1]) for result in results]
        return [("first frame", "token", [_firsts(tokens) for tokens in heard])]
    if name.startswith("fast"):
        ids = [adapter.token_ids(result)[0] for result in results]
        pairs = [zip(i, result[1], strict=True) for i, result in zip(ids, results, strict=True)]
        return [("its frame", "token", [[(str(i), t, t) for i, t in pair] for pair in pairs])]
    words = [[(word, times) for word, times in result[0][2]] for result in results]
    return [
        ("first frame", "word", [[(w, t[0], t[0]) for w, t in utterance] for utterance in words]),
        ("end", "word", [[(w, t[1] - 1, t[1] - 1) for w, t in utterance] for utterance in words]),
    ]


def _ours(best: Sequence[Any], language: Language) -> list[tuple[str, str, list[Any]]]:
    tokens = [
        [Spoken(str(i), first, end - 1) for i, first, end in zip(*parts, strict=True)]
        for parts in ((h.token_ids, h.token_starts, h.token_ends) for h in best)
    ]
    peaks = [[(str(i), t, t) for i, t in zip(h.token_ids, h.timesteps, strict=True)] for h in best]
    words = [_words_of(utterance, language) for utterance in tokens]
    return [
        ("peak", "token", peaks),
        ("first frame", "token", [_firsts(utterance) for utterance in tokens]),
        ("first frame", "word", [_firsts(utterance) for utterance in words]),
        ("end", "word", [[(w.what, w.last, w.last) for w in utterance] for utterance in words]),
    ]


def _firsts(heard: Iterable[Spoken]) -> list[tuple[str, int, int]]:
    return [(item.what, item.first, item.first) for item in heard]


def _tokens_of(path: Sequence[int]) -> list[Spoken]:
    """The runs of a path that has a token, or the blank, for every frame."""
    tokens: list[Spoken] = []
    for frame, token in enumerate(path):
        if token == BLANK_ID:
            continue
        if frame and path[frame - 1] == token:
            tokens[-1] = Spoken(str(token), tokens[-1].first, frame)
        else:
            tokens.append(Spoken(str(int(token)), frame, frame))
    return tokens


def _words_of(tokens: Sequence[Spoken], language: Language) -> list[Spoken]:
    """Words as they are written, from their first token's first frame to their last one's last."""
    words: list[Spoken] = []
    begins = True
    for token in tokens:
        text = language.tokens[int(token.what)]
        begins = begins or text.startswith(SPACE)
        text = text.replace(SPACE, "")
        if not text:
            continue
        if begins:
            words.append(Spoken(text, token.first, token.last))
        else:
            words[-1] = Spoken(words[-1].what + text, words[-1].first, token.last)
        begins = False
    return words


def _compare(
    said: Sequence[Sequence[Spoken]], heard: Sequence[Sequence[Spoken]], last: bool
) -> tuple[int, str, str, int]:
    """How many times were compared, were right, and by how many frames they were wrong.

    A time of a token may be any of its frames; of a word it is that of its first or last token.
    """
    errors: list[int] = []
    for truth, found in zip(said, heard, strict=True):
        matcher = SequenceMatcher(None, [s.what for s in truth], [h.what for h in found], False)
        for block in matcher.get_matching_blocks():
            for k in range(block.size):
                true, time = truth[block.a + k], found[block.b + k].first
                # Tokens are spoken in one or two frames.
                low, high = (true.last - 1, true.last) if last else (true.first, true.first + 1)
                low, high = max(low, true.first), min(high, true.last)
                errors.append(max(low - time, time - high, 0))
    right = sum(error == 0 for error in errors) / len(errors)
    return len(errors), f"{right:.2%}", f"{statistics.mean(errors):.3f}", max(errors)


if __name__ == "__main__":
    main()
