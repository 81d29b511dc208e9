"""The built-in corpus: connected digits spoken by espeak-ng in many voices, synthesised in half a minute.

A voice is an accent and a timbre. Timbres are divided among the splits, so that none in `dev` or `test`
occurs in training. Text and voice of utterance n of a split depend on (seed, split, n) alone; the same
options give the same bytes with any number of processes. It is meant for learning the tools, for tests, and
as an addition to recordings of real people; a model trained on it alone does not recognise real people.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from asr import audio, cmudict
from asr.corpus.decode import available_cores, in_processes
from asr.corpus.manifest import Utterance
from asr.errors import ConfigError
from asr.espeak import Espeak, Manner
from asr.files import expanded, whole_file

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = tuple("en en-us en-us-nyc en-029 en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-gb-x-rp".split())  # noqa: SIM905
_KIN = """
Diogo Henrique Hugo michel miguel
Gene Gene2
Michael gustave
Mike m3
Reed adam benjamin edward edward2 klatt3 klatt4 klatt5 klatt6 mike2
RicishayMax RicishayMax2 RicishayMax3
f2 f5
iven iven2 iven3 iven4
klatt klatt2
rob robert
steph steph2 steph3
"""
_SINGLE = """
Alex Andrea Andy Annie Denis Jacky Lee Marco Mario Nguyen Storm anika antonio aunty belinda boris caleb david
ed f1 f3 f4 grandma grandpa ian john linda m1 m2 m4 m5 m6 m7 m8 marcelo max norbert pablo paul pedro quincy
sandro shelby travis victor zac
"""
FAMILIES = (*(tuple(line.split()) for line in _KIN.strip().splitlines()), *((t,) for t in _SINGLE.split()))
"""Timbres; those of a family sound nearly alike (their time-aligned cepstra differ by a third of what is
usual), so a family is never divided between splits.

