"""The recogniser and its bundle."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tones import tones

from asr import load
from asr.decoding import BeamDecoder, Hypothesis, PyctcDecoder
from asr.encoder import EncoderConfig
from asr.errors import AlphabetError, AudioError, BundleError, ConfigError, DecodingError, LanguageModelError
from asr.features import FeaturesConfig
from asr.jobs.export import export
from asr.lm import RecurrentModel, train
from asr.pronunciation import Lexicon
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.transcript import Clock, transcript_of

WAVES = [tones(text, seed=i) for i, text in enumerate(["abc", "d", "a bb cab dad"])]


@pytest.fixture
def model() -> Recognizer:
    built = Recognizer.build(
        Alphabet(list(" abcd")),
        features=FeaturesConfig(rate_hz=8000, bands=24),
        encoder=EncoderConfig(layers=2, width=16, factor=2),
        seed=3,
    )
    return built.eval()


def test_a_bundle_rebuilds_the_same_model(model, tmp_path):
    model.trained_on = {"recipe": "tones", "seed": 3}
    file = model.save(tmp_path / "model")
    for place in (file, tmp_path / "model", str(tmp_path / "model")):
        again = load(place)
        assert again.alphabet == model.alphabet
        assert again.trained_on == model.trained_on
        assert torch.equal(again.log_probs(WAVES)[0], model.log_probs(WAVES)[0])


def test_saving_twice_gives_the_same_bytes(model, tmp_path):
    a, b = model.save(tmp_path / "a"), model.save(tmp_path / "b.safetensors")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("subsampling", ["stack", "conv"])
def test_a_small_bundle_rounds_each_row_to_255_steps(subsampling, tmp_path, monkeypatch):
    shape = EncoderConfig(layers=2, width=96, subsampling=subsampling, channels=8, factor=2)
    features = FeaturesConfig(rate_hz=8000, bands=24, normalise="global")
    model = Recognizer.build(Alphabet(list(" abcd")), features=features, encoder=shape).eval()
    model.features.fit([(torch.from_numpy(WAVES[0])[None], torch.tensor([len(WAVES[0])]))])
    with torch.no_grad():
        model.encoder.output.weight[2] = 0.0
    whole, small = (model.save(tmp_path / f"{small}", small=small) for small in (False, True))
    assert small.stat().st_size < 0.3 * whole.stat().st_size
    again = load(tmp_path / "True")
    for name, weights in model.encoder.state_dict().items():
        found = again.encoder.state_dict()[name]
        if weights.dim() == 1:
            assert torch.equal(found, weights)
            continue
        step = weights.flatten(1).abs().amax(1) / 127
        assert ((found - weights).flatten(1).abs().amax(1) <= step * 0.501).all()
        assert not torch.equal(found, weights) and found.dtype == torch.float32
    theirs, ours = again.features.state_dict(), model.features.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    twice = again.save(tmp_path / "twice", small=True)
    torch.testing.assert_close(load(twice).log_probs(WAVES)[0], again.log_probs(WAVES)[0], atol=1e-5, rtol=0)
    monkeypatch.setattr("asr.bundle.FORMAT", 2)
    with pytest.raises(BundleError, match="in format 3"):
        load(small)


@pytest.mark.parametrize("scale", [None, torch.ones(3), torch.ones(5, 1), torch.ones(5, dtype=torch.int64)])
def test_weights_of_8_bits_without_fitting_scales_are_refused(scale, model, tmp_path):
    file = model.save(tmp_path, small=True)
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["asr"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del header["crc32"], tensors["encoder.output.weight.scale"]
    if scale is not None:
        tensors["encoder.output.weight.scale"] = scale
    save_file(tensors, file, metadata={"asr": json.dumps(header)})
    with pytest.raises(BundleError, match="not a model of this toolkit"):
        load(file)


def test_a_model_that_has_diverged_is_not_made_small(model, tmp_path):
    with torch.no_grad():
        model.encoder.output.bias[1] = math.nan
    with pytest.raises(BundleError, match="differ from the bundle's by nan"):
        export(model, tmp_path / "small.safetensors")
    assert not list(tmp_path.iterdir())


def test_subword_alphabets_travel_in_the_bundle(model, tmp_path):
    model = Recognizer.build(
        Alphabet.from_texts(["abba cab dad"] * 3, subwords=12),
        features=FeaturesConfig(rate_hz=8000, bands=24),
    )
    model.save(tmp_path)
    assert load(tmp_path).alphabet.encode("cab dad") == model.alphabet.encode("cab dad")


def test_building_leaves_global_randomness_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Recognizer.build(Alphabet(["a"]), encoder=EncoderConfig(layers=1, width=8))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("cut", [0, 4, 100, 5000])
def test_a_truncated_bundle_is_a_clear_error(model, tmp_path, cut):
    file = model.save(tmp_path)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BundleError, match="truncated, or not a model"):
        load(tmp_path)


def test_a_byte_that_has_changed_is_noticed(model, tmp_path):
    file = model.save(tmp_path)
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="not those that were written"):
        load(tmp_path)


def test_a_foreign_file_is_a_clear_error(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, file)
    with pytest.raises(BundleError, match="not a model of this toolkit"):
        load(file)
    with pytest.raises(BundleError, match="no model there"):
        load(tmp_path / "nothing")


def test_a_transcript_does_not_depend_on_the_batch(model):
    together, lengths_B = model.log_probs(WAVES)
    for i, wave in enumerate(WAVES):
        alone, length_B = model.log_probs([wave])
        assert int(length_B[0]) == int(lengths_B[i])
        torch.testing.assert_close(alone[0], together[i, : int(length_B[0])], atol=1e-5, rtol=1e-5)
    assert [t.text for t in model.transcribe_many(WAVES, batch_s=100)] == [
        t.text for t in model.transcribe_many(WAVES, batch_s=0.1)
    ]


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_that_share_a_batch_put_it_together_again(model, threads):
    nothing = np.zeros(0, np.float32)
    around = [(nothing, nothing), (WAVES[1][:320], nothing), (nothing, WAVES[2][:50]), (nothing, nothing)]
    pieces, before = [*WAVES, WAVES[0][:1]], torch.get_num_threads()
    together_BTV, lengths_B = model.emissions(pieces, around)
    torch.set_num_threads(threads)
    try:
        shared_BTV, shared_B = model.emissions(pieces, around)
    finally:
        torch.set_num_threads(before)
    assert not shared_BTV.requires_grad and shared_BTV.shape == together_BTV.shape
    assert shared_B.equal(lengths_B)
    for mine_TV, theirs_TV, n in zip(shared_BTV, together_BTV, lengths_B, strict=True):
        torch.testing.assert_close(mine_TV[:n], theirs_TV[:n], rtol=0, atol=1e-5)


def test_words_lie_within_the_recording_and_in_order(model):
    for wave, transcript in zip(WAVES, model.transcribe_many(WAVES), strict=True):
        assert transcript.duration_s == pytest.approx(len(wave) / 8000)
        times = [t for w in transcript.words for t in (w.start_s, w.end_s)]
        assert times == sorted(times)
        assert all(0 <= t <= transcript.duration_s for t in times)
        assert all(0 <= w.confidence <= 1 for w in transcript.words)
        assert " ".join(w.text for w in transcript.words) == transcript.text.strip()


def test_probabilities_of_all_texts_sum_to_one(model):
    frames = 3
    wave = tones("a")[: frames * 2 * 80 - 81]
    log_probs, length_B = model.log_probs([wave])
    assert int(length_B[0]) == frames
    symbols = " abcd"
    texts = [""] + [x + y + z for x in ["", *symbols] for y in ["", *symbols] for z in symbols]
    model.style = "none"
    targets = {tuple(model.alphabet.encode(t)) for t in texts}
    from asr.ctc import forward_backward

    total = 0.0
    for target in targets:
        lattice = forward_backward(
            log_probs.double(),
            torch.tensor([target], dtype=torch.long).reshape(1, len(target)),
            length_B,
            torch.tensor([len(target)]),
        )
        total += math.exp(-float(lattice.nll_B[0]))
    assert total == pytest.approx(1, abs=1e-6)  # of float32 log-probabilities
    assert model.log_prob(wave, "ab") < 0


def test_edges_are_whole_outputs():
    encoder = EncoderConfig(layers=1, width=8, factor=3)
    with pytest.raises(ConfigError, match="multiple of 3 hops"):
        Recognizer.build(Alphabet(list(" ab")), features=FeaturesConfig(edge_s=0.1), encoder=encoder)


@pytest.mark.parametrize("edge_s", [0.0, 0.12])
@pytest.mark.parametrize("by_member", [False, True])
def test_quiet_ends_are_not_heard_but_blank_and_nothing_moves(edge_s, by_member, model, monkeypatch):
    def trimming(db: float) -> Recognizer:
        front = FeaturesConfig(rate_hz=8000, bands=24, edge_s=edge_s, trim_db=db)
        built = Recognizer.build(model.alphabet, features=front, encoder=[model.encoder.config] * 2, seed=3)
        built.decoder = replace(built.decoder, by_member=by_member)
        return built.eval()

    step, noise = 160, np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    loud = noise * 0.1
    hidden = np.concatenate([noise[:320] * 1e-3, loud, noise[:1234] * 1e-3])
    waves = [hidden, loud, hidden[320:], np.zeros(500, np.float32), hidden[:50]]
    plain_BTX, plain_B = trimming(0.0).emissions(waves)
    found_BTX, found_B = trimming(30.0).emissions(waves)
    assert torch.equal(found_B, plain_B)
    expected_BTX, expected_B = trimming(0.0).emissions([loud])
    heard = int(expected_B[0])
    for row, n, first in ((found_BTX[0], found_B[0], 320 // step), (found_BTX[2], found_B[2], 0)):
        torch.testing.assert_close(row[first : first + heard], expected_BTX[0], atol=1e-5, rtol=0)
        outside = torch.cat([row[:first], row[first + heard : n]])
        assert (
            len(outside) >= 1234 // step and (outside[..., 0] == 0).all() and (outside[..., 1:] == -50).all()
        )
    for i in (1, 3, 4):  # loud, digital silence, and shorter than a step: as they are
        n = int(found_B[i])
        torch.testing.assert_close(found_BTX[i, :n], plain_BTX[i, :n], atol=1e-5, rtol=0)
    around = [(noise[:800] * 1e-3, noise[:640] * 1e-3)]  # a piece of a longer recording
    assert torch.equal(
        trimming(30.0).emissions([hidden], around)[0], trimming(0.0).emissions([hidden], around)[0]
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shared_BTX, _ = trimming(30.0).emissions(waves)
    torch.testing.assert_close(shared_BTX, found_BTX, atol=1e-5, rtol=0)


def test_times_count_from_the_first_sample_whatever_the_edges(model):
    """A word heard in the silence before or after a recording belongs to its first or last moment."""
    heard = Hypothesis((2, 1, 3, 1, 4), ((2, 4), (6, 7), (9, 12), (15, 16), (20, 26)), (1.0,) * 5, -1, -1)
    said = transcript_of(heard, model.alphabet, clock=Clock(0.1, 1.5, edges=5), calibration=float)
    assert [(w.start_s, w.end_s) for w in said.words] == [(0, 0), (0.4, 0.7), (1.5, 1.5)]


@pytest.mark.parametrize("duration_s", [1.00059, 1.0004, 0.57, 1.0])
def test_no_word_ends_after_its_recording(model, duration_s):
    heard = Hypothesis((2,), ((2, 50),), (1.0,), -1, -1)
    said = transcript_of(heard, model.alphabet, clock=Clock(0.1, duration_s), calibration=float)
    segment = said.segment(20.0008)
    assert 0 <= duration_s - said.words[-1].end_s < 0.001
    assert segment is not None and 0 <= duration_s + 20.0008 - segment.words[-1].end_s < 0.0015


def test_unknown_words_and_decoders_are_refused(model):
    with pytest.raises(AlphabetError, match="'z'"):
        model.log_prob(WAVES[0], "zab")
    with pytest.raises(DecodingError, match="expected greedy, beam or pyctcdecode"):
        model.transcribe(WAVES[0], decoder="magic")
    with pytest.raises(AudioError, match="mono"):
        model.transcribe(np.zeros((2, 100), np.float32))
    with pytest.raises(AudioError, match="in one dimension, mono"):
        model.transcribe(np.array(0.5))


@pytest.mark.parametrize(
    "given", [[], [np.zeros(0, np.float32)], [np.zeros((2, 5))], ["a"], WAVES[0], [[0.5]]]
)
def test_log_probs_are_those_of_samples_only(model, given):
    with pytest.raises(AudioError, match="expected"):
        model.log_probs(given)


@pytest.mark.parametrize("one", ["a.flac", Path("a.flac"), b"RIFF", io.BytesIO(b"RIFF"), WAVES[0], None])
def test_a_single_recording_is_not_taken_for_several(model, one):
    for many in (model.transcribe_many, model.outcomes):
        with pytest.raises(AudioError, match="expected several recordings; put a single one in a list"):
            list(many(one))


@pytest.mark.parametrize("lm", ["x.arpa", Path("x.arpa"), RecurrentModel])
def test_what_is_no_language_model_is_refused(model, lm):
    for use in (model.transcribe, lambda wave, lm: model.n_best(wave, 2, lm=lm)):
        with pytest.raises(LanguageModelError, match=r"expected word n-grams; asr\.lm\.load"):
            use(WAVES[0], lm=lm)
    for decoder in (BeamDecoder, PyctcDecoder):
        with pytest.raises(LanguageModelError, match=r"expected word n-grams; asr\.lm\.load"):
            decoder(model.alphabet, lm=lm)


def test_what_is_no_path_of_a_model_is_refused():
    for path in (None, 3, b"model"):
        with pytest.raises(BundleError, match="expected the folder or the file of a model"):
            load(path)


def test_confidences_are_calibrated_as_the_settings_say(model):
    raw = [w.confidence for t in model.transcribe_many(WAVES) for w in t.words]
    model.decoder.confidence_slope = 0.5
    softer = [w.confidence for t in model.transcribe_many(WAVES) for w in t.words]
    expected = [1 / (1 + ((1 - c) / c) ** 0.5) for c in raw]  # the log-odds halved
    assert softer == pytest.approx(expected, abs=1e-3)


def test_the_best_of_several_are_different_and_the_likeliest_is_first(model):
    found = model.n_best(WAVES[0], 6, beam_width=8)
    assert len({t.text for t in found}) == len(found) == 6
    by_exact = [model.log_prob(WAVES[0], t.text) for t in found]
    assert by_exact == sorted(by_exact, reverse=True)  # no language model: nothing else counts
    assert all(len(t.words) == len(t.text.split()) for t in found)
    assert [t.text for t in model.n_best(WAVES[0], 1, beam_width=8)] == [found[0].text]
    with pytest.raises(DecodingError, match="n_best=0"):
        model.n_best(WAVES[0], 0)


def test_a_model_of_phones_writes_words_and_travels_with_its_lexicon(tmp_path):
    lexicon = Lexicon({"bee": [("b", "iː")], "be": [("b", "iː")], "dab": [("d", "æ", "b")]})
    alphabet = Alphabet.from_texts(["bee dab be"], lexicon=lexicon)
    model = Recognizer.build(alphabet, features=FeaturesConfig(rate_hz=8000, bands=24)).eval()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.alphabet == alphabet
    assert again.targets("Be dab!") == alphabet.encode("bee dab")
    with pytest.raises(AlphabetError, match="no pronunciation of 'cab'"):
        again.targets("cab")
    frames = torch.tensor([0, *alphabet.encode("dab be"), 0])  # one frame for each output
    log_probs_BTV = torch.full((1, len(frames), alphabet.size), 1e-3).scatter(2, frames[None, :, None], 1.0)
    log_probs_BTV = (log_probs_BTV / log_probs_BTV.sum(-1, keepdim=True)).log()
    lengths_B = torch.tensor([len(frames)])
    for decoder, lm, text in (
        ("greedy", None, "dab bee"),
        ("beam", None, "dab bee"),
        ("beam", train(["dab be", "bee dab"] * 3, order=2), "dab be"),
    ):
        again.lm = lm
        [found] = again.decode(log_probs_BTV, lengths_B, decoder=decoder)
        assert found.text(alphabet) == text
        assert [w.text for w in found.words(alphabet)] == text.split()
    again.lm, again.decoder.lexicon = train(["be", "bee be"] * 3, order=2), True
    texts = [
        again.decode(log_probs_BTV, lengths_B, decoder="beam", hotwords=hot)[0].text(alphabet)
        for hot in ((), ("dab",))
    ]
    assert "dab" not in texts[0] and texts[1] == "dab be"
    with pytest.raises(DecodingError, match="takes alphabets of characters"):
        again.decode(log_probs_BTV, lengths_B, decoder="pyctcdecode")


def test_settings_of_the_beam_ask_for_the_beam(model):
    samples = tones("abc dab", seed=1)
    assert model.decoder.name == "greedy"
    by_beam = model.transcribe(samples, decoder="beam", beam_width=8, hotwords=["dab"])
    assert model.transcribe(samples, beam_width=8, hotwords=["DAB!"]).log_prob == by_beam.log_prob
    with pytest.raises(DecodingError, match="decoder=greedy has no hotwords"):
        model.transcribe(samples, decoder="greedy", hotwords=["dab"])
    for asked in ({"alpha": 0.0}, {"lexicon": np.array(["abc", "dab"])}):
        with pytest.raises(DecodingError, match=f"decoder=greedy has no {next(iter(asked))}"):
            model.transcribe(samples, decoder="greedy", **asked)
        assert model.transcribe(samples, **asked).log_prob != model.transcribe(samples).log_prob
    off = {"hotwords": (), "rescore": 0, "judge": False, "beam_width": None}
    assert model.transcribe(samples, decoder="greedy", **off) == model.transcribe(samples, **off)
    for decoder in ("beam", "pyctcdecode", None):
        with pytest.raises(DecodingError, match="has no magic; it has lm, "):
            model.transcribe(samples, decoder=decoder, magic=1)


def test_a_language_model_of_single_words_is_stored_too(tmp_path):
    model = Recognizer.build(Alphabet(list(" ab")), encoder=EncoderConfig(layers=1, width=8), seed=1)
    model.lm = train(["a b", "a"], order=1)
    model.save(tmp_path)
    assert load(tmp_path).lm.score("a b") == model.lm.score("a b")
