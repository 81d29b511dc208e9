"""Builds a decoder from its name and settings."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from asr.decoding.hotwords import normalise_hotwords
from asr.decoding.lexicon import check_model, vocabulary
from asr.decoding.rescoring import Rescoring
from asr.decoding.stream import BeamStream, GreedyStream, StreamDecoder
from asr.errors import DecodingError, check_demands
from asr.text import Alphabet, Style

if TYPE_CHECKING:
    from asr.lm import NGramModel, SentenceModel

DecoderName = Literal["greedy", "beam", "pyctcdecode"]
WIDEST = 1 << 20  # of all beams; it takes half a gigabyte
_SWITCHES = ("hotwords", "judge", "rescore")  # they ask for nothing if they are off; any other value asks


@dataclass
class DecoderConfig:
    """Decoder settings of a bundle; those of a call take precedence."""

    name: DecoderName = "greedy"
    beam_width: int = 64
    alpha: float = 0.5
    """Weight of the language model's natural log-probability."""
    beta: float = 1.0
    """Bonus for every word."""
    hotword_weight: float = 4.0
    """Natural-log bonus of a recognised hotword."""
    prior: tuple[float, ...] = ()
    """Average probability of each output, measured when the decoder is tuned; () if unknown."""
    prior_weight: float = 0.0
    """The beam search divides the output probabilities by `prior` to this power, 0 to 1."""
    lexicon: bool = False
    """The beam search writes only words that the language model knows."""
    rescore: int = 0
    """Hypotheses of the beam that a recurrent language model judges anew (at least 2), if the bundle has one;
    0 is off. A recipe with an n-gram model then trains one, see `lm.recurrent`. Streams are not rescored."""
    rescore_share: float = 0.5
    """Its share of each word's probability, 0 to 1; the n-gram model has the rest."""
    by_member: bool = False
    """An ensemble ranks the best hypotheses of the beam by what each member gives them, not by the mean of
    their outputs: for members that write at different times. Not in streams, nor in exported models."""
    warps: tuple[float, ...] = ()
    """Vocal-tract-length factors, such as 0.9, 1 and 1.1: a recording is heard with each, as if by so many
    members; () hears it once, as it is. Not in streams, nor in exported models."""
    confidence_slope: float = 1.0
    confidence_bias: float = 0.0
    """Calibration of confidences, fitted on the development set; see `asr.scoring.calibration`."""

    def __post_init__(self) -> None:
        """Raises ConfigError at settings that cannot work, which would be noticed only after training."""
        check_demands(
            [
                (
                    1 <= self.beam_width <= WIDEST,
                    f"decoder.beam_width={self.beam_width}: expected 1 to {WIDEST} prefixes",
                ),
                *(
                    (math.isfinite(value), f"decoder.{name}={value}: expected a finite number")
                    for name in ("alpha", "beta", "hotword_weight")
                    for value in [getattr(self, name)]
                ),
                (
                    0 <= self.prior_weight <= 1,
                    f"decoder.prior_weight={self.prior_weight}: expected 0 to 1",
                ),
                (
                    self.rescore == 0 or self.rescore >= 2,
                    f"decoder.rescore={self.rescore}: expected 2 or more hypotheses, or 0 (off)",
                ),
                (
                    0 <= self.rescore_share <= 1,
                    f"decoder.rescore_share={self.rescore_share}: expected 0 to 1",
                ),
                *((0.5 <= w <= 2, f"decoder.warps: {w}, expected factors from 0.5 to 2") for w in self.warps),
            ]
        )


@dataclass(frozen=True)
class Choice:
    """The decoder to build.

    Attributes:
        name: greedy, beam or pyctcdecode.
        config: the settings of the bundle.
        settings: those of the call, which take precedence; None stands for the bundle's.
        rescorer: the bundle's recurrent language model; not used with another `lm` than the bundle's.
    """

    name: str
    alphabet: Alphabet
    config: DecoderConfig
    lm: "NGramModel | None"
    settings: Mapping[str, Any]
    rescorer: "SentenceModel | None" = None


def choose(
    asked: DecoderName | None,
    settings: Mapping[str, Any],
    alphabet: Alphabet,
    config: DecoderConfig,
    lm: "NGramModel | None",
    *,
    style: Style,
    rescorer: "SentenceModel | None" = None,
) -> Choice:
    """The requested decoder, else the bundle's, or beam if that is greedy and settings are given.

    Args:
        asked: its name; None takes the bundle's.
        settings: of the call; hotwords are normalised to the style of the texts.
        alphabet, config, lm, style, rescorer: of the bundle.

    Raises:
        DecodingError: greedy is requested together with settings; it has none. Or rescoring is, and there is
            no rescorer.
        LanguageModelError: a language model other than word n-grams.

    >>> choose(None, {"hotwords": ["Zürich!"]}, Alphabet(["z"]), DecoderConfig(name="greedy"), None, style="basic").name
    'beam'
    """  # noqa: E501
    check_model(settings.get("lm") or lm)
    settings = dict(settings) | {"hotwords": normalise_hotwords(settings.get("hotwords"), style)}
    for_beam = sorted(k for k, v in settings.items() if (bool(v) if k in _SWITCHES else v is not None))
    if asked == "greedy" and for_beam:
        raise DecodingError(
            f"decoder=greedy has no {', '.join(for_beam)}: take decoder=beam, or leave that out"
        )
    if settings.get("rescore") and rescorer is None:
        raise DecodingError(
            "rescore: the model has no LSTM to judge hypotheses (one that streams, or that is given another "
            "language model, never has); `asr lm train --recurrent` and `asr tune --rescorer` add one"
        )
    name = asked or ("beam" if for_beam and config.name == "greedy" else config.name)
    return Choice(name, alphabet, config, lm, settings, rescorer)


