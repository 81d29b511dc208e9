"""The recurrent language model: exact probabilities, what it learns that n-grams cannot, how it resumes."""

import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import asr.lm
from asr.errors import ConfigError, LanguageModelError
from asr.lm import RecurrentConfig, RecurrentModel
from asr.lm.recurrent import UNSEEN_LN
from asr.text import Alphabet

SMALL = RecurrentConfig(pieces=20, width=24, epochs=2, dropout=0.1, sentences_per_batch=16)


def remembering(count: int, *, seed: int) -> list[str]:
    """Sentences that end with the word they begin with, and one to five others between."""
    rng = random.Random(seed)

    def sentence() -> str:
        ends = rng.choice("xy")
        return " ".join([ends, *rng.choices("ab", k=rng.randint(1, 5)), ends])

    return [sentence() for _ in range(count)]


@cache
def trained() -> RecurrentModel:
    config = RecurrentConfig(
        pieces=9, width=32, epochs=12, learning_rate=0.02, dropout=0.0, sentences_per_batch=32
    )
    return asr.lm.train_recurrent(remembering(1200, seed=1), config, device="cpu")


def untrained(layers: int = 2) -> RecurrentModel:
    torch.manual_seed(0)
    pieces = Alphabet.from_texts(["one two three", "two twos", "ten"], subwords=14)
    return RecurrentModel(pieces, RecurrentConfig(width=12, layers=layers)).eval()


