"""Models of scripts without spaces, where every symbol is a word: evaluated, tuned, with language models."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import soundfile
from tone_model import spoken, tone_model
from tones import RATE_HZ, sentences

import asr
import asr.lm
from asr.corpus.manifest import Utterance, write_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.decoding import BeamDecoder
from asr.errors import DecodingError, LanguageModelError
from asr.jobs import tune as tuning
from asr.jobs.evaluate import evaluate, show, write_hypotheses
from asr.jobs.language_model import model_of_recipe, rescorer_of_recipe
from asr.jobs.recipe import LmConfig, Recipe
from asr.recognizer import DecoderConfig, Recognizer
from asr.scoring import score_spoken
from asr.text import Alphabet, normalise
from asr.training.distributed import Ranks
from asr.training.validation import Split, measure

WRITTEN = str.maketrans(" abcd", "界你好世天")
"""What stands for the outputs of the model of tones, the pause included."""
SCRIPT = Alphabet(list("界你好世天"))
SAID = [text.replace(" ", "") for text in sentences(12, seed=8)]
TEXTS = [text.translate(WRITTEN) for text in SAID]


@pytest.fixture
def model(tmp_path) -> Recognizer:
    tone_model().save(tmp_path / "model")
    model = asr.load(tmp_path / "model")
    model.alphabet = SCRIPT
    return model


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    found = []
    for i, (text, said) in enumerate(zip(TEXTS, SAID, strict=True)):
        wave, path = spoken(said, seed=i), tmp_path / f"{i}.wav"
        soundfile.write(path, wave, RATE_HZ)
        wrong = text.translate({ord("你"): "天"}) if i == 0 else text
        found.append(Utterance(str(i), path, len(wave) / RATE_HZ, wrong))
    return found


MISREAD = TEXTS[0].count("你")
RATE = MISREAD / sum(map(len, TEXTS))


def test_punctuation_between_phrases_does_not_make_spaces():
    texts = [normalise(text) for text in ("今天天气很好", "你好，世界", "我去学校")]
    alphabet = Alphabet.from_texts(texts)
    assert " " in texts[1] and not alphabet.separates_words
    assert alphabet.encode(texts[1]) == alphabet.encode("你好世界") and not alphabet.missing(texts[1])
    assert score_spoken(["今天天气很好"], ["今天天气很号"], alphabet=alphabet).wer == pytest.approx(1 / 6)
    mixed = Alphabet.from_texts(["我去 new york", "你好"])
    assert mixed.separates_words and mixed.decode(mixed.encode("去 new")) == "去 new"
    assert sorted(Alphabet(["a", "b"]).missing("a b")) == [" "]  # no such script: a space is a mistake


def test_what_is_slower_than_its_audio_is_not_called_real_time(model, utterances, capsys):
    done = evaluate(model, utterances)
    for factor, told in ((0.552, "(0.55 × real time)"), (1234.5, "(1,234 × real time)")):
        show(replace(done, seconds=done.audio_s / factor))
        assert told in capsys.readouterr().err


def test_evaluation_counts_symbols_as_words(model, utterances, tmp_path):
    assert MISREAD
    done = evaluate(model, utterances)
    assert [t.text for t in done.transcripts] == TEXTS
    assert (done.score.wer, done.score.cer, done.score.substitutions) == (RATE, RATE, MISREAD)
    assert all(len(u.confidences) == len(u.hypothesis) for u in done.score.utterances)
    assert "pool:symbols" in done.score.signature
    show(done, report=tmp_path / "report.html")
    write_hypotheses(done, tmp_path / "dev.jsonl")
    assert json.loads((tmp_path / "dev.jsonl").read_text().splitlines()[1])["pred_text"] == TEXTS[1]


def test_tuning_and_validation_count_what_evaluation_counts(model, utterances, tmp_path):
    emissions = tuning.Emissions(model, utterances)
    assert emissions.score(decoder="greedy").wer == emissions.score().cer == RATE
    pack(utterances, tmp_path / "packed", rate_hz=RATE_HZ, workers=1)
    found = measure(
        model,
        Split(PackedCorpus(tmp_path / "packed"), model, min_s=0, max_s=60),
        seconds_per_batch=60,
        ranks=Ranks(),
        loss=SimpleNamespace(
            autocast=nullcontext, of_utterances=lambda x_BTV, *_: x_BTV.new_zeros(len(x_BTV))
        ),
    )
    assert (found["wer"], found["cer"]) == (RATE, RATE)


def test_a_bundle_is_tuned_and_calibrated(model, utterances, tmp_path, capsys):
    model.lm = asr.lm.train([SCRIPT.separate(text) for text in TEXTS], order=2)
    model.save(bundle := tmp_path / "model")
    write_manifest(tmp_path / "dev.jsonl", utterances)
    tuning.tune_bundle(asr.load(bundle), tmp_path / "dev.jsonl", bundle=bundle, hotwords=[TEXTS[1][1:3]])
    assert "by weight of the hotwords" in capsys.readouterr().err
    assert asr.load(tmp_path / "model").decoder.confidence_slope != 1


def test_hotwords_are_found_within_sentences(model, utterances, capsys):
    emissions, result = tuning.Emissions(model, utterances), tuning.Tuning([], 0.0)
    tuning._search_hotword_weight(emissions, result, ["天天天天天天天天"])
    assert not result.hotword_weights and "none of the hotwords is said" in capsys.readouterr().err
    tuning._search_hotword_weight(emissions, result, [TEXTS[1][1:3]])
    assert set(result.hotword_weights) == set(tuning._HOTWORD_WEIGHTS)


def test_the_n_grams_of_a_recipe_are_of_symbols_and_its_lstm_reads_sentences_as_written(
    tmp_path, monkeypatch
):
    prepared = SimpleNamespace(transcripts=lambda: TEXTS)
    recipe = Recipe(exp=str(tmp_path), lm=LmConfig(order=2), decoder=DecoderConfig(rescore=5))
    ngrams = model_of_recipe(recipe, prepared, SCRIPT)
    assert set(ngrams.known_words) <= set(SCRIPT.symbols)
    BeamDecoder(SCRIPT, ngrams)
    spaced = model_of_recipe(recipe, prepared, Alphabet([" ", *SCRIPT.symbols]))
    assert set(spaced.known_words) == set(TEXTS)
    read: list[str] = []
    monkeypatch.setattr("asr.lm.train_recurrent", lambda sentences, *_, **__: read.extend(sentences))
    rescorer_of_recipe(recipe, prepared)
    assert read == TEXTS


def test_words_of_several_symbols_are_refused_with_the_reason():
    with pytest.raises(LanguageModelError, match="every symbol is a word: the text must have spaces"):
        BeamDecoder(SCRIPT, asr.lm.train(["你好世界", "你好"], order=2))
    with pytest.raises(DecodingError, match="every symbol is a word"):
        BeamDecoder(SCRIPT, lexicon=["你好"])
    with pytest.raises(LanguageModelError, match="the case of the letters differs"):
        BeamDecoder(Alphabet(list("ab")), asr.lm.train(["A B", "B"], order=2))
    with pytest.raises(LanguageModelError, match="of the same language"):
        BeamDecoder(SCRIPT, asr.lm.train(["한국", "어"], order=2))
