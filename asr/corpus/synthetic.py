"""The embedded corpus: connected digits spoken by espeak-ng in many voices, made in half a minute.

A voice is an accent and a timbre. Timbres are dealt out to the splits, so that nothing in `dev` or `test` was
ever heard in training. What utterance n of a split says, and how, depends on (seed, split, n) alone; the same
options give the same bytes with any number of processes. It is meant for learning the tools, for tests, and
as an addition to recordings of real people; alone it does not make a recogniser of real people.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from asr import audio
from asr.corpus.decode import available_cores
from asr.corpus.espeak import Espeak, Manner
from asr.corpus.manifest import Utterance
from asr.errors import ConfigError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = tuple("en en-us en-us-nyc en-029 en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-gb-x-rp".split())  # noqa: SIM905
_NAMES = """
Alex Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen Reed
RicishayMax RicishayMax2 RicishayMax3 Storm adam anika announcer antonio aunty belinda benjamin boris caleb
david ed edward edward2 f1 f4 grandma grandpa gustave ian iven iven2 iven3 iven4 john kaukovalta klatt klatt2
klatt3 klatt4 klatt5 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 norbert pablo paul
pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor zac
"""
TIMBRES = tuple(_NAMES.split())
"""Those left out: robots, whispers, croaks and novelties, and Alicia, f2, f3 and f5,
whose echo differs from one call of the library to the next."""
_HELD_OUT = {"test": 12, "dev": 8}
_CHUNK = 16


@dataclass(frozen=True)
class _Request:
    """One utterance to make."""

    file: str
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
    seed: int = 1,
    rate_hz: int = audio.RATE_HZ,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Utterance]]:
    """The splits train, dev and test, as FLAC files below `root`; files that are there already are kept.

    Args:
        root: folder of the corpus; other options get a folder of their own in it.
        train, dev, test: utterances of each split.
        longest: digits in the longest string; all lengths from 1 are equally likely.
        seed: of everything that is drawn.
        rate_hz: of the files.
        workers: processes; None takes one for each core.

    Raises:
        ConfigError: a number that makes no sense.
        CorpusError: espeak-ng is not installed.
    """
    counts = {"train": train, "dev": dev, "test": test}
    if min(counts.values()) < 0 or longest < 1:
        raise ConfigError(
            f"synthetic: {counts} utterances of 1 to {longest} digits: expected no less than 0 and 1"
        )
    facts = json.dumps([counts, longest, seed, rate_hz, ACCENTS, TIMBRES, 1])
    folder = (root / hashlib.sha256(facts.encode()).hexdigest()[:10]).absolute()
    requests = {
        split: [_request(seed, split, n, longest) for n in range(count)] for split, count in counts.items()
    }
    missing = [
        (str(folder / split), r)
        for split, wanted in requests.items()
        for r in wanted
        if not (folder / split / r.file).is_file()
    ]
    for split in counts:
        (folder / split).mkdir(parents=True, exist_ok=True)
    chunks = [(missing[i : i + _CHUNK], rate_hz) for i in range(0, len(missing), _CHUNK)]
    done = sum(counts.values()) - len(missing)
    for made in _in_processes(chunks, workers or available_cores()):
        done += made
        if progress:
            progress(done, sum(counts.values()))
    return {split: [_utterance(folder / split, r) for r in wanted] for split, wanted in requests.items()}


@cache
def timbres(seed: int = 1) -> dict[str, list[str]]:
    """The timbres of each split; none is in two.

    >>> dealt = timbres()
    >>> [len(dealt[split]) for split in ("train", "dev", "test")]
    [62, 8, 12]
    """
    order = np.random.default_rng(seed).permutation(len(TIMBRES))
    shuffled = [TIMBRES[i] for i in order]
    test, dev = _HELD_OUT["test"], _HELD_OUT["dev"]
    return {"test": shuffled[:test], "dev": shuffled[test : test + dev], "train": shuffled[test + dev :]}


def _request(seed: int, split: str, number: int, longest: int) -> _Request:
    rng = np.random.default_rng([seed, *split.encode(), number])
    words = rng.choice(WORDS, int(rng.integers(1, longest + 1)))
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(timbres(seed)[split])}"
    manner = Manner(
        voice,
        rate_wpm=int(rng.integers(120, 230)),
        pitch=int(rng.integers(15, 85)),
        pitch_range=int(rng.integers(20, 80)),
        gap=int(rng.choice([0, 0, 0, 2, 5, 10])),
    )
    return _Request(
        file=f"{split}-{number:05d}.flac",
        text=" ".join(words),
        manner=manner,
        lead_s=float(rng.uniform(0.02, 0.3)),
        trail_s=float(rng.uniform(0.02, 0.3)),
        gain=float(10 ** (rng.uniform(-18, 0) / 20)),
        noise_snr_db=float(rng.uniform(20, 50)),
        noise_seed=int(rng.integers(2**31)),
    )


def _utterance(folder: Path, request: _Request) -> Utterance:
    file = folder / request.file
    return Utterance(file.stem, file, soundfile.info(file).duration, request.text, request.manner.voice)


def _in_processes(chunks: list[tuple[list[tuple[str, _Request]], int]], workers: int) -> Iterator[int]:
    if not chunks:
        return
    if workers == 1 or len(chunks) == 1:
        yield from map(_make, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make, chunks)


def _make(chunk: tuple[list[tuple[str, _Request]], int]) -> int:
    """Write the files of a chunk, each whole or not at all."""
    requests, rate_hz = chunk
    with Espeak() as espeak:
        for folder, request in requests:
            spoken = audio.resample(espeak.speak(request.text, request.manner), espeak.rate_hz, rate_hz)
            partial = Path(folder) / f".{request.file}.partial"
            samples = np.round(_staged(spoken, request, rate_hz) * 32767).astype(np.int16)
            soundfile.write(partial, samples, rate_hz, format="FLAC", subtype="PCM_16")
            partial.rename(Path(folder) / request.file)
    return len(requests)


def _staged(spoken: np.ndarray, request: _Request, rate_hz: int) -> np.ndarray:
    """The speech without its own silence, between new edges, at its own loudness, over faint noise."""
    loud = np.flatnonzero(np.abs(spoken) > 0.01 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    edges = [np.zeros(int(s * rate_hz), np.float32) for s in (request.lead_s, request.trail_s)]
    wave = np.concatenate([edges[0], spoken / np.abs(spoken).max(), edges[1]])
    noise = np.random.default_rng(request.noise_seed).standard_normal(len(wave))
    level = np.sqrt(np.mean(spoken**2)) / np.abs(spoken).max() * 10 ** (-request.noise_snr_db / 20)
    wave = request.gain * (wave + level * noise)
    return wave / max(1.0, float(np.abs(wave).max()))