Left out are robots, whispers, croaks and novelties, which nobody would train for, and Alicia, announcer and
kaukovalta: because of their echo or formants, a nearest-neighbour classifier over sixteen ordinary timbres
takes more than a fifth of their digits for other ones."""
_HELD_OUT = {"test": 12, "dev": 8}
_LARGEST_HELD_OUT = 3  # timbres in a held-out family: a larger one would be most of a split
EDITION = 2  # to be increased whenever the same options give other recordings than before
SHARE_OF_OTHERS = 2 / 3
_CHUNK = 16


@dataclass(frozen=True)
class _Request:
    """One utterance to synthesise."""

    path: Path
    text: str
    manner: Manner
    lead_s: float
    trail_s: float
    gain: float
    noise_snr_db: float
    noise_seed: int


def prepare(
    root: Path,
    *,
    train: int = 3000,
    dev: int = 200,
    test: int = 300,
    longest: int = 7,
    words: int = 0,
    sentences: Sequence[str] | str | None = None,
    seed: int = 1,
    rate_hz: int = audio.RATE_HZ,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Utterance]]:
    """The splits train, dev and test, as FLAC files below `root`; existing files are kept.

    Args:
        root: folder of the corpus; options that change the audio get a subfolder of their own.
        train, dev, test: number of utterances of each split.
        longest: digits in the longest string; all lengths from 1 are equally likely.
        words: other short words, drawn from CMUdict, that are spoken in two of three places of a string.
            Who hears ten words only need not learn their sounds to tell them apart.
        sentences: spoken instead of digits, one drawn per utterance: a list, or a file with one per line.
        seed: of everything that is drawn.
        rate_hz: of the files.
        workers: processes; None takes one per core.

    Raises:
        ConfigError: a number out of range.
        CorpusError: espeak-ng is not installed, a sentence that cannot be spoken, or a full disk.
    """
    counts = {"train": train, "dev": dev, "test": test}
    at_least_0 = {**counts, "words": words, "seed": seed}
    at_least_1 = {"longest": longest, "rate_hz": rate_hz, "workers": workers or 1}
    for least, given in ((0, at_least_0), (1, at_least_1)):
        for name, value in given.items():
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"synthetic: {name}={value!r}: expected a whole number from {least}")
    if words and sentences is not None:
        raise ConfigError("synthetic: words and sentences: expected one of them")
    texts, others = _read(sentences), _drawn_words(words, seed)
    facts = json.dumps(
        [longest, texts, seed, rate_hz, ACCENTS, FAMILIES, EDITION, *([others] if words else [])]
    )
    folder = (root / hashlib.sha256(facts.encode()).hexdigest()[:10]).absolute()
    wanted = [
        _request(folder / split, number, seed=seed, longest=longest, texts=texts, others=others)
        for split, count in counts.items()
        for number in range(count)
    ]
    missing = [request for request in wanted if not request.path.is_file()]
    chunks = [(missing[i : i + _CHUNK], rate_hz) for i in range(0, len(missing), _CHUNK)]
    done = len(wanted) - len(missing)
    workers = min(workers or available_cores(), len(chunks))
    for made in in_processes(_make, chunks, workers=workers, doing="synthesises speech"):
        done += made
        if progress:
            progress(done, len(wanted))
    return {split: [_utterance(r) for r in wanted if r.path.parent.name == split] for split in counts}


@cache
def timbres(seed: int = 1) -> dict[str, list[str]]:
    """The timbres of each split; no family is in two splits.

    >>> dealt = timbres()
    >>> [len(dealt[split]) for split in ("train", "dev", "test")]
    [63, 8, 12]
    """
    dealt: dict[str, list[str]] = {"test": [], "dev": [], "train": []}
    for i in np.random.default_rng(seed).permutation(len(FAMILIES)):
        fits = [
            split
            for split, size in _HELD_OUT.items()
            if len(FAMILIES[i]) <= min(_LARGEST_HELD_OUT, size - len(dealt[split]))
        ]
        dealt[fits[0] if fits else "train"] += FAMILIES[i]
    return dealt


def _read(sentences: Sequence[str] | str | None) -> list[str] | None:
    if sentences is None:
        return None
    if isinstance(sentences, str | Path):
        try:
            sentences = Path(expanded(str(sentences))).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"sentences={sentences}: expected a text file, one sentence a line: {error}"
            ) from error
    texts = [" ".join(str(text).split()) for text in sentences]
    if not any(texts):
        raise ConfigError("sentences: expected at least one")
    return [text for text in texts if text]


def _drawn_words(count: int, seed: int) -> list[str]:
    """Words of CMUdict in letters a to z with two to six phones, drawn by the seed."""
    if not count:
        return []
    pronounced = (line.split("#")[0].split() for line in cmudict.read().splitlines())
    short = sorted(
        {w for w, *phones in pronounced if re.fullmatch("[a-z]+", w) and len(phones) in range(2, 7)}
    )
    if count > len(short):
        raise ConfigError(f"synthetic: words={count}: CMUdict has {len(short):,} that are short enough")
    return [short[i] for i in np.random.default_rng(seed).permutation(len(short))[:count]]


def _request(
    folder: Path, number: int, *, seed: int, longest: int, texts: list[str] | None, others: list[str]
) -> _Request:
    split = folder.name
    rng = np.random.default_rng([seed, *split.encode(), number])
    words = rng.choice(WORDS, int(rng.integers(1, longest + 1)))
    if others:
        words = np.where(rng.random(len(words)) < SHARE_OF_OTHERS, rng.choice(others, len(words)), words)
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(timbres(seed)[split])}"
    manner = Manner(
        voice,
        rate_wpm=int(rng.integers(120, 230)),
        pitch=int(rng.integers(15, 85)),
        pitch_range=int(rng.integers(20, 80)),
        gap=int(rng.choice([0, 0, 0, 2, 5, 10])),
    )
    return _Request(
        path=folder / f"{split}-{number:05d}.flac",
        text=texts[rng.integers(len(texts))] if texts else " ".join(words),
        manner=manner,
        lead_s=float(rng.uniform(0.02, 0.3)),
        trail_s=float(rng.uniform(0.02, 0.3)),
        gain=float(10 ** (rng.uniform(-18, 0) / 20)),
        noise_snr_db=float(rng.uniform(20, 50)),
        noise_seed=int(rng.integers(2**31)),
    )


def _utterance(request: _Request) -> Utterance:
    duration_s = audio.info(request.path).duration_s
    return Utterance(request.path.stem, request.path, duration_s, request.text, request.manner.voice)


def _make(chunk: tuple[list[_Request], int]) -> int:
    """Write the files of a chunk, each whole or not at all."""
    requests, rate_hz = chunk
    with Espeak() as espeak:
        for request in requests:
            spoken = audio.resample(espeak.speak(request.text, request.manner), espeak.rate_hz, rate_hz)
            samples = np.round(_staged(spoken, request, rate_hz) * 32767).astype(np.int16)
            flac = io.BytesIO()
            soundfile.write(flac, samples, rate_hz, format="FLAC", subtype="PCM_16")
            with whole_file(request.path, "wb") as file:
                file.write(flac.getvalue())
    return len(requests)


def _staged(spoken: np.ndarray, request: _Request, rate_hz: int) -> np.ndarray:
    """The speech, its own silence replaced by the request's, with the request's gain and faint noise."""
    loud = np.flatnonzero(np.abs(spoken) > 0.01 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    edges = [np.zeros(int(s * rate_hz), np.float32) for s in (request.lead_s, request.trail_s)]
    wave = np.concatenate([edges[0], spoken / np.abs(spoken).max(), edges[1]])
    noise = np.random.default_rng(request.noise_seed).standard_normal(len(wave))
    level = np.sqrt(np.mean(spoken**2)) / np.abs(spoken).max() * 10 ** (-request.noise_snr_db / 20)
    wave = request.gain * (wave + level * noise)
    return wave / max(1.0, float(np.abs(wave).max()))