class Chooser:
    """Builds decoders and caches the last; if only weights changed, the cached one is reweighted."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[Any, ...], dict[str, Any], Any] = ((), {}, None)  # threads see all or nothing

    def decoder(self, choice: Choice) -> Any:
        """The `BeamDecoder` or `PyctcDecoder`.

        Raises:
            DecodingError: an unknown decoder, or invalid settings.
        """
        from asr import decoding

        if choice.name not in ("beam", "pyctcdecode"):
            raise DecodingError(f"decoder {choice.name!r}: expected greedy, beam or pyctcdecode")
        weights, others = _settle(choice)
        spoken = len(choice.alphabet.lexicon) if choice.alphabet.lexicon is not None else None
        key = (choice.name, spoken, others["lm"], repr(others), choice.config.lexicon)
        kept_key, kept_weights, made = self._kept
        if (key, weights) == (kept_key, kept_weights):
            return made
        if key == kept_key and choice.name == "beam":
            made = made.reweighed(**weights)
        else:
            words = [word for phrase in others.get("hotwords", ()) for word in phrase.split()]
            alphabet = choice.alphabet.with_words(words)
            if choice.name == "beam" and (lexicon := _lexicon(alphabet, choice.config, others["lm"], words)):
                others.setdefault("lexicon", lexicon)
            make = decoding.BeamDecoder if choice.name == "beam" else decoding.PyctcDecoder
            _check_names(weights | others, make, choice.name)
            made = make(alphabet, **weights, **others)
        self._kept = key, weights, made
        return made

    def stream_decoder(self, choice: Choice) -> StreamDecoder:
        """The decoder for log-probabilities that arrive in blocks.

        Raises:
            DecodingError: as `decoder`, and for pyctcdecode, which decodes whole recordings only.
        """
        if choice.name == "greedy":
            return GreedyStream()
        if choice.name == "pyctcdecode":
            raise DecodingError("decoder=pyctcdecode needs the whole recording: stream with greedy or beam")
        return BeamStream(self.decoder(choice))


def _check_names(settings: Mapping[str, Any], make: type, name: str) -> None:
    known = [key for key in inspect.signature(make).parameters if key != "alphabet"]
    if strange := sorted(settings.keys() - set(known)):
        raise DecodingError(f"decoder={name} has no {', '.join(strange)}; it has {', '.join(known)}")


def _settle(choice: Choice) -> tuple[dict[str, Any], dict[str, Any]]:
    """(weights, which can change without a rebuild; all other arguments of the decoder)."""
    config, given = choice.config, {k: v for k, v in choice.settings.items() if v is not None}
    weights: dict[str, Any] = {
        "beam_width": config.beam_width,
        "alpha": config.alpha,
        "beta": config.beta,
    }
    if given.get("hotwords"):
        weights["hotword_weight"] = config.hotword_weight
    if choice.name == "beam" and (prior := given.pop("prior", config.prior)) is not None and len(prior):
        weights |= {"prior": tuple(prior), "prior_weight": config.prior_weight}
    if choice.name == "beam":
        count, share = (given.pop(k, getattr(config, k)) for k in ("rescore", "rescore_share"))
        if choice.rescorer is not None and count and share and "lm" not in given:
            weights["rescoring"] = Rescoring(choice.rescorer, count, share, choice.lm)
    known = (*weights, "hotword_weight", "prior_weight")
    weights |= {k: v for k, v in given.items() if k in known}
    others = {"lm": choice.lm} | {k: v for k, v in given.items() if k not in known}
    lexicon = others.get("lexicon")
    if isinstance(lexicon, Iterable) and not isinstance(lexicon, str | Mapping):
        others["lexicon"] = tuple(lexicon)  # which can be read again, and compared with the next
    return weights, others


def _lexicon(
    alphabet: Alphabet, config: DecoderConfig, lm: "NGramModel | None", hotwords: Iterable[str]
) -> Iterable[str] | Mapping[str, Sequence[Sequence[str]]] | None:
    """The words that may be written, with pronunciations if the alphabet has phones; None allows any.

    Args:
        hotwords: single words, which may be written too.
    """
    words = vocabulary(lm) if lm is not None else None
    if alphabet.lexicon is None:
        return words if config.lexicon else None
    known = alphabet.lexicon.words
    if words is None or not config.lexicon:
        return known
    return {word: known[word] for word in (*words, *hotwords) if word in known}
