"""Random back-off models as ARPA text, and a scorer that knows nothing but the definition."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

LN_10 = 2.302585092994046
WORDS = ["a", "b", "c", "dé", "слово", "日本", "x\u00a0y", "<unk>"]


@dataclass
class ArpaModel:
    """`ngrams`: log10 p and back-off weight (None where the file has none) by words."""

    order: int
    ngrams: dict[tuple[str, ...], tuple[float, float | None]] = field(default_factory=dict)

    @property
    def vocabulary(self):
        return {words[0] for words in self.ngrams if len(words) == 1}

    def of_length(self, length):
        return [words for words in self.ngrams if len(words) == length]

    def text(self, separator="\t", line_end="\n"):
        lines = ["\\data\\"]
        lines += [f"ngram {n}={len(self.of_length(n))}" for n in range(1, self.order + 1)]
        for n in range(1, self.order + 1):
            lines += ["", f"\\{n}-grams:"]
            for words in self.of_length(n):
                log10_prob, backoff = self.ngrams[words]
                fields = [repr(log10_prob), " ".join(words)]
                if backoff is not None:
                    fields.append(repr(backoff))
                lines.append(separator.join(fields))
        return line_end.join([*lines, "", "\\end\\", ""])

    def full_scores(self, sentence, bos=True, eos=True):
        """Katz 1987 with nothing left out: ln p, n-gram length and whether a word is unknown."""
        # KenLM counts an n-gram that is only the end of a longer one as found.
        found = {words[i:] for words in self.ngrams for i in range(len(words))}
        vocabulary = self.vocabulary
        history = ["<s>"] if bos else []
        scores = []
        for original in [*sentence, *(["</s>"] if eos else [])]:
            word = original if original in vocabulary else "<unk>"
            context = tuple(history[max(0, len(history) - self.order + 1) :])
            length = next(
                len(context) - i + 1
                for i in range(len(context) + 1)
                if (*context[i:], word) in found or i == len(context)
            )
            log10_prob = self.log10_prob(context, word)
            scores.append((log10_prob * LN_10, length, word == "<unk>"))
            history.append(word)
        return scores

    def log10_prob(self, context, word):
        whole = (*context, word)
        if whole in self.ngrams:
            return self.ngrams[whole][0]
        if not context:
            return -100.0  # what KenLM gives to an <unk> that the file does not list
        _, backoff = self.ngrams.get(context, (0.0, None))
        return (backoff or 0.0) + self.log10_prob(context[1:], word)


def random_model(seed, order=None, ngrams=60, missing_suffixes=True, with_unknown=True):
    """N-grams that have their contexts, as KenLM demands, and not always their suffixes."""
    rng = random.Random(seed)
    order = order or rng.randint(2, 6)
    model = ArpaModel(order)
    vocabulary = [word for word in WORDS if word != "<unk>" or with_unknown]
    vocabulary = [*rng.sample(vocabulary[:-1], rng.randint(1, len(vocabulary) - 1)), vocabulary[-1]]
    unigrams = ["<s>", "</s>", *dict.fromkeys(vocabulary)]
    rng.shuffle(unigrams)

    def weights(length):
        log10_prob = -99.0 if rng.random() < 0.03 else -round(rng.uniform(0.5, 6.0), 7)
        if length == order:
            return log10_prob, rng.choice([None, None, 0.0])
        return log10_prob, rng.choice(
            [None, 0.0, 0.05, *(-round(rng.random(), 7) for _ in range(4))]
        )

    for word in unigrams:
        model.ngrams[word,] = weights(1)
    for length in range(2, order + 1):
        contexts = [words for words in model.of_length(length - 1) if words[-1] != "</s>"]
        for _ in range(rng.randint(0, ngrams) if contexts else 0):
            words = (*rng.choice(contexts), rng.choice([w for w in unigrams if w != "<s>"]))
            # Few enough for the room that KenLM's hash tables have for them.
            if words[1:] in model.ngrams or (missing_suffixes and rng.random() < 0.03):
                model.ngrams[words] = weights(length)
    return model


def random_sentence(rng, length=None):
    # The last is in no model.
    return rng.choices(
        [*WORDS, "out-of-vocabulary"], k=rng.randint(0, 12) if length is None else length
    )
