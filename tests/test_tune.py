"""`asr tune`: what is searched, what is chosen, and when nothing is."""

import json
import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import soundfile
import torch
from tone_model import spoken, tone_model
from tones import RATE_HZ, sentences

import asr
import asr.lm
from asr.corpus.manifest import Utterance, write_manifest
from asr.decoding import BeamDecoder
from asr.decoding.choice import Choice, Chooser
from asr.decoding.config import DecoderConfig
from asr.errors import ConfigError, CorpusError, DecodingError, ManifestError
from asr.jobs import tune as jobs
from asr.lm import Steps
from asr.lm.mixture import AFTER
from asr.recognizer import Recognizer
from asr.scoring import Score
from asr.text import Alphabet

TEXTS = sentences(24, seed=8)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    found = []
    for i, text in enumerate(TEXTS):
        wave, path = spoken(text, seed=i), folder / f"{i}.wav"
        soundfile.write(path, wave, RATE_HZ)
        found.append(
            Utterance(audio_filepath=str(path), duration_s=len(wave) / RATE_HZ, text=text, id=str(i))
        )
    return found


@pytest.fixture
def hazy_model(tmp_path, monkeypatch):
    """A model of its own whose posteriors are so soft and noisy that the best path errs."""
    tone_model().save(tmp_path)
    model = asr.load(tmp_path)
    model.lm = asr.lm.train(TEXTS, order=2)
    clear = model.emissions

    def hazy(samples):
        log_probs_BTV, lengths_B = clear(samples)
        noise = torch.randn(log_probs_BTV.shape, generator=torch.Generator().manual_seed(len(samples)))
        return (0.25 * log_probs_BTV + 0.7 * noise).log_softmax(-1), lengths_B

    monkeypatch.setattr(model, "emissions", hazy)
    return model


def wer(model: Recognizer, utterances: list[Utterance], **settings: object) -> float:
    return jobs.Emissions(model, utterances).score(**settings).wer


def test_the_best_settings_of_all_are_those_of_the_model_afterwards(hazy_model, utterances):
    tuning = jobs.tune(hazy_model, utterances)
    settings, best = hazy_model.decoder, tuning.best
    assert (settings.alpha, settings.beta, settings.prior_weight) == (
        best.alpha,
        best.beta,
        best.prior_weight,
    )
    assert sum(settings.prior) == pytest.approx(1.0, abs=1e-5)
    without = [t for t in tuning.trials if t.prior_weight == 0]
    assert best.wer == min(t.wer for t in (without if best in without else tuning.trials)) < tuning.greedy_wer
    assert len({(t.alpha, t.beta, t.prior_weight) for t in tuning.trials}) == len(tuning.trials) > 50
    assert set(tuning.widths) == {*jobs._WIDTHS, 64}
    assert settings.name == "beam"
    assert wer(hazy_model, utterances) == tuning.widths[settings.beam_width].wer


def test_where_all_settings_do_equally_well_the_language_model_keeps_its_say(utterances, tmp_path):
    tone_model().save(tmp_path)
    model = asr.load(tmp_path)
    model.lm = asr.lm.train(TEXTS, order=2)
    tuning = jobs.tune(model, utterances)
    equal = [t for t in tuning.trials if (t.wer, t.cer, t.prior_weight) == (0.0, 0.0, 0.0)]
    assert min(t.alpha for t in equal) == 0.0 and len(equal) > 20
    assert (model.decoder.alpha, model.decoder.beta) == pytest.approx((0.5, 1.0), abs=0.1)


