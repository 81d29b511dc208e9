"""The embedded corpus: the same bytes from the same options, voices that are kept apart, real sound."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from asr.corpus import prepare
from asr.corpus.espeak import Espeak, Manner
from asr.corpus.synthetic import ACCENTS, TIMBRES, WORDS, timbres
from asr.errors import ConfigError, CorpusError

pytest.importorskip("espeakng_loader")
SMALL = {"train": 20, "dev": 2, "test": 2}


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.flac"))}


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(tmp_path):
    prepare("synthetic", tmp_path / "one", workers=1, **SMALL)
    prepare("synthetic", tmp_path / "two", workers=2, **SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 24
    prepare("synthetic", tmp_path / "other", workers=1, seed=2, **SMALL)
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_what_is_there_is_kept_and_what_is_missing_is_made_again(tmp_path):
    prepare("synthetic", tmp_path, workers=1, **SMALL)
    before = digests(tmp_path)
    files = sorted(tmp_path.rglob("*.flac"))
    files[3].unlink()
    kept = files[0].stat().st_mtime_ns
    prepare("synthetic", tmp_path, workers=1, **SMALL)
    assert digests(tmp_path) == before
    assert files[0].stat().st_mtime_ns == kept


def test_no_timbre_is_in_two_splits():
    dealt = timbres(5)
    assert sorted(t for part in dealt.values() for t in part) == sorted(TIMBRES)
    assert dealt != timbres(6)


def test_recordings_sound_and_say_what_the_manifest_says(tmp_path):
    splits = prepare("synthetic", tmp_path, workers=1, **SMALL)
    for split, utterances in splits.items():
        for u in utterances:
            assert set(u.text.split()) <= set(WORDS)
            assert u.speaker is not None
            assert u.speaker.split("+")[1] in timbres()[split]
            samples = audio.read(u.audio_filepath)
            assert len(samples) / 16_000 == pytest.approx(u.duration_s, abs=1e-3)
            assert 0.1 < np.abs(samples).max() <= 1
            assert u.duration_s > 0.2 * len(u.text.split())


def test_every_accent_and_timbre_speaks_and_sounds_like_itself():
    centroids = {}
    with Espeak() as espeak:
        for timbre in TIMBRES:
            wave = espeak.speak("seven", Manner(f"en-us+{timbre}"))
            assert np.abs(wave).max() > 0.05, timbre
            spectrum = np.abs(np.fft.rfft(wave))
            centroids[timbre] = float(spectrum @ np.arange(len(spectrum)) / spectrum.sum() / len(wave))
        lengths = {len(espeak.speak("five nine", Manner(f"{accent}+m1"))) for accent in ACCENTS}
    assert len(set(np.round(list(centroids.values()), 4))) > 0.8 * len(TIMBRES)
    assert len(lengths) > 1


def test_nothing_said_before_changes_what_is_said():
    with Espeak() as espeak:
        first = espeak.speak("one two", Manner("en-us+m1"))
        espeak.speak("nine eight seven", Manner("en-gb-scotland+klatt3", pitch=80))
        assert np.array_equal(espeak.speak("one two", Manner("en-us+m1")), first)


def test_wrong_wishes_are_refused(tmp_path):
    with Espeak() as espeak, pytest.raises(CorpusError, match="no voice 'xx-none'"):
        espeak.speak("one", Manner("xx-none"))
    with pytest.raises(ConfigError, match="expected no less"):
        prepare("synthetic", tmp_path, train=-1)
    with pytest.raises(ConfigError, match="did you mean 'longest'"):
        prepare("synthetic", tmp_path, longst=3)
