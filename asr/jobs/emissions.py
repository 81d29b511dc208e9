"""The outputs of a model for a development set, computed once, and scored under many decoder settings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from asr import scoring
from asr.corpus.manifest import Utterance
from asr.decoding import greedy
from asr.decoding.rescoring import judge
from asr.ensemble import as_one
from asr.errors import AudioError, ConfigError
from asr.jobs.console import counting, warn
from asr.lm import RecurrentModel
from asr.recognizer import Recognizer
from asr.scoring import Score
from asr.text import normalise


class Emissions:
    """Log-probabilities of a set of utterances, computed once, and their reference texts."""

    def __init__(self, model: Recognizer, utterances: Sequence[Utterance]) -> None:
        self.model = model
        self.texts: list[str] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        sorted_by_length = sorted(utterances, key=lambda u: u.duration_s)
        with counting("listening", "utterances") as progress:
            for at in range(0, len(utterances), 16):
                self._hear(sorted_by_length[at : at + 16])
                progress(min(at + 16, len(utterances)), len(utterances))
        if not self.batches:
            raise ConfigError(f"none of the {len(utterances)} utterances can be read: tuning needs some")

    def _hear(self, utterances: Sequence[Utterance]) -> None:
        waves = []
        for utterance in utterances:
            try:
                waves.append(utterance.read(self.model.rate_hz))
            except AudioError as error:
                warn(f"{utterance.id} is not tuned on: {error}")
                continue
            self.texts.append(normalise(utterance.text, self.model.style))
        if waves:
            self.batches.append(self.model.emissions(waves))

    def _means(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches as `Recognizer.log_probs` gives them."""
        return ((as_one(heard, axes=3), lengths_B) for heard, lengths_B in self.batches)

    def prior(self) -> tuple[float, ...]:
        """The mean probability of each output over all frames (V,)."""
        frames_NV = torch.cat(
            [row[:n] for lp_BTV, n_B in self._means() for row, n in zip(lp_BTV, n_B, strict=True)]
        )
        return tuple(round(p, 7) for p in frames_NV.double().exp().mean(0).tolist())

    def score(self, **settings: object) -> Score:
        """The score of beam search (or, with `decoder="greedy"`, of the best path) with these settings."""
        how: dict[str, Any] = {"decoder": "beam", "judge": False, "rescore": 0} | settings
        found = [
            hypothesis.text(self.model.alphabet)
            for log_probs_BTV, lengths_B in self.batches
            for hypothesis in self.model.decode(log_probs_BTV, lengths_B, **how)
        ]
        return scoring.score_spoken(self.texts, found, alphabet=self.model.alphabet)

    def rescored(self, rescorer: RecurrentModel, shares: Sequence[float], count: int) -> list[Score]:
        """The score for each share of the rescorer in the probability of each word."""
        decoder, alphabet = self.model.beam_decoder(rescore=0, judge=False), self.model.alphabet
        alpha, lm, texts = self.model.decoder.alpha, self.model.lm, [list[str]() for _ in shares]
        with counting("searching the share of the LSTM", "utterances") as progress:
            for log_probs_BTV, lengths_B in self.batches:
                for hypotheses in decoder.decode(log_probs_BTV, lengths_B, n_best=count):
                    said = [h.text(alphabet) for h in hypotheses]
                    judged = list(zip(hypotheses, judge(said, alphabet, rescorer, lm), strict=True))
                    for found, share in zip(texts, shares, strict=True):
                        scores = [judgement.score(h, alpha, share) for h, judgement in judged]
                        found.append(said[int(np.argmax(scores))])
                progress(len(texts[0]), len(self.texts))
        return [scoring.score_spoken(self.texts, found, alphabet=alphabet) for found in texts]

    def wrong_outputs(self) -> float:
        """The output error rate of the best path: edit distance over the number of reference outputs.

        Texts that the alphabet cannot spell are left out; 0 if none is left.
        """
        alphabet, wrong, right = self.model.alphabet, 0, 0
        heard = (h for lp_BTV, n_B in self._means() for h in greedy(lp_BTV, n_B))
        for text, hypothesis in zip(self.texts, heard, strict=True):
            if not alphabet.missing(text):
                spelled = alphabet.encode(text)
                wrong += Levenshtein.distance(hypothesis.tokens, tuple(spelled))
                right += len(spelled)
        return wrong / max(right, 1)
