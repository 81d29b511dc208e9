"""A back-off n-gram model as flat arrays: scoring of sentences, and an automaton for search.

Conventions. Logarithms are base 10, as in ARPA files. A *node* is an n-gram; nodes are numbered order by
order: node 0 is the empty n-gram, node 1 + w the word w, then the bigrams, and so on. Within an order they
are sorted by (context node, last word). The *suffix* of a node is the longest shorter n-gram of the model
that ends it (usually w₂ … wₙ of w₁ … wₙ).

A *state* is the node of the longest part of the history that can still matter: one that has followers in the
model or a back-off weight. Two histories with the same state have the same future, which is what lets a beam
search merge them.

Source: Katz back-off as stored in the ARPA format; minimal states after Li & Khudanpur (2008).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from asr.errors import LanguageModelError
from asr.normalisation import composed

T = TypeVar("T")

UNKNOWN, START, END = "<unk>", "<s>", "</s>"


class NGramArrays(NamedTuple):
    """The automaton as flat record arrays, for `asr.lm.automaton.advance` inside numba code.

    Attributes:
        slots (power of two,): hash table of the n-grams of two words and more. `key` int64 is
            state · V + word, −1 where empty; `log10_prob` float32; `state` int32 after the word.
        contexts (highest state + 1,): `backoff` float32, `suffix` int32, the state to fall back to.
        words (V,): the single words; `log10_prob` float32, `state` int32 after the word alone.
    """

    slots: np.ndarray
    contexts: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text. Out-of-vocabulary (OOV) words are counted separately.

    Attributes:
        perplexity: 10^(−log10 P / tokens) over all words and one </s> a sentence, unknown words included.
        perplexity_without_oov: the same without the unknown words.
        log10_prob: log10 probability of the text, unknown words included.
        words: running words, without </s>.
        oov: running words that the model does not know.
        sentences: number of sentences.
    """

    perplexity: float
    perplexity_without_oov: float
    log10_prob: float
    words: int
    oov: int
    sentences: int


