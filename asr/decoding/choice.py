"""A decoder by its name and settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from asr.decoding.stream import BeamStream, GreedyStream, StreamDecoder
from asr.errors import DecodingError
from asr.text import Alphabet

if TYPE_CHECKING:
    from asr.lm import NGramModel

DecoderName = Literal["greedy", "beam", "pyctcdecode"]


@dataclass
class DecoderConfig:
    """How log-probabilities become words, unless a call says otherwise."""

    name: Literal["greedy", "beam", "pyctcdecode"] = "greedy"
    beam_width: int = 64
    alpha: float = 0.5
    """Weight of the language model's natural log-probability."""
    beta: float = 1.0
    """Bonus for every word."""
    hotword_weight: float = 4.0
    """Natural-log bonus of a recognised hotword."""
    prior: tuple[float, ...] = ()
    """Share of each output on average, measured when the decoder is tuned; () is unknown."""
    prior_weight: float = 0.0
    """The beam divides what the model says by `prior` to this power, 0 to 1."""
    lexicon: bool = False
    """The beam writes only words that the language model knows."""
    confidence_slope: float = 1.0
    confidence_bias: float = 0.0
    """Calibration of confidences, fitted on the development set; see `asr.scoring.calibration`."""


class Chooser:
    """Makes decoders, and keeps the one that was asked for last."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Any] = {}

    def decoder(
        self,
        name: str,
        alphabet: Alphabet,
        config: DecoderConfig,
        lm: "NGramModel | None",
        settings: dict[str, Any],
    ) -> Any:
        """The `BeamDecoder` or `PyctcDecoder`; settings that are None are those of the configuration.

        Raises:
            DecodingError: a name that no decoder has, or settings that make no sense.
        """
        from asr import decoding

        if name not in ("beam", "pyctcdecode"):
            raise DecodingError(f"decoder {name!r}: expected greedy, beam or pyctcdecode")
        chosen = {
            "lm": lm,
            "beam_width": config.beam_width,
            "alpha": config.alpha,
            "beta": config.beta,
        } | {key: value for key, value in settings.items() if value is not None}
        if name == "beam" and config.prior:
            chosen.setdefault("prior_weight", config.prior_weight)
        if chosen.get("hotwords"):
            chosen.setdefault("hotword_weight", config.hotword_weight)
        spoken = len(alphabet.lexicon) if alphabet.lexicon is not None else None
        key = (f"{name} {spoken}", *(f"{k}={id(v) if k == 'lm' else v}" for k, v in sorted(chosen.items())))
        if key not in self._made:
            alphabet = alphabet.with_words(w for phrase in chosen.get("hotwords", ()) for w in phrase.split())
            if name == "beam" and (lexicon := _lexicon(alphabet, config, chosen["lm"])) is not None:
                chosen.setdefault("lexicon", lexicon)
            if chosen.get("prior_weight"):
                chosen["prior"] = config.prior
            make = decoding.BeamDecoder if name == "beam" else decoding.PyctcDecoder
            self._made = {key: make(alphabet, **chosen)}
        return self._made[key]

    def stream_decoder(
        self,
        name: str,
        alphabet: Alphabet,
        config: DecoderConfig,
        lm: "NGramModel | None",
        settings: dict[str, Any],
    ) -> StreamDecoder:
        """The same for log-probabilities that come in blocks.

        Raises:
            DecodingError: as above, and for pyctcdecode, which decodes whole recordings only.
        """
        if name == "greedy":
            return GreedyStream()
        if name not in ("beam", "pyctcdecode"):
            raise DecodingError(f"decoder {name!r}: expected greedy or beam")
        if name == "pyctcdecode":
            raise DecodingError("decoder=pyctcdecode needs the whole recording: stream with greedy or beam")
        return BeamStream(self.decoder(name, alphabet, config, lm, settings))


def _lexicon(
    alphabet: Alphabet, config: DecoderConfig, lm: "NGramModel | None"
) -> Iterable[str] | Mapping[str, Sequence[Sequence[str]]] | None:
    """What may be written: with phones words that have a pronunciation; None if there is no limit."""
    words = lm.known_words if lm is not None else None
    if alphabet.lexicon is None:
        return words if config.lexicon else None
    known = alphabet.lexicon.words
    if words is None or not config.lexicon:
        return known
    return {word: known[word] for word in words if word in known}
