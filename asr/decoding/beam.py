"""CTC prefix beam search with language model, closed vocabulary and hotwords: the door to `search`.

Sources: Graves 2012, section 7.5.3 (prefix search); Hannun et al. 2014 (word language model at word ends).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asr.ctc import align, ctc_loss
from asr.decoding import search
from asr.decoding.best_path import greedy
from asr.decoding.emissions import check
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.prefixes import Settings, new_beam, new_tree
from asr.decoding.spelling import check_hotwords
from asr.decoding.tables import build_tables
from asr.errors import DecodingError
from asr.text import Alphabet

if TYPE_CHECKING:
    from asr.lm import NGramModel


class BeamDecoder:
    """Finds the labelling that is most probable under the model, the language model and the bonuses together.

    Args:
        alphabet: of the model whose log-probabilities will come.
        lm: word n-grams; the last word of an utterance is closed and scored, and so is </s>.
        beam_width: prefixes that are kept in each frame.
        alpha: weight of the language model's natural log-probability.
        beta: bonus of every word in nats; only with a language model.
        hotwords: words or phrases to prefer, or a mapping of each to its own bonus in nats.
        hotword_weight: bonus of each where none is given.
        lexicon: the only words that may be written; None allows any.
        unknown_penalty: subtracted from the language model's log-probability (nats) of an unknown word.
        token_lm: n-grams over the alphabet's outputs, as `asr.lm.train` makes of spaced symbols.
        token_alpha: its weight.
        beam_threshold: prefixes this many nats below the best are dropped.
        token_threshold: outputs below this natural log-probability extend nothing in a frame, unless they are
            its best.

    Raises:
        DecodingError: settings that make no sense, or a hotword that the alphabet cannot spell.
        LanguageModelError: a language model of which no word can be spelled.

    >>> decoder = BeamDecoder(Alphabet(["a", "b"]))
    >>> probs = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]])  # the best path is empty, the best text not
    >>> decoder.decode(probs.log()[None], [2])[0].tokens
    (1,)
    """

    def __init__(
        self,
        alphabet: Alphabet,
        lm: "NGramModel | None" = None,
        *,
        beam_width: int = 64,
        alpha: float = 0.5,
        beta: float = 1.0,
        hotwords: Iterable[str] | Mapping[str, float] = (),
        hotword_weight: float = 4.0,
        lexicon: Iterable[str] | None = None,
        unknown_penalty: float = 10.0,
        token_lm: "NGramModel | None" = None,
        token_alpha: float = 0.5,
        beam_threshold: float = 12.0,
        token_threshold: float = -8.0,
    ) -> None:
        if beam_width < 1 or beam_threshold <= 0 or token_threshold > 0:
            raise DecodingError(
                f"beam_width={beam_width}, beam_threshold={beam_threshold}, "
                f"token_threshold={token_threshold}: expected at least 1, more than 0, at most 0"
            )
        if not all(math.isfinite(x) for x in (alpha, beta, hotword_weight)):
            raise DecodingError(
                f"alpha={alpha}, beta={beta}, hotword_weight={hotword_weight}: expected finite numbers"
            )
        self.alphabet = alphabet
        self.tables, self.unspellable = build_tables(
            alphabet,
            lm=lm,
            alpha=alpha,
            beta=beta,
            unknown_penalty=unknown_penalty,
            lexicon=lexicon,
            hotwords=check_hotwords(hotwords, hotword_weight),
            token_lm=token_lm,
            token_alpha=token_alpha,
        )
        self._plain = lm is None and lexicon is None and token_lm is None and not hotwords
        self._width = beam_width
        self._cuts = (math.exp(-beam_threshold), math.exp(token_threshold))
        self._beam = new_beam(beam_width, alphabet.size)
        self._tree = new_tree(4096)

    def decode(self, log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int], n_best: int = 1) -> Any:
        """The best hypothesis of each utterance, or with n_best > 1 a list of the best ones, best first.

        Args:
            log_probs_BTV: natural logs, blank at 0.
            lengths_B: frames of each utterance; what lies behind them is not looked at.
            n_best: at most so many distinct hypotheses of each utterance.

        Raises:
            DecodingError: wrong shapes or lengths, NaN, values that are not normalised log-probabilities,
                or an utterance that the lexicon cannot spell within the beam.
        """
        if n_best < 1:
            raise DecodingError(f"n_best={n_best}: expected at least 1")
        checked_BTV, lengths = check(log_probs_BTV, lengths_B, outputs=self.alphabet.size)
        checked_BTV = checked_BTV.float().cpu()
        found = [self._decode(checked_BTV[i, :n], n_best) for i, n in enumerate(lengths)]
        return found if n_best > 1 else [best for best, *_ in found]

    def _decode(self, log_probs_TV: Tensor, n_best: int) -> list[Hypothesis]:
        if not len(log_probs_TV):
            return [Hypothesis((), (), (), 0.0, 0.0)]
        y_TV = np.exp(log_probs_TV.double().numpy())
        settings = Settings(self._width, *self._cuts, n_best == 1)
        tree = self._tree
        search.start(self._beam, tree, self.tables)
        done = search.advance_beam(y_TV, self._beam, tree, self.tables, settings)
        while done < len(y_TV):
            bigger = new_tree(2 * len(tree) + y_TV.shape[1] * self._width)
            bigger[: len(tree)] = tree
            self._tree = tree = bigger
            done += search.advance_beam(y_TV[done:], self._beam, tree, self.tables, settings)
        scores, acoustic = search.finish(self._beam, tree, self.tables)
        order = [i for i in np.argsort(-scores, kind="stable")[:n_best] if np.isfinite(scores[i])]
        if not order:
            raise DecodingError("no word of the lexicon fits: widen the beam, or allow any word")
        traced = [(search.trace(tree, self._beam.node[i]), acoustic[i], scores[i]) for i in order]
        if self._plain:
            traced = self._not_below_greedy(traced, log_probs_TV)[:n_best]
        return [self._hypothesis(tokens, a, score, log_probs_TV) for tokens, a, score in traced]

    def _not_below_greedy(self, traced: list[Any], log_probs_TV: Tensor) -> list[Any]:
        """The best path's labelling, with its exact probability, among those that a narrow beam found."""
        [best_path] = greedy(log_probs_TV[None], [len(log_probs_TV)])
        tokens = np.array(best_path.tokens, dtype=np.int64)
        if any(np.array_equal(tokens, other) for other, _, _ in traced):
            return traced
        target = torch.from_numpy(tokens)[None]
        lengths = torch.tensor([len(log_probs_TV)]), torch.tensor([len(tokens)])
        exact = -float(ctc_loss(log_probs_TV[None], target, *lengths)[0])
        return sorted([*traced, (tokens, exact, exact)], key=lambda entry: -entry[2])

    def _hypothesis(
        self, tokens: np.ndarray, acoustic: float, score: float, log_probs_TV: Tensor
    ) -> Hypothesis:
        spans = align(log_probs_TV, tokens)
        peaks = [float(log_probs_TV[s.start_frame : s.end_frame, s.token].max().exp()) for s in spans]
        return Hypothesis(
            tuple(tokens.tolist()),
            tuple((s.start_frame, s.end_frame) for s in spans),
            tuple(min(peak, 1.0) for peak in peaks),
            float(acoustic),
            float(score),
            bonus=float(score - acoustic),
        )