class NGramModel:
    """An n-gram model; made by `asr.lm.train`, `asr.lm.load` or `from_arrays`.

    Args:
        vocabulary: the words, word id = index; <unk>, <s> and </s> are among them.
        counts: number of n-grams of order 1, 2, …
        parents: (N + 1,) node of the context of every node (0 for node 0 and for words).
        words: (N + 1,) last word of every node (node 0: any).
        log10_probs: (N + 1,) ≤ 0.
        backoffs: (N + 1,) log10 back-off weights, 0 where a node is not a context.

    Raises:
        LanguageModelError: arrays that contradict each other.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        counts: Sequence[int],
        *,
        parents: np.ndarray,
        words: np.ndarray,
        log10_probs: np.ndarray,
        backoffs: np.ndarray,
    ) -> None:
        self.vocabulary = list(vocabulary)
        self.counts = tuple(int(c) for c in counts)
        self.order = len(self.counts)
        self.bases = np.cumsum([1, *self.counts])
        self.parents = np.asarray(parents, dtype=np.int32)
        self.words = np.asarray(words, dtype=np.int32)
        self.log10_probs = np.asarray(log10_probs, dtype=np.float32)
        self.backoffs = np.asarray(backoffs, dtype=np.float32)
        self._ids = {word: i for i, word in enumerate(self.vocabulary)}
        _check(self)
        self.unknown_id, self.start_id, self.end_id = (self._ids[w] for w in (UNKNOWN, START, END))

    def __repr__(self) -> str:
        return f"NGramModel(order={self.order}, n-grams={' + '.join(map(str, self.counts))})"

    def word_id(self, word: str) -> int:
        """Index of the word in the vocabulary, where either may be decomposed (NFD); else that of <unk>."""
        known = self._ids.get(word)
        return self._composed.get(composed(word), self.unknown_id) if known is None else known

    @cached_property
    def _composed(self) -> dict[str, int]:
        return {composed(word): i for word, i in self._ids.items()}

    @property
    def start_state(self) -> int:
        """The state at the start of a sentence, after <s>."""
        return int(self.arrays.words["state"][self.start_id])

    def score(self, sentence: str) -> float:
        """log10 probability of the words and </s> after <s>.

        Words are separated by white space; the first call in a process loads the compiled automaton.

        Raises:
            LanguageModelError: no text.
        """
        if not isinstance(sentence, str):
            raise LanguageModelError(f"a {type(sentence).__name__} to score; expected a sentence as a text")
        return float(self.token_scores([sentence])[1].sum())

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """The perplexity of a text of one sentence per item; the text may be larger than memory.

        Raises:
            LanguageModelError: no sentences, or one text instead of several.
        """
        check_sentences(sentences)
        log10_prob = known_log10_prob = 0.0
        tokens = oov = count = 0
        for batch in grouped(sentences, 10_000):
            ids, scores = self.token_scores(batch)
            known = ids != self.unknown_id
            log10_prob += float(scores.sum())
            known_log10_prob += float(scores[known].sum())
            tokens, oov, count = tokens + len(ids), oov + int((~known).sum()), count + len(batch)
        if not count:
            raise LanguageModelError("perplexity of an empty text: expected at least one sentence")
        return Perplexity(
            perplexity=per_word(-log10_prob * math.log(10), tokens),
            perplexity_without_oov=per_word(-known_log10_prob * math.log(10), tokens - oov),
            log10_prob=log10_prob,
            words=tokens - count,
            oov=oov,
            sentences=count,
        )

    def trigrams(self, words: Sequence[str]) -> np.ndarray:
        """P(c | a, b) at [a, b, c], float32 (W + 1, W + 1, W + 1); words[i] has index i + 1.

        Index 0 is the start of a sentence at a and b, its end at c.
        """
        from asr.lm.automaton import trigrams

        ids = np.array([-1, *map(self.word_id, words)], dtype=np.int64)
        return 10 ** trigrams(self.arrays, self.start_state, self.end_id, ids)

    @property
    def known_words(self) -> list[str]:
        """The vocabulary without <unk>, <s> and </s>."""
        specials = {self.unknown_id, self.start_id, self.end_id}
        return [word for i, word in enumerate(self.vocabulary) if i not in specials]

    def token_scores(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all words and the closing </s>, and log10 P of each, sentence after sentence."""
        from asr.lm.automaton import score_sentences

        split = [sentence.split() for sentence in sentences]
        lengths = np.array([len(words) + 1 for words in split], dtype=np.int64)
        ids = np.array([i for words in split for i in [*map(self.word_id, words), self.end_id]], np.int32)
        return ids, score_sentences(self.arrays, ids, lengths, self.start_state)

    def find(self, nodes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Nodes of the n-grams of `nodes` followed by `words`, −1 where the model lacks one. Vectorised."""
        found = np.full(len(nodes), -1, dtype=np.int32)
        root = nodes == 0
        found[root] = 1 + words[root]
        if len(self._keys):
            keys = nodes[~root].astype(np.int64) * len(self.vocabulary) + words[~root]
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found[~root] = np.where(self._keys[at] == keys, at + self.bases[1], -1)
        return found

    @cached_property
    def _keys(self) -> np.ndarray:
        """Context and word of each node from the bigrams on, as one increasing number."""
        longer = slice(int(self.bases[1]), None)
        return self.parents[longer].astype(np.int64) * len(self.vocabulary) + self.words[longer]

    @cached_property
    def arrays(self) -> NGramArrays:
        """The automaton for `asr.lm.automaton.advance`."""
        from asr.lm import automaton

        suffixes = self.suffixes()
        has_followers = np.zeros(len(self.words), dtype=bool)
        has_followers[self.parents] = True
        states = np.arange(len(self.words), dtype=np.int32)
        for start, end in pairwise(self.bases):
            nodes = np.arange(start, end)
            matters = has_followers[start:end] | (self.backoffs[start:end] != 0)
            states[nodes] = np.where(matters, nodes, states[suffixes[nodes]])
        return automaton.build(self._keys, self.log10_probs, self.backoffs, states, states[suffixes])

    def suffixes(self) -> np.ndarray:
        """The suffix of each node: a suffix of its context, the longest possible, followed by its word."""
        suffixes = np.zeros(len(self.words), dtype=np.int32)
        for start, end in zip(self.bases[1:-1], self.bases[2:], strict=True):
            contexts, words = suffixes[self.parents[start:end]], self.words[start:end]
            found = self.find(contexts, words)
            while len(missing := np.flatnonzero(found < 0)):
                contexts[missing] = suffixes[contexts[missing]]
                found[missing] = self.find(contexts[missing], words[missing])
            suffixes[start:end] = found
        return suffixes

    def save(self, path: str | Path) -> None:
        """Write the model as ARPA, compressed according to the suffix (.gz, .bz2, .xz).

        The same model always gives the same bytes, and reading them gives the same float32 numbers.
        """
        from asr.lm.arpa import write

        write(self, path)

    def renamed(self, change: Callable[[str], str]) -> "NGramModel":
        """The same model with its words rewritten, such as `str.lower`; <unk>, <s> and </s> stay.

        Raises:
            LanguageModelError: two words become one.
        """
        specials = (UNKNOWN, START, END)
        vocabulary = [word if word in specials else change(word) for word in self.vocabulary]
        if len(set(vocabulary)) < len(vocabulary):
            [(word, count), *_] = Counter(vocabulary).most_common(1)
            raise LanguageModelError(f"{count} words of the language model become {word!r} when normalised")
        fields = {name: getattr(self, name) for name in ("parents", "words", "log10_probs", "backoffs")}
        return NGramModel(vocabulary, self.counts, **fields)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for a file of tensors; the vocabulary is UTF-8, one word a line."""
        contexts = int(self.bases[-2])
        return {
            "vocabulary": np.frombuffer("\n".join(self.vocabulary).encode(), dtype=np.uint8),
            "counts": np.array(self.counts, dtype=np.int64),
            "parents": self.parents[1:],
            "words": self.words[1:],
            "log10_probs": self.log10_probs[1:],
            "backoffs": self.backoffs[1:contexts],
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "NGramModel":
        """The model that `to_arrays` gave.

        Raises:
            LanguageModelError: arrays that are missing or contradict each other.
        """
        expected = ("vocabulary", "counts", "parents", "words", "log10_probs", "backoffs")
        if missing := [name for name in expected if name not in arrays]:
            raise LanguageModelError(f"language model arrays lack {', '.join(missing)}; expected {expected}")
        fields = {name: np.concatenate([[0], arrays[name]]) for name in expected[2:]}
        short = len(fields["words"]) - len(fields["backoffs"])
        fields["backoffs"] = np.pad(fields["backoffs"], (0, max(short, 0)))
        try:
            vocabulary = arrays["vocabulary"].tobytes().decode().split("\n")
        except UnicodeDecodeError as error:
            raise LanguageModelError(f"the vocabulary is not UTF-8 ({error}); damaged arrays") from error
        return cls(vocabulary, arrays["counts"].tolist(), **fields)


def per_word(nats: float, words: int) -> float:
    """The perplexity of words that are so improbable together; infinity beyond what a float holds.

    >>> per_word(0, 2), per_word(800, 1)
    (1.0, inf)
    """
    try:
        return math.exp(nats / words)
    except OverflowError:
        return math.inf


def grouped(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """The items in lists of `size`, the last of what is left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def check_sentences(sentences: Iterable[str]) -> None:
    """Raises LanguageModelError if it is one text: its characters would be taken for sentences."""
    if isinstance(sentences, str | bytes):
        raise LanguageModelError(
            f"sentences is one {type(sentences).__name__}; expected strings, one a sentence"
        )


def _check(model: NGramModel) -> None:
    """Reject arrays on which the compiled automaton would go wrong."""
    if absent := [w for w in (UNKNOWN, START, END) if w not in model._ids]:
        raise LanguageModelError(
            f"the vocabulary lacks {', '.join(absent)}; every model needs <unk>, <s>, </s>"
        )
    if not len(model._ids) == len(model.vocabulary) == sum(model.counts[:1]):
        raise LanguageModelError(
            f"{len(model.vocabulary)} words, {len(model._ids)} of them distinct, counts {model.counts}: "
            "expected one unigram for each distinct word"
        )
    nodes = int(model.bases[-1])
    columns = (model.parents, model.words, model.log10_probs, model.backoffs)
    if nodes >= 2**31 or any(column.shape != (nodes,) for column in columns):
        raise LanguageModelError(
            f"{nodes - 1} n-grams by the counts {model.counts}, but arrays of "
            f"{', '.join(str(len(c) - 1) for c in columns)} entries; expected the same, below 2^31"
        )
    borders = [0, *model.bases]
    contexts_lie_one_order_below = all(
        ((low <= model.parents[start:end]) & (model.parents[start:end] < start)).all()
        for low, start, end in zip(borders[:-2], borders[1:-1], borders[2:], strict=True)
    )
    sound = (
        contexts_lie_one_order_below
        and model.parents[0] == 0
        and ((model.words >= 0) & (model.words < len(model.vocabulary))).all()
        and (model.words[1 : model.counts[0] + 1] == np.arange(model.counts[0])).all()
        and (np.diff(model._keys) > 0).all()
    )
    if not sound:
        raise LanguageModelError("the n-grams are not sorted by context and word; the arrays are damaged")
    if not (np.isfinite(model.backoffs).all() and (model.log10_probs <= 0).all()):
        raise LanguageModelError("log-probabilities above 0 or back-offs that are not finite; damaged arrays")
