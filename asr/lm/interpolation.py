"""Two n-gram models merged into one, which gives every word the weighted mean of their probabilities.

    P(w | h) = (1 − share) P₁(w | h) + share P₂(w | h)     for every n-gram hw that either of them lists

A word that a model does not know has probability 0 in it; what it keeps for unknown words belongs to <unk>.
Other n-grams are backed off to, with the weights by which the probabilities after each h sum to 1: there the
merged model is not quite the mean, but it needs no more time than one model.

Source: Jelinek & Mercer 1980; for models that back off, Stolcke, "SRILM – an extensible language modeling
toolkit" (2002), section 3.
"""

from collections.abc import Sequence

import numpy as np

from asr.errors import LanguageModelError
from asr.lm.ngram import NGramModel

_TINY = 1e-12
_ROUNDS = 100  # of expectation maximisation


def interpolate(first: NGramModel, second: NGramModel, share: float) -> NGramModel:
    """The merged model, with all words and n-grams of both.

    Args:
        share: weight of the second model, 0 to 1.

    Raises:
        LanguageModelError: another share.
    """
    if not 0 <= share <= 1:
        raise LanguageModelError(f"share {share!r}: expected the weight of the second model, 0 to 1")
    merged = _union(first, second)
    suffixes = merged.suffixes()
    readers = [(1 - share, _Reader(first, merged)), (share, _Reader(second, merged))]
    for order, (low, high) in enumerate(zip(merged.bases[:-1], merged.bases[1:], strict=True), 1):
        nodes = np.arange(low, high)
        prob = sum(weight * reader.read(nodes) for weight, reader in readers)
        merged.log10_probs[low:high] = np.log10(np.clip(prob, 1e-30, 1.0))
        if order > 1:
            _back_off(merged, suffixes, nodes)
    return merged


def best_share(first: NGramModel, second: NGramModel, sentences: Sequence[str]) -> float:
    """The weight of the second model with which these sentences are most probable, within 0.05 and 0.95.

    Words that neither model knows do not count.

    Source: expectation maximisation, Dempster et al. 1977.
    """
    prob_2K = np.stack([_token_probs(model, sentences) for model in (first, second)])
    prob_2K = prob_2K[:, prob_2K.sum(0) > 0]
    share = 0.5
    for _ in range(_ROUNDS if prob_2K.size else 0):
        mean_K = (1 - share) * prob_2K[0] + share * prob_2K[1]
        share = float((share * prob_2K[1] / mean_K).mean())
    return min(max(share, 0.05), 0.95)


def _token_probs(model: NGramModel, sentences: Sequence[str]) -> np.ndarray:
    """Of all words and ends of sentences; 0 for words that the model does not know."""
    ids, log10 = model.token_scores(sentences)
    return np.where(ids == model.unknown_id, 0.0, 10.0**log10)


def _union(first: NGramModel, second: NGramModel) -> NGramModel:
    """A model of all n-grams of both, each of probability 1 so far."""
    vocabulary = list(dict.fromkeys([*first.vocabulary, *second.vocabulary]))
    id_of, size = {word: i for i, word in enumerate(vocabulary)}, len(vocabulary)
    models = [(m, np.array([id_of[word] for word in m.vocabulary])) for m in (first, second)]
    places = [np.concatenate([[0], 1 + ids]) for _, ids in models]  # of the nodes met so far
    counts, parents, words = [size], [np.zeros(1 + size, np.int64)], [np.append(0, np.arange(size))]
    for order in range(2, 1 + max(first.order, second.order)):
        keys = []
        for (model, ids), place in zip(models, places, strict=True):
            nodes = slice(*model.bases[order - 1 : order + 1]) if order <= model.order else slice(0, 0)
            keys.append(place[model.parents[nodes]] * size + ids[model.words[nodes]])
        together, base = np.unique(np.concatenate(keys)), 1 + sum(counts)
        places = [
            np.append(place, base + np.searchsorted(together, key))
            for place, key in zip(places, keys, strict=True)
        ]
        counts.append(len(together))
        parents.append(together // size)
        words.append(together % size)
    zeros = np.zeros(1 + sum(counts))
    return NGramModel(
        vocabulary,
        counts,
        parents=np.concatenate(parents),
        words=np.concatenate(words),
        log10_probs=zeros,
        backoffs=zeros.copy(),
    )


class _Reader:
    """The probabilities of a model for the n-grams of the merged one, order by order.

    For each node of the merged model it keeps its own of the longest suffix that it has.
    """

    def __init__(self, model: NGramModel, merged: NGramModel) -> None:
        own = {word: i for i, word in enumerate(model.vocabulary)}
        self.model, self.merged, self.suffixes = model, merged, model.suffixes()
        self.ids_V = np.array([own.get(word, -1) for word in merged.vocabulary])
        self.node_N = np.zeros(len(merged.words), np.int32)

    def read(self, nodes: np.ndarray) -> np.ndarray:
        """P(w | h) of these n-grams of one order; 0 if the model does not know w."""
        ids = self.ids_V[self.merged.words[nodes]]
        known, prob = np.flatnonzero(ids >= 0), np.zeros(len(nodes))
        history = self.node_N[self.merged.parents[nodes[known]]]
        log10, self.node_N[nodes[known]] = _follow(self.model, self.suffixes, history, ids[known])
        prob[known] = 10.0**log10
        return prob


def _follow(
    model: NGramModel, suffixes: np.ndarray, nodes: np.ndarray, words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log10 P of each word after the n-gram of a node, and the node of what it is read from."""
    nodes, log10 = nodes.copy(), np.zeros(len(nodes))
    found = model.find(nodes, words)
    while len(missing := np.flatnonzero(found < 0)):
        log10[missing] += model.backoffs[nodes[missing]]
        nodes[missing] = suffixes[nodes[missing]]
        found[missing] = model.find(nodes[missing], words[missing])
    return log10 + model.log10_probs[found], found


def _back_off(model: NGramModel, suffixes: np.ndarray, nodes: np.ndarray) -> None:
    """Set the weights of the contexts of these n-grams, all of an order, so that probabilities sum to 1."""
    nodes = nodes[model.words[nodes] != model.start_id]  # which is never predicted
    contexts, words = model.parents[nodes], model.words[nodes]
    lower, _ = _follow(model, suffixes, suffixes[contexts], words)
    listed, below = (np.bincount(contexts, 10.0**log10) for log10 in (model.log10_probs[nodes], lower))
    weight = np.log10(np.maximum(1 - listed, _TINY) / np.maximum(1 - below, _TINY))
    them = np.unique(contexts)
    model.backoffs[them] = weight[them]
