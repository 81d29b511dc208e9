"""Sound that comes in blocks against the same sound as a whole."""

import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tone_model import spoken, tone_model
from tones import RATE_HZ, tones

from asr import audio, lm, load
from asr.decoding import BeamDecoder
from asr.decoding.stream import BeamStream, GreedyStream
from asr.encoder import EncoderConfig
from asr.errors import AudioError, ConfigError, DecodingError
from asr.features import FeaturesConfig
from asr.recognizer import Recognizer
from asr.segmentation import ENDPOINT_S, PAUSE_S, SEGMENT_S, Segments
from asr.streaming import OutputStream
from asr.text import Alphabet
from asr.transcript import Partial

MODEL = {"features": FeaturesConfig(rate_hz=8000, bands=24, normalise="none")}
SHAPES = [
    {"subsampling": s, "factor": f, "cell": c, "norm": n}
    for (s, f), c, n in zip(
        [("stack", 1), ("stack", 3), ("conv", 2), ("conv", 3), ("conv", 4)],
        ["lstm", "gru", "rnn", "lstm", "gru"],
        ["none", "layer", "batch", "none", "layer"],
        strict=True,
    )
]


def build(**shape: object) -> Recognizer:
    encoder = EncoderConfig(layers=2, width=12, bidirectional=False, channels=4, **shape)  # type: ignore[arg-type]
    return Recognizer.build(Alphabet(list(" abcd")), encoder=encoder, **MODEL).eval()


def split(samples: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """Blocks of these sizes in turn, again and again."""
    blocks, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(samples):
            return blocks
        blocks.append(samples[at : at + size])
        at += size
    raise AssertionError


@pytest.mark.parametrize("sizes", [(1,), (79,), (80,), (333, 1), (1000, 0, 17), (10**6,)])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))
def test_outputs_in_blocks_are_those_of_the_whole(shape: dict[str, object], sizes: tuple[int, ...]) -> None:
    model = build(**shape)
    lengths = [1, 79, 80, 200, 641] if sizes == (1,) else [1, 79, 80, 200, 240, 641, 4321]
    for samples in (tones("abcd dab", seed=1)[:n] for n in lengths):
        stream = OutputStream(model)
        parts = [stream.feed(block) for block in split(samples, *sizes)]
        whole_1TV, [length] = model.log_probs([samples])
        together_TV = torch.cat([*parts, stream.finish()])
        assert len(together_TV) == length
        torch.testing.assert_close(together_TV, whole_1TV[0], atol=2e-5, rtol=1e-5)