def test_the_prior_has_to_help_by_more_than_noise():
    wrong_N = np.repeat([1, 0], [9, 31])
    plain, weighed = jobs.Trial(0.5, 1.0, 0.0, 9 / 40, 0.1, wrong_N), jobs.Trial(0.3, 0.0, 0.4, 0, 0, wrong_N)

    def best(better: int, worse: int) -> jobs.Trial:
        """With the prior this many are right that were wrong, and the reverse."""
        now_N = np.concatenate([np.zeros(better), wrong_N[better : 40 - worse], np.ones(worse)])
        return jobs.Tuning([plain, replace(weighed, wer=now_N.mean(), errors_N=now_N)], 0.5).best

    assert best(1, 0) is plain and best(2, 0).prior_weight == 0.4  # 2 > √2
    close = jobs.Tuning([plain, replace(weighed, wer=8 / 40)], greedy_wer=8.5 / 40)
    assert close.best.prior_weight == 0.4  # else the beam would be worse than greedy decoding
    assert best(4, 2) is plain and best(5, 2).prior_weight == 0.4  # 2 < √6, 3 > √7


def test_the_smallest_width_within_one_standard_error_of_the_best_is_taken():
    references = ["a b c d"] * 40

    def score(wrong: int) -> Score:
        return asr.score(references, ["x b c d"] * wrong + references[wrong:])

    assert jobs.smallest_within_noise({8: score(6), 16: score(5), 64: score(4), 512: score(4)}) == 16
    assert jobs.smallest_within_noise({8: score(0), 16: score(0)}) == 8
    assert jobs.smallest_within_noise({8: score(9), 16: score(5), 32: score(40)}) == 16


def test_the_weight_of_hotwords_is_searched_where_they_are_said(hazy_model, utterances, capsys):
    hotwords = sorted({word for text in TEXTS for word in text.split() if len(word) == 3})
    tuning = jobs.tune(hazy_model, utterances, hotwords=hotwords)
    rates = {weight: score.wer for weight, score in tuning.hotword_weights.items()}
    assert rates[hazy_model.decoder.hotword_weight] == min(rates.values()) < max(rates.values())
    assert wer(hazy_model, utterances, hotwords=hotwords) == min(rates.values())
    assert "by weight of the hotwords: 0 " in told(tuning, capsys)


def told(tuning: jobs.Tuning, capsys: pytest.CaptureFixture[str]) -> str:
    jobs.tell(tuning)
    return capsys.readouterr().err.replace("\n", " ")