def by_the_equations(model: RecurrentModel, sentence: str) -> float:
    """ln P of a sentence in float64: Hochreiter & Schmidhuber's cell with a forget gate, step by step."""
    weights = {name: w.detach().double().numpy() for name, w in model.state_dict().items()}
    embedding, width = weights["embedding"], model.config.width
    state = [(np.zeros(width), np.zeros(width))] * model.config.layers
    ids, _ = model.spell(sentence)
    total = 0.0
    for before, after in zip([0, *ids], [*ids, 0], strict=True):
        x = embedding[before] * math.sqrt(width) / 2
        for layer, (h, c) in enumerate(state):
            name = f"runs.{layer}."
            gates = weights[f"{name}weight_ih_l0"] @ x + weights[f"{name}weight_hh_l0"] @ h
            i, f, g, o = np.split(gates + weights[f"{name}bias_ih_l0"] + weights[f"{name}bias_hh_l0"], 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            x = np.tanh(c) / (1 + np.exp(-o))
            state[layer] = x, c
        logits = embedding @ x + weights["bias"]
        total += logits[after] - np.log(np.exp(logits).sum())
    return float(total)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_probabilities_are_those_of_the_equations(layers):
    model = untrained(layers)
    sentences = ["one two", "one two three", "", "two", "one", "one two", "ten ten twos"]
    expected = [by_the_equations(model, sentence) for sentence in sentences]
    assert model.log_probs(sentences) == pytest.approx(expected, abs=1e-4)
    assert model.score("one two") == pytest.approx(expected[0] / math.log(10), abs=1e-4)


def test_training_and_scoring_compute_the_same():
    model = untrained()
    ids, _ = model.spell("two three")
    hidden_BTH = model.hidden(torch.tensor([[0, *ids]]))
    log_probs_TV = model.logits(hidden_BTH[0]).log_softmax(-1)
    whole = log_probs_TV.detach()[torch.arange(len(ids) + 1), torch.tensor([*ids, 0])].sum()
    assert model.log_probs(["two three"])[0] == pytest.approx(float(whole), abs=1e-4)


def test_what_a_sentence_scores_does_not_depend_on_the_others(monkeypatch):
    model, sentences = untrained(), ["one", "one two", "two", "one two three", "ten"]
    alone = [model.log_probs([sentence])[0] for sentence in sentences]
    assert model.log_probs(sentences) == pytest.approx(alone, abs=1e-5)
    monkeypatch.setattr("asr.lm.recurrent.TOGETHER", 2)
    assert model.log_probs(sentences) == pytest.approx(alone, abs=1e-5)
    assert len(model.log_probs([])) == 0


def test_it_remembers_what_n_grams_forget():
    seen = remembering(1200, seed=1)
    recurrent, ngrams = trained(), asr.lm.train(seen, order=4)
    right, wrong = "x a b b a b x", "x a b b a b y"
    assert recurrent.score(right) - recurrent.score(wrong) > 1  # ten times as probable
    assert abs(ngrams.score(right) - ngrams.score(wrong)) < 0.3
    unseen = remembering(300, seed=2)
    # each sentence costs at least ln 2 for its end, ln 5 for its length and ln 2 for each word between
    words = sum(len(s.split()) - 2 for s in unseen)
    least = (len(unseen) * math.log(2 * 5) + words * math.log(2)) / sum(len(s.split()) + 1 for s in unseen)
    assert math.exp(least) <= recurrent.perplexity(unseen).perplexity < 1.1 * math.exp(least)
    assert recurrent.perplexity(unseen).perplexity < ngrams.perplexity(unseen).perplexity


def test_one_text_in_place_of_several_sentences_is_refused():
    for takes in (untrained().perplexity, asr.lm.train_recurrent):
        with pytest.raises(LanguageModelError, match="sentences is one str"):
            takes("one two")


def test_perplexity_is_that_of_the_scores():
    model, sentences = untrained(), ["one two", "ten"]
    found = model.perplexity(sentences)
    assert (found.words, found.sentences, found.oov) == (3, 2, 0)
    assert found.log10_prob == pytest.approx(sum(map(model.score, sentences)), abs=1e-5)
    assert found.perplexity == pytest.approx(10 ** (-found.log10_prob / 5))
    with pytest.raises(LanguageModelError, match="empty text"):
        model.perplexity([])


def test_unseen_characters_are_counted_and_cost_something():
    model = untrained()
    assert model.log_probs(["one zwölf"]) == pytest.approx(model.log_probs(["one w"]) + 4 * UNSEEN_LN)
    found = model.perplexity(["one zwölf"])
    assert (found.words, found.oov) == (2, 1)
    assert found.perplexity > found.perplexity_without_oov
    assert model.log_probs(["漢字"]) == pytest.approx(model.log_probs([""]) + 2 * UNSEEN_LN)


def test_decomposed_text_is_the_same_text():
    model = RecurrentModel(Alphabet.from_texts(["é a", "b \u0301"], subwords=8), SMALL).eval()
    assert model.log_probs(["e\u0301 a"]) == model.log_probs(["é a"])
    assert model.perplexity(["e\u0301 ü"]) == model.perplexity(["é u\u0308"])
    assert model.perplexity(["e\u0301 a"]).oov == 0
    model = RecurrentModel(Alphabet.from_texts(["e a", "b \u0301"], subwords=8), SMALL).eval()
    assert model.log_probs(["e漢\u0301"]) == model.log_probs(["漢é"])  # both lack two characters


def test_training_reads_words_as_scoring_does():
    config = RecurrentConfig(pieces=2, width=8, epochs=1)
    models = [
        asr.lm.train_recurrent(texts, config)
        for texts in (["người đi", "một"] * 2, ["ngu\u031bo\u031b\u0300i\tđi", "  mo\u0302\u0323t"] * 2)
    ]
    assert models[0].pieces == models[1].pieces


def test_perplexities_beyond_what_a_float_holds_are_infinite(tmp_path):
    long = ["".join(random.Random(i).choices("abcdefgh", k=1500)) for i in range(8)]
    reports: list[asr.lm.Report] = []
    config = RecurrentConfig(**{**vars(SMALL), "epochs": 1, "pieces": 9})
    model = asr.lm.train_recurrent(long, config, device="cpu", on_epoch=reports.append)
    assert [(r.training, r.held_out) for r in reports] == [(math.inf, math.inf)]
    assert model.perplexity(long).perplexity == math.inf


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    text, config = remembering(200, seed=3), RecurrentConfig(**{**vars(SMALL), "epochs": 4})
    reports: list[asr.lm.Report] = []

    def kill(report: asr.lm.Report) -> None:
        reports.append(report)
        if len(reports) == 3:
            raise KeyboardInterrupt

    whole = asr.lm.train_recurrent(text, config, device="cpu")
    file = tmp_path / "lm.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        asr.lm.train_recurrent(text, config, device="cpu", checkpoint=file, on_epoch=kill)
    resumed = asr.lm.train_recurrent(text, config, device="cpu", checkpoint=file, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [1, 2, 3, 3, 4]
    assert reports[2] == reports[3]
    assert_equal(resumed, whole)
    again = asr.lm.train_recurrent(text, config, device="cpu", checkpoint=file, on_epoch=reports.append)
    assert len(reports) == 5  # nothing was left to do
    assert_equal(again, whole)
    asr.lm.train_recurrent(text[1:], config, device="cpu", checkpoint=file, on_epoch=reports.append)
    assert len(reports) == 9  # another text is learnt from the beginning


def test_random_state_and_dropout_of_others_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    asr.lm.train_recurrent(remembering(40, seed=3), SMALL, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def assert_equal(one: RecurrentModel, other: RecurrentModel) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_epoch_that_predicts_others_best_is_kept():
    text = [" ".join(random.Random(i).choices("abcdefgh", k=8)) for i in range(60)]  # nothing to learn
    config = RecurrentConfig(pieces=20, width=64, epochs=25, learning_rate=0.02, dropout=0.0)
    reports: list[asr.lm.Report] = []
    model = asr.lm.train_recurrent(text, config, device="cpu", on_epoch=reports.append)
    best = min(reports, key=lambda report: report.held_out)
    assert best.epoch < 25
    assert reports[-1].training < best.training
    assert model.perplexity([text[0]]).perplexity == pytest.approx(best.held_out, rel=0.02)  # bf16 or not


def test_a_file_holds_the_whole_model(tmp_path):
    model = trained()
    model.save(tmp_path / "lm.safetensors")
    loaded = RecurrentModel.load(tmp_path / "lm.safetensors")
    sentences = remembering(5, seed=4)
    assert loaded.log_probs(sentences).tolist() == model.log_probs(sentences).tolist()
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "lm.safetensors").read_bytes()[:-9])
    (tmp_path / "foreign.safetensors").write_bytes(b"x" * 100)
    for name in ("cut", "foreign", "missing"):
        with pytest.raises(LanguageModelError, match=f"{name}.safetensors: no readable recurrent"):
            RecurrentModel.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("texts", [[], ["", " "], ["only one"]])
def test_too_little_text_is_an_error(texts):
    with pytest.raises(LanguageModelError, match="needs at least two"):
        asr.lm.train_recurrent(texts, SMALL)


@pytest.mark.parametrize("setting", ["pieces", "width", "layers", "epochs", "sentences_per_batch"])
def test_settings_that_cannot_work_are_named(setting):
    with pytest.raises(ConfigError, match=f"lm.recurrent.{setting}=0"):
        RecurrentConfig(**{setting: 0})


def test_scripts_with_more_characters_than_pieces_are_learnt():
    text = ["".join(chr(0x4E00 + (7 * i + k) % 60) for k in range(6)) for i in range(40)]
    model = asr.lm.train_recurrent(text, SMALL, device="cpu")
    assert not model.pieces.missing("".join(text))
    assert math.isfinite(model.score(text[0]))


def test_a_loss_that_is_not_finite_stops_the_training():
    config = RecurrentConfig(**{**vars(SMALL), "learning_rate": 1e30})
    with pytest.raises(LanguageModelError, match="lower its learning_rate"):
        asr.lm.train_recurrent(remembering(60, seed=1), config, device="cpu")


def test_a_damaged_checkpoint_is_named(tmp_path):
    file: Path = tmp_path / "lm.checkpoint"
    file.write_bytes(b"no checkpoint")
    with pytest.raises(LanguageModelError, match="not a readable checkpoint"):
        asr.lm.train_recurrent(remembering(40, seed=1), SMALL, device="cpu", checkpoint=file)
