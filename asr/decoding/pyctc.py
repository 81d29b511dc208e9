"""pyctcdecode behind the same interface; needs Python below 3.13, and kenlm for language models."""

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.ctc import align
from asr.decoding.emissions import check, check_normalised
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.lexicon import check_model
from asr.errors import DecodingError, how_to_install
from asr.lm import NGramModel
from asr.text import Alphabet


class PyctcDecoder:
    """pyctcdecode's beam search, with our log-probabilities, alphabet and hypotheses.

    Args:
        alphabet: of characters; pyctcdecode spells subwords differently.
        lm: passed on as an ARPA file.
        beam_width, alpha, beta, hotwords, hotword_weight: as in pyctcdecode; its LM scores are natural logs.

    Raises:
        DecodingError: pyctcdecode is missing, or kenlm for a language model, or that has single words only; a
            subword alphabet, a beam without width, or hotwords with weights of their own.
        LanguageModelError: a language model other than word n-grams.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        lm: NGramModel | None = None,
        *,
        beam_width: int = 64,
        alpha: float = 0.5,
        beta: float = 1.0,
        hotwords: Iterable[str] = (),
        hotword_weight: float = 10.0,
    ) -> None:
        if alphabet.is_subword or alphabet.lexicon is not None:
            raise DecodingError("decoder=pyctcdecode takes alphabets of characters; use decoder=beam")
        if isinstance(hotwords, str | Mapping):
            raise DecodingError(
                f"hotwords {hotwords!r:.80}: decoder=pyctcdecode takes a list, with one weight for all; "
                "decoder=beam takes weights"
            )
        if beam_width < 1:
            raise DecodingError(f"beam_width={beam_width}: expected at least 1")
        check_model(lm)
        if lm is not None and lm.order < 2:
            raise DecodingError("kenlm, which pyctcdecode uses, reads no unigram models; use decoder=beam")
        try:
            import pyctcdecode
        except ImportError as error:
            raise DecodingError(
                "decoder=pyctcdecode needs the package pyctcdecode, which exists for Python below 3.13; "
                "decoder=beam needs nothing"
            ) from error
        self.alphabet = alphabet
        self.beam_width, self.hotwords, self.hotword_weight = beam_width, list(hotwords or ()), hotword_weight
        labels = ["", *alphabet.symbols]
        if lm is None:
            self._decoder = pyctcdecode.build_ctcdecoder(labels)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lm.arpa"
            lm.save(path)
            try:
                self._decoder = pyctcdecode.build_ctcdecoder(labels, str(path), alpha=alpha, beta=beta)
            except (ImportError, NameError) as error:
                raise DecodingError(
                    f"pyctcdecode reads language models with kenlm: {how_to_install('kenlm')}"
                ) from error

    def decode(self, log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int]) -> list[Hypothesis]:
        """The best hypothesis of each utterance; arguments and errors as for `BeamDecoder.decode`."""
        checked_BTV, lengths = check(log_probs_BTV, lengths_B, outputs=self.alphabet.size)
        check_normalised(checked_BTV, lengths)
        return [self._decode(checked_BTV[i, :n].float().cpu()) for i, n in enumerate(lengths)]

    def _decode(self, log_probs_TV: Tensor) -> Hypothesis:
        if not len(log_probs_TV):
            return Hypothesis((), (), (), 0.0, 0.0)
        settings: dict[str, Any] = {"beam_width": self.beam_width}
        if self.hotwords:
            settings |= {"hotwords": self.hotwords, "hotword_weight": self.hotword_weight}
        text, _, _, acoustic, score = self._decoder.decode_beams(log_probs_TV.numpy(), **settings)[0]
        tokens = self.alphabet.encode(text)
        spans = align(log_probs_TV.clamp(min=-1e4), tokens)  # pyctcdecode strips spaces, even if certain
        peaks = [math.exp(float(log_probs_TV[s.start_frame : s.end_frame, s.token].max())) for s in spans]
        frames = tuple((s.start_frame, s.end_frame) for s in spans)
        return Hypothesis(tuple(tokens), frames, tuple(min(p, 1.0) for p in peaks), acoustic, score)