class Knowing:
    """Judges the texts that are said a hundred nats above, or below, all others."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def steps(self, sentences: list[str]) -> list[Steps]:
        ln = [-100.0 + 100.0 * self.sign * (s in TEXTS) for s in sentences]
        return [Steps(np.array([AFTER]), np.array([one])) for one in ln]


def test_the_share_of_a_rescorer_is_searched(hazy_model, utterances, capsys):
    hazy_model.lm = asr.lm.train(["".join(c) for c in permutations("abcd", 2)], order=1)
    hazy_model.rescorer = Knowing(1)
    tuning = jobs.tune(hazy_model, utterances)
    best = hazy_model.decoder.rescore_share
    assert tuning.rescore_shares[best].wer < tuning.rescore_shares[0.0].wer
    assert hazy_model.decoder.rescore == 30
    assert wer(hazy_model, utterances, rescore=30) == tuning.rescore_shares[best].wer
    assert "by share of the LSTM" in told(tuning, capsys)
    assert len(tuning.to_json()["rescore_shares"]) == len(tuning.rescore_shares)


def test_what_counts_against_greedy_decoding_is_the_rescored_beam():
    references = ["a b c d"] * 4
    good, bad = (asr.score(references, [h] * 4) for h in ("a b c d", "x y z d"))
    tuning = jobs.Tuning([], 0.5, widths={8: bad}, rescore_shares={0.0: bad, 0.5: good})
    assert tuning.beam_wer == 0.0
    assert jobs.Tuning([], 0.5, widths={8: bad, 16: bad}).beam_wer == 0.75


def test_a_rescorer_that_does_not_help_is_left_out_and_this_is_said(hazy_model, utterances, capsys):
    hazy_model.rescorer = Knowing(-1)
    jobs.tune(hazy_model, utterances)
    assert hazy_model.rescorer is None and hazy_model.decoder.rescore == 0
    assert "recognises no better" in capsys.readouterr().err


def test_hotwords_keep_their_weight_where_all_do_equally_well(hazy_model, utterances, monkeypatch):
    score = asr.score(["a"], ["b"])
    monkeypatch.setattr(jobs, "_score_each", lambda *given, **_: dict.fromkeys(given[2], score))
    hazy_model.decoder.hotword_weight = 3.0
    said = TEXTS[0].split()[0]
    jobs._search_hotword_weight(jobs.Emissions(hazy_model, utterances), jobs.Tuning([], 0.0), [said])
    assert hazy_model.decoder.hotword_weight == 3.0


def test_hotwords_that_nobody_says_keep_their_weight_and_this_is_said(hazy_model, utterances, capsys):
    before = hazy_model.decoder.hotword_weight
    tuning = jobs.tune(hazy_model, utterances[:4], hotwords=["abcdabcd"])
    assert not tuning.hotword_weights and hazy_model.decoder.hotword_weight == before
    assert "none of the hotwords is said" in capsys.readouterr().err


def test_a_model_that_has_learnt_nothing_is_not_tuned_and_this_is_said(utterances, capsys):
    model = Recognizer.build(Alphabet(list(" abcd")), seed=1)
    model.lm = asr.lm.train(TEXTS, order=2)
    tuning = jobs.tune(model, utterances)
    assert not tuning.trials and not tuning.widths
    assert model.decoder.name == "greedy"
    assert "learnt next to nothing" in capsys.readouterr().err.replace("\n", " ")
    assert told(tuning, capsys) == ""


AB, LM = Alphabet([" ", "a", "b"]), asr.lm.train(["a b", "a a b", "b a", "ab b"], order=2)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_other_weights_give_what_a_decoder_made_with_them_gives():
    first = BeamDecoder(AB, LM, hotwords=["ab"])
    changed = {"alpha": 1.3, "beta": -0.4, "hotword_weight": 1.0, "unknown_penalty": 3.0, "beam_width": 7}
    prior = {"prior": [0.4, 0.3, 0.2, 0.1], "prior_weight": 0.5}
    other, made = (
        first.reweighed(**changed, **prior),
        BeamDecoder(AB, LM, hotwords=["ab"], **changed, **prior),
    )
    again = other.reweighed(alpha=0.5, beta=1.0, hotword_weight=4.0, unknown_penalty=10.0, beam_width=64)
    for seed in range(20):
        assert other.decode(noise(seed), [30]) == made.decode(noise(seed), [30])
        assert again.decode(noise(seed), [30]) == first.decode(noise(seed), [30])
    with pytest.raises(DecodingError, match="finite"):
        first.reweighed(alpha=math.nan)
    with pytest.raises(DecodingError, match="gamma"):
        first.reweighed(gamma=1.0)


def test_a_decoder_is_made_once_and_weighed_anew_when_weights_or_prior_change():
    chooser, config = Chooser(), DecoderConfig(prior=(0.7, 0.1, 0.1, 0.1), prior_weight=0.8)

    def choose(**settings: object) -> BeamDecoder:
        return chooser.decoder(Choice("beam", AB, config, LM, settings))

    first = choose()
    assert choose() is first
    other = choose(alpha=0.9, beam_width=3)
    assert other is not first and other._vocabulary is first._vocabulary
    config.prior = (0.1, 0.7, 0.1, 0.1)
    found = [choose().decode(noise(seed), [30]) for seed in range(8)]
    fresh = BeamDecoder(AB, LM, prior=config.prior, prior_weight=0.8)
    assert found == [fresh.decode(noise(seed), [30]) for seed in range(8)]
    assert found != [first.decode(noise(seed), [30]) for seed in range(8)]
    assert choose(hotwords=["ab"])._vocabulary is not first._vocabulary
    assert [choose(lexicon=iter([word]))._vocabulary.words for word in ("ab", "ba")] == [["ab"], ["ba"]]
    many = np.array(["".join(letters) for letters in product("ab", repeat=11)], object)  # its repr has gaps
    for word in many[[1000, 1001]]:
        assert word not in choose(lexicon=many[many != word])._vocabulary.words

    assert choose(alpha=0.3).settings.cut == pytest.approx(math.exp(-10))
    config.beam_threshold, config.token_threshold = 30.0, -15.0
    for more, token_threshold in ({"alpha": 0.4}, -15), ({"token_threshold": -2.0}, -2):
        _, *thresholds = choose(**more).settings
        assert thresholds == pytest.approx([math.exp(-30), math.exp(token_threshold)])

    config.prior = ()
    mine = {"prior": [0.4, 0.2, 0.2, 0.2], "prior_weight": 1.0}
    scales = [choose(**mine, **more)._scale_V.tolist() for more in ({}, {"alpha": 0.7})]
    assert scales == [pytest.approx([2.5, 5, 5, 5])] * 2
    with pytest.raises(DecodingError, match=r"prior_weight=0\.3: there is no prior"):
        choose(prior_weight=0.3)
    assert choose(prior_weight=0.0)._scale_V is None


def test_what_cannot_be_read_is_named_and_left_out(hazy_model, utterances, tmp_path, capsys):
    (tmp_path / "empty.wav").touch()
    bad = Utterance(audio_filepath=str(tmp_path / "empty.wav"), duration_s=0.5, text="a", id="bad")
    emissions = jobs.Emissions(hazy_model, [*utterances, bad])
    assert len(emissions.texts) == len(utterances)
    assert "bad is not tuned on" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="none of the 1 utterances can be read"):
        jobs.Emissions(hazy_model, [bad])


def test_a_recording_that_is_missing_is_counted_once_the_rest_is_tuned_on(utterances, tmp_path):
    model = tone_model()
    model.lm = asr.lm.train(TEXTS, order=2)
    model.save(bundle := tmp_path / "model")
    model.lm = None
    missing = Utterance("gone", tmp_path / "gone.wav", 1.0, "a")
    for name, added in (("whole", []), ("part", [missing])):
        write_manifest(tmp_path / f"{name}.jsonl", [*utterances, *added])
        assert jobs.tune_bundle(asr.load(bundle), tmp_path / f"{name}.jsonl", bundle=bundle) == len(added)


def test_a_set_without_texts_or_with_ids_that_stand_twice_changes_nothing(utterances, tmp_path):
    model = tone_model()
    model.lm = asr.lm.train(TEXTS, order=2)
    model.save(bundle := tmp_path / "model")
    model.lm = None
    before = (bundle / "model.safetensors").read_bytes()
    line = {"audio_filepath": str(utterances[0].audio_filepath), "duration": 1.0, "id": "u"}
    (tmp_path / "silent.jsonl").write_text(json.dumps(line | {"text": ""}) + "\n")
    (tmp_path / "void.jsonl").touch()
    with pytest.raises(CorpusError, match=r"void\.jsonl has no utterances"):
        jobs.tune_bundle(asr.load(bundle), tmp_path / "void.jsonl", bundle=bundle)
    (tmp_path / "twice.jsonl").write_text(2 * (json.dumps(line | {"text": "a"}) + "\n"))
    with pytest.raises(ConfigError, match="nothing is said"):
        jobs.tune_bundle(asr.load(bundle), tmp_path / "silent.jsonl", bundle=bundle)
    with pytest.raises(ManifestError, match=r"twice.jsonl: 1 ids stand more than once: 'u'"):
        jobs.tune_bundle(asr.load(bundle), tmp_path / "twice.jsonl", bundle=bundle)
    assert (bundle / "model.safetensors").read_bytes() == before