def test_outputs_come_as_soon_as_their_sound_is_there() -> None:
    model = build(factor=3)
    stream, samples = OutputStream(model), tones("abcd")
    given = heard = 0
    for block in split(samples, 50):
        given += len(block)
        heard += len(stream.feed(block))
        # output n ends with frame 3 n + 2, whose window ends 128 samples behind its middle
        assert heard == max(0, (given - 128) // 80 + 1) // 3


def test_blocks_that_are_no_arrays_are_refused() -> None:
    with pytest.raises(AudioError, match="a list: expected samples as a one-dimensional numpy array"):
        list(build().stream([[0.0, 0.1]]))  # type: ignore[list-item]


def test_a_stream_of_no_samples_has_no_outputs() -> None:
    stream = OutputStream(build())
    assert len(stream.feed(np.zeros(0, np.float32))) == len(stream.finish()) == 0
    [end] = build().stream([])
    assert (end.stable, end.words, end.transcript.text, end.transcript.duration_s) == ("", (), "", 0)


@pytest.mark.parametrize(
    ("features", "encoder", "why"),
    [
        ({}, {"bidirectional": True}, "encoder.bidirectional=true"),
        ({"normalise": "utterance"}, {"bidirectional": False}, "features.normalise=utterance"),
    ],
)
def test_a_model_that_needs_the_whole_says_what_to_train(features, encoder, why) -> None:
    model = Recognizer.build(
        Alphabet(["a"]),
        features=FeaturesConfig(**{"normalise": "none"} | features),
        encoder=EncoderConfig(layers=1, width=4, **encoder),
    )
    with pytest.raises(ConfigError, match=why) as caught:
        next(model.stream([np.zeros(800, np.float32)]))
    assert "asr run digits/streaming" in str(caught.value)
    with pytest.raises(ConfigError, match=r"bidirectional=false|normalise=global"):
        model.step(torch.zeros(1, 2000), torch.tensor([2000]))


def test_a_model_that_hears_silence_around_does_not_stream() -> None:
    front = FeaturesConfig(normalise="none", edge_s=0.03)
    shape = EncoderConfig(layers=1, width=4, bidirectional=False)
    model = Recognizer.build(Alphabet(["a"]), features=front, encoder=shape)
    with pytest.raises(ConfigError, match=r"features\.edge_s"):
        next(model.stream([np.zeros(800, np.float32)]))


def listen(model: Recognizer, samples: np.ndarray, *sizes: int, **settings: object) -> list[Partial]:
    return list(model.stream(split(samples, *sizes), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(61,), (800,), (1111, 3), (10**6,)])
@pytest.mark.parametrize("pause_s", [0.6, 4.0])
def test_the_last_is_the_transcript_of_the_whole(sizes: tuple[int, ...], pause_s: float) -> None:
    model = tone_model(bidirectional=False)
    for seed, text in enumerate(["abc dab c", "d", "cab dad bac ba", ""]):
        samples = spoken(text, seed=seed, pause_s=pause_s)
        *_, last = listen(model, samples, *sizes)
        offline = model.transcribe(samples)
        said = last.transcript
        assert (said.text, said.words, said.segments) == (offline.text, offline.words, offline.segments)
        assert said.text.split() == text.split()
        assert said.duration_s == offline.duration_s
        assert said.log_prob == pytest.approx(offline.log_prob, abs=1e-3)
        assert (last.stable, last.unstable, last.words) == (said.text, "", said.words)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_models_in_fewer_bits_stream_as_well(precision: str, tmp_path: Path) -> None:
    tone_model(bidirectional=False).save(tmp_path)
    model, samples = load(tmp_path, precision=precision), spoken("abc dab c", seed=0)
    for sizes in [(400,), (5000,)]:
        *_, last = listen(model, samples, *sizes)
        assert last.transcript.text == model.transcribe(samples).text == "abc dab c"


def check_growth(partials: list[Partial]) -> None:
    """What is stable, and every complete word with its times, stays to the end."""
    *_, last = partials
    for before, after in itertools.pairwise(partials):
        assert after.stable.startswith(before.stable)
        assert after.words[: before.stable_words] == before.words[: before.stable_words]
        assert after.stable_words >= before.stable_words and after.heard_s >= before.heard_s
        assert after.segments[: len(before.segments)] == before.segments
    for now in partials:
        assert last.stable.startswith(now.stable)
        assert (now.stable + now.unstable).split() == [w.text for w in now.words]
        assert len(now.stable.split()) >= now.stable_words
        assert all(w.end_s <= now.heard_s for w in now.words)


@pytest.mark.parametrize("sizes", [(100,), (1600,), (7, 3000)])
def test_what_is_stable_never_changes(sizes: tuple[int, ...]) -> None:
    partials = listen(tone_model(bidirectional=False), spoken("abc dab cc ad", seed=2), *sizes)
    check_growth(partials)
    assert len({now.stable for now in partials}) > 2


@pytest.mark.parametrize("settings", [{}, {"lm": True}, {"lm": True, "hotwords": ["dab"]}])
def test_a_beam_keeps_its_word_too(settings: dict[str, object]) -> None:
    model, samples = tone_model(bidirectional=False), spoken("abc dab cc ad", seed=2)
    if settings.get("lm"):
        settings = settings | {"lm": lm.train(["abc dab", "cc ad cc", "dab"], order=2)}
    for sizes in [(300,), (1600,)]:
        partials = listen(model, samples, *sizes, decoder="beam", **settings)
        *_, last = partials
        offline = model.transcribe(samples, decoder="beam", **settings)
        assert replace(last.transcript, log_prob=0) == replace(offline, log_prob=0)
        assert last.transcript.log_prob == pytest.approx(offline.log_prob, abs=1e-3)
        for before, after in itertools.pairwise(partials):
            assert after.stable.startswith(before.stable)
            for old, new in zip(before.words[: before.stable_words], after.words, strict=False):
                assert old.text == new.text
                assert (old.start_s, old.end_s) == pytest.approx((new.start_s, new.end_s), abs=0.05)
        assert len({now.stable for now in partials}) > 2


def test_words_are_stable_soon_after_they_were_said() -> None:
    samples = spoken("abc dab c", seed=3)
    partials = listen(tone_model(bidirectional=False), samples, 400)
    for word in partials[-1].words[:-1]:
        said_s = next(now.heard_s for now in partials if word in now.words[: now.stable_words])
        assert said_s - word.end_s < 1.0


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_a_pause_makes_all_that_was_said_certain(decoder: str) -> None:
    silence = 0.003 * np.random.default_rng(1).standard_normal(3 * RATE_HZ)
    samples = np.concatenate([spoken("abc dab", seed=3), silence, spoken("cab", seed=4)]).astype(np.float32)
    partials = listen(tone_model(bidirectional=False), samples, 400, decoder=decoder)
    first, second, third = partials[-1].words
    certain_s = next(now.heard_s for now in partials if now.stable_words == 2)
    assert (first.text, second.text, third.text) == ("abc", "dab", "cab")
    assert certain_s - second.end_s < ENDPOINT_S + 0.2
    assert [s.text for s in partials[-1].transcript.segments] == ["abc dab", "cab"]


@given(st.lists(st.integers(0, 3), max_size=60), st.data())
def test_segments_do_not_depend_on_blocks_and_keep_every_output(
    heard: list[int], data: st.DataObject
) -> None:
    log_probs_TV = torch.eye(4)[heard].clamp(0.01, 0.97).log()
    whole = [(part, ends) for part, ends in Segments((0, 1), 0.2).cut(log_probs_TV)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(heard)), max_size=5)))
    by_blocks, open_parts, segments = [], [], Segments((0, 1), 0.2)
    for a, b in itertools.pairwise([0, *cuts, len(heard)]):
        for part, ends in segments.cut(log_probs_TV[a:b]):
            open_parts.append(part)
            if ends:
                by_blocks.append((torch.cat(open_parts), True))
                open_parts = []
    if open_parts:
        by_blocks.append((torch.cat(open_parts), False))
    assert [(p.tolist(), e) for p, e in by_blocks] == [(p.tolist(), e) for p, e in whole]
    assert sum(len(part) for part, _ in whole) == len(heard)
    for part, ends in whole:
        torch.testing.assert_close(part.exp().sum(1), log_probs_TV[: len(part)].exp().sum(1))
        loud = [t for t, best in enumerate(part.argmax(1)) if best > 1]
        assert not ends or len(part) - 1 - loud[-1] == math.ceil(ENDPOINT_S / 0.2)


