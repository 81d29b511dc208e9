"""CTC prefix beam search with language model, closed vocabulary and hotwords: the interface to `search`.

Sources: Graves 2012, section 7.5.3 (prefix search); Hannun et al. 2014 (word language model at word ends).
"""

import copy
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from asr.corpus.decode import available_cores
from asr.decoding.committee import CANDIDATES, NARROWEST, ranked
from asr.decoding.config import WIDEST
from asr.decoding.emissions import as_tensor, check, prior_scale, probabilities
from asr.decoding.hotwords import check_hotwords, listed
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.incremental import Search
from asr.decoding.lexicon import Pronunciations, check_model
from asr.decoding.prefixes import Settings
from asr.decoding.rescoring import Rescoring
from asr.decoding.tables import Tables, build_tables, build_vocabulary
from asr.errors import DecodingError
from asr.lm import NGramModel
from asr.text import Alphabet

Result = TypeVar("Result")


class BeamDecoder:
    """Finds the labelling that scores best under acoustic model, language model and bonuses together.

    Args:
        alphabet: of the acoustic model.
        lm: word n-grams; the last word of an utterance and </s> are scored, too.
        beam_width: prefixes kept in each frame.
        alpha: weight of the language model's natural log-probability.
        beta: word insertion bonus in nats; only with a language model.
        hotwords: words or phrases to prefer, as written, or a mapping from each to its bonus in nats.
        hotword_weight: bonus in nats where none is given.
        lexicon: the only words that may be written, besides those of hotwords; None allows any. For an
            alphabet of phones, with " " between words, a mapping from each word to its pronunciations, each a
            sequence of symbols, or words that the alphabet's own lexicon has. Words may share one. During the
            search only the homophone that scores best after its prefix is followed; in the final hypotheses
            homophones are chosen anew, exactly. Hypotheses then carry the words in their orthography.
        unknown_penalty: subtracted from the language model's log-probability (nats) of a word that neither
            it nor lexicon or hotwords contain, once for the word and once for every character from where its
            spelling departs from all known words; for the first of these, of an alphabet of more than 62
            characters, perhaps only in part.
        beam_threshold: prefixes this many nats below the best are dropped.
        token_threshold: outputs below this natural log-probability in a frame extend no prefix there, unless
            they are the frame's best. Where the best text is then far less probable than the best path, the
            utterance is searched again without this and without `beam_threshold`.
        prior: (V,) the outputs' average probabilities over much speech, according to the model; None for no
            prior. The search then uses p(output | frame) / prior^`prior_weight`, renormalised: output
            frequencies are better left to the language model than learnt from little speech.
        prior_weight: from 0 (off) to 1 (Bayes' rule in full).
        rescoring: ranks the best hypotheses anew with a second language model; streams are not rescored.
        judge: whether word confidences take competing labellings into account, which takes a fifth more time
            with a language model and up to half without; otherwise they come from the word's outputs alone.
        threads: over the utterances of a batch; None takes all cores that the process may use. The result
            does not depend on it.

    Raises:
        DecodingError: invalid settings or pronunciations, or a hotword that cannot be spelled.
        LanguageModelError: no word n-grams, or a language model of which no word can be spelled.

    >>> import torch
    >>> decoder = BeamDecoder(Alphabet(["a", "b"]))
    >>> probs = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]])  # the best path is empty, the best text not
    >>> decoder.decode(probs.log()[None], [2])[0].tokens
    (1,)
    """

    def __init__(
        self,
        alphabet: Alphabet,
        lm: NGramModel | None = None,
        *,
        beam_width: int = 64,
        alpha: float = 0.5,
        beta: float = 1.0,
        hotwords: Iterable[str] | Mapping[str, float] | None = (),
        hotword_weight: float = 4.0,
        lexicon: Iterable[str] | Pronunciations | None = None,
        unknown_penalty: float = 10.0,
        beam_threshold: float = 10.0,
        token_threshold: float = -6.5,
        prior: Sequence[float] | None = None,
        prior_weight: float = 0.0,
        rescoring: Rescoring | None = None,
        judge: bool = True,
        threads: int | None = None,
    ) -> None:
        if not isinstance(alphabet, Alphabet):
            given = f"{type(alphabet).__name__} instead of an alphabet"
            raise DecodingError(f"{given}: expected asr.Alphabet(symbols), which are those without the blank")
        width = _check_pruning(beam_width, beam_threshold, token_threshold)
        check_model(lm)
        self.alphabet = alphabet
        self._hotwords = listed(hotwords)
        phrases = check_hotwords(self._hotwords, hotword_weight, alphabet)
        self._vocabulary = build_vocabulary(alphabet, lm=lm, lexicon=lexicon, hotwords=phrases)
        self._weights = _as_floats(
            alpha=alpha, beta=beta, unknown_penalty=unknown_penalty, hotword_weight=hotword_weight
        )
        self.tables = self._weigh()
        self.words = self._vocabulary.words if self._vocabulary.pronounced else None
        least_output = max(math.exp(token_threshold), sys.float_info.min)
        self.settings = Settings(width, math.exp(-beam_threshold), least_output)
        self.threads = threads or available_cores()
        self.rescoring, self._judges = rescoring, judge
        self._scale_V = prior_scale(prior, prior_weight, alphabet.size)

    @property
    def unspellable(self) -> list[str]:
        """Words that can never be recognised."""
        return self._vocabulary.unspellable

    def reweighed(
        self,
        *,
        beam_width: int | None = None,
        prior: Sequence[float] | None = None,
        prior_weight: float = 0.0,
        rescoring: Rescoring | None = None,
        **weights: float,
    ) -> "BeamDecoder":
        """The same decoder with other weights. The word trie is shared, so this takes milliseconds.

        Args:
            beam_width: None keeps it.
            prior, prior_weight, rescoring: as for the constructor; by default none.
            weights: any of alpha, beta, unknown_penalty and hotword_weight; others are kept.

        Raises:
            DecodingError: an unknown weight, one that is not finite, or an invalid width or prior.
        """
        new = copy.copy(self)
        if strange := weights.keys() - self._weights.keys():
            raise DecodingError(f"weights {sorted(strange)}: expected some of {', '.join(self._weights)}")
        new._weights = self._weights | _as_floats(**weights)
        if new._weights != self._weights:
            new.tables = new._weigh()
        if beam_width is not None:
            new.settings = self.settings._replace(width=_check_pruning(beam_width))
        new._scale_V = prior_scale(prior, prior_weight, self.alphabet.size)
        new.rescoring = rescoring
        return new

    def _weigh(self) -> Tables:
        """The tables for the current weights."""
        weights = dict(self._weights)
        phrases = check_hotwords(self._hotwords, weights.pop("hotword_weight"), self.alphabet)
        return build_tables(self._vocabulary, hotwords=phrases, **weights)

    def decode(self, log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int], n_best: int = 1) -> Any:
        """The best hypothesis of each utterance; with n_best > 1 a list of the best, best first.

        Args:
            log_probs_BTV: natural logs, blank at 0. Or those of M members of an ensemble, (B, T, M, V): the
                search takes their mean, and the best it finds are ranked by what each member gives them. It
                then keeps 64 prefixes or more.
            lengths_B: frames of each utterance; later frames are ignored.
            n_best: the most hypotheses per utterance; their texts differ.

        Raises:
            DecodingError: wrong shapes or lengths, NaN, or values that are not normalised log-probabilities.
        """
        if not isinstance(n_best, int | np.integer) or n_best < 1:
            raise DecodingError(f"n_best={n_best!r}: expected a whole number, at least 1")
        given = as_tensor(log_probs_BTV)
        members = given.unbind(2) if given.dim() == 4 else ()
        log_probs_BTV, lengths = check(given, lengths_B, outputs=self.alphabet.size)
        emissions = [self.weighed(log_probs_BTV[i, :n], i) for i, n in enumerate(lengths)]

        rescoring = self.rescoring
        wanted = max(n_best, CANDIDATES if members else 1, rescoring.count if rescoring else 1)
        wide = self.reweighed(beam_width=max(NARROWEST, self.settings.width)) if members else self

        def search_one(i: int) -> tuple[Search, list[Hypothesis]]:
            search = wide.begin(wanted)
            search.take(emissions[i])
            hypotheses = search.finish(judge=False)
            if members:
                y_MTV = [self.weighed(member[i, : lengths[i]], i) for member in members]
                hypotheses = ranked(hypotheses, y_MTV)
            return search, hypotheses

        def judge_one(search: Search, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
            return search.judged(hypotheses[:n_best]) if self._judges else hypotheses[:n_best]

        # the longest first, so that no thread starts a long one at the end
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        if rescoring is None:
            found = self._each(lambda i: judge_one(*search_one(i)), order)
        else:
            searched = self._each(search_one, order)
            lists = [searched[i][1] for i in order]
            anew = rescoring.ranked(lists, self.alphabet, alpha=self._weights["alpha"])
            rescored = dict(zip(order, anew, strict=True))
            found = self._each(lambda i: judge_one(searched[i][0], rescored[i]), order)
        return [found[i] if n_best > 1 else found[i][0] for i in range(len(lengths))]

    def _each(self, job: Callable[[int], Result], order: Sequence[int]) -> dict[int, Result]:
        """The result of the job for each item, computed on the threads in this order."""
        threads = min(self.threads, len(order))
        if threads <= 1:
            return {i: job(i) for i in order}
        with ThreadPoolExecutor(threads) as pool:
            return dict(zip(order, pool.map(job, order), strict=True))

    def weighed(self, log_probs_TV: Tensor, utterance: int = 0) -> np.ndarray:
        """(T, V) float64: probabilities, divided by the prior and renormalised; errors as `decode`."""
        y_TV = probabilities(log_probs_TV, utterance)
        if self._scale_V is not None:
            y_TV *= self._scale_V
            y_TV /= y_TV.sum(1, keepdims=True)
        return y_TV

    def begin(self, n_best: int = 1) -> Search:
        """A new search, which will return up to n_best hypotheses."""
        return Search(self, n_best)


def _check_pruning(
    beam_width: int, beam_threshold: float = math.inf, token_threshold: float = -math.inf
) -> int:
    """The width."""
    is_whole = isinstance(beam_width, int | np.integer)
    if not is_whole or not 1 <= beam_width <= WIDEST or not beam_threshold > 0 or not token_threshold <= 0:
        raise DecodingError(
            f"beam_width={beam_width!r}, beam_threshold={beam_threshold}, token_threshold={token_threshold}: "
            f"expected a whole number from 1 to {WIDEST}, more than 0, at most 0"
        )
    return int(beam_width)


def _as_floats(**weights: float) -> dict[str, float]:
    """The weights, always of the one type that the search is compiled for."""
    try:
        floats = {name: float(weight) for name, weight in weights.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise DecodingError(f"weights {weights}: expected numbers") from error
    if not all(map(math.isfinite, floats.values())):
        raise DecodingError(f"weights {weights}: expected finite numbers")
    return floats
