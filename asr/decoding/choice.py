"""Builds a decoder from its name and settings."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asr.decoding.config import DecoderConfig, DecoderName
from asr.decoding.hotwords import normalise_hotwords
from asr.decoding.lexicon import check_model, vocabulary
from asr.decoding.rescoring import Rescoring
from asr.decoding.stream import BeamStream, GreedyStream, StreamDecoder
from asr.errors import DecodingError
from asr.lm import NGramModel, SentenceModel
from asr.text import Alphabet, Style

_SWITCHES = ("hotwords", "judge", "rescore")  # they ask for nothing if they are off; any other value asks


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
    lm: NGramModel | None
    settings: Mapping[str, Any]
    rescorer: SentenceModel | None = None


def choose(
    asked: DecoderName | None,
    settings: Mapping[str, Any],
    alphabet: Alphabet,
    config: DecoderConfig,
    lm: NGramModel | None,
    *,
    style: Style,
    rescorer: SentenceModel | None = None,
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
            only = others.get("lexicon")
            alphabet = choice.alphabet.with_words((*words, *(only if isinstance(only, tuple) else ())))
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
    weights: dict[str, Any] = {name: getattr(config, name) for name in ("beam_width", "alpha", "beta")}
    others: dict[str, Any] = {"lm": choice.lm}
    if given.get("hotwords"):
        weights["hotword_weight"] = config.hotword_weight
    if choice.name == "beam":
        others |= {name: getattr(config, name) for name in ("beam_threshold", "token_threshold")}
        if (prior := given.pop("prior", config.prior)) is not None and len(prior):
            weights |= {"prior": tuple(prior), "prior_weight": config.prior_weight}
        count, share = (given.pop(k, getattr(config, k)) for k in ("rescore", "rescore_share"))
        if choice.rescorer is not None and count and share and "lm" not in given:
            weights["rescoring"] = Rescoring(choice.rescorer, count, share, choice.lm)
    known = (*weights, "hotword_weight", "prior_weight")
    weights |= {k: v for k, v in given.items() if k in known}
    others |= {k: v for k, v in given.items() if k not in known}
    lexicon = others.get("lexicon")
    if isinstance(lexicon, Iterable) and not isinstance(lexicon, str | Mapping):
        others["lexicon"] = tuple(lexicon)  # which can be read again, and compared with the next
    return weights, others


def _lexicon(
    alphabet: Alphabet, config: DecoderConfig, lm: NGramModel | None, hotwords: Iterable[str]
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