@pytest.mark.parametrize("quiet_s", [0.15, 0.3, 0.45])
def test_the_longer_a_segment_the_shorter_the_pause_that_ends_it(quiet_s: float) -> None:
    word = [2, 0, 3, 3]
    heard = [*word, 1, *[0] * (round(quiet_s / 0.05) - 1)] * 2000
    log_probs_TV = torch.eye(4)[heard].clamp(0.01, 0.97).log()
    parts = [part.argmax(1).tolist() for part, ends in Segments((0, 1), 0.05).cut(log_probs_TV) if ends]
    for part in parts:
        assert part[-1] in (0, 1) and part[:4] == word, "no word is split"
        assert SEGMENT_S * PAUSE_S / quiet_s <= len(part) * 0.05 < SEGMENT_S * PAUSE_S / quiet_s + 1
    assert len(parts) > 1


def test_a_space_that_comes_after_the_pause_begins_no_word() -> None:
    model = tone_model(bidirectional=False)
    late = [2, *[0] * 60, 1, 3, 0]  # a, a pause, the space, b
    log_probs_TV = torch.eye(6)[late].clamp(0.001, 0.995).log()
    decoders = [BeamDecoder(model.alphabet), BeamDecoder(model.alphabet, lexicon=["a", "b"])]
    for stream_of in [GreedyStream, *(partial(BeamStream, decoder) for decoder in decoders)]:
        texts = []
        for part_TV, _ in Segments((0, 1), model.frame_s).cut(log_probs_TV):
            stream = stream_of()
            stream.feed(part_TV)
            texts.append(stream.finish().text(model.alphabet))
        assert texts == ["a", "b"]


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 44_100])
def test_any_rate_gives_what_the_recording_gives(rate_hz: int) -> None:
    model = tone_model(bidirectional=False)
    samples = audio.resample(spoken("abc dab c", seed=3), RATE_HZ, rate_hz)
    *_, last = listen(model, samples, rate_hz // 7, rate_hz=rate_hz)
    offline = model.transcribe(audio.resample(samples, rate_hz, RATE_HZ))
    assert last.transcript.text == offline.text == "abc dab c"
    assert last.transcript.duration_s == pytest.approx(offline.duration_s, abs=1e-3)
    for ours, theirs in zip(last.words, offline.words, strict=True):
        assert (ours.start_s, ours.end_s) == pytest.approx((theirs.start_s, theirs.end_s), abs=0.05)


@pytest.fixture(scope="module")
def minutes() -> np.ndarray:
    """Three minutes with pauses."""
    rng = np.random.default_rng(5)
    parts = [spoken("abc dab c ", seed=i, pause_s=1.5) for i in range(60)]
    hiss = (0.003 * rng.standard_normal(180 * RATE_HZ)).astype(np.float32)
    long = np.concatenate(parts)
    return long[: 180 * RATE_HZ] if len(long) > len(hiss) else np.concatenate([long, hiss[len(long) :]])


def test_long_sound_is_in_segments_that_blocks_do_not_move(minutes: np.ndarray) -> None:
    model = tone_model(bidirectional=False)
    offline = model.transcribe(minutes)
    words = offline.words
    gaps = sum(after.start_s - before.end_s > ENDPOINT_S + 0.2 for before, after in itertools.pairwise(words))
    assert len(offline.segments) >= gaps > 20
    assert offline.duration_s == 180
    for sizes in [(4000,), (7777, 1234)]:
        partials = listen(model, minutes, *sizes)
        check_growth(partials)
        assert partials[-1].transcript.segments == offline.segments
        assert partials[-1].transcript.text == offline.text == " ".join(s.text for s in offline.segments)


def test_long_and_short_recordings_keep_their_order(minutes: np.ndarray) -> None:
    model, short = tone_model(bidirectional=False), spoken("abc dab c", seed=3)
    told: list[int] = []
    outcomes = model.outcomes([short, minutes, short], on_segment=lambda number, _: told.append(number))
    one, long, other = list(outcomes)
    assert one == other == model.transcribe(short)
    assert long.text == model.transcribe(minutes).text
    assert told.count(1) == len(long.segments)


def test_scripts_without_spaces_are_joined_without(minutes: np.ndarray) -> None:
    model = replace(tone_model(bidirectional=False), alphabet=Alphabet(list("あいうえお")))
    partials = listen(model, minutes[: 20 * RATE_HZ], 4000)
    for before, after in itertools.pairwise(partials):
        assert after.stable.startswith(before.stable)
    assert all(now.stable + now.unstable == "".join(w.text for w in now.words) for now in partials)
    assert all(now.stable_words == len(now.stable) for now in partials)
    assert len(partials[-1].stable) > 3


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_a_stream_that_has_ended_takes_no_more(rate_hz: int) -> None:
    stream = tone_model(bidirectional=False).open_stream(rate_hz)
    stream.feed(audio.resample(spoken("abc"), RATE_HZ, rate_hz))
    assert stream.finish().transcript.text == "abc"
    for call in (partial(stream.feed, np.zeros(9, np.float32)), stream.finish):
        with pytest.raises(AudioError, match="the stream has ended"):
            call()


def test_what_is_no_sound_is_refused() -> None:
    stream = build().open_stream(16_000)
    for wrong in (np.zeros((2, 10), np.float32), np.zeros(10, np.int16), np.array([np.nan])):
        with pytest.raises(AudioError):
            stream.feed(wrong)
    with pytest.raises(AudioError, match="positive"):
        build().open_stream(-1)
    with pytest.raises(DecodingError, match="whole recording"):
        build().open_stream(decoder="pyctcdecode")
    with pytest.raises(DecodingError, match="expected greedy"):
        build().open_stream(decoder="magic")
