"""What a recipe that goes on from a trained model has from it, and what it sets itself."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr import cli, load
from asr.corpus.manifest import read_manifest
from asr.decoding.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.jobs import recipe as recipes
from asr.jobs.inheritance import extended, inherited, objective
from asr.pronunciation import Lexicon
from asr.recognizer import Recognizer
from asr.text import Alphabet

FEATURES = FeaturesConfig(rate_hz=8000, bands=24, pool_s=0.5)
ENCODER = EncoderConfig(layers=1, width=16, dropout=0.1)
DECODER = DecoderConfig(name="beam", alpha=0.7, prior=(0.5, 0.5), confidence_slope=2.0)


@pytest.fixture
def asr(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str]]:
    """Runs the command in an empty folder: (exit status, what it printed, on one line)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["asr", *words, "training.device=cpu", "data.workers=1"])
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        return status, " ".join("".join(capsys.readouterr()).split())

    return call


def model() -> Recognizer:
    """One with few settings at their defaults."""
    given = {"features": FEATURES, "encoder": ENCODER, "decoder": dataclasses.replace(DECODER)}
    return Recognizer.build(Alphabet(list(" abc")), style="none", **given)


def composed(folder: Path, *words: str) -> recipes.Recipe:
    return recipes.compose(["folder", f"training.start_from={folder}", f"exp={folder}/exp", *words])


def test_a_model_is_tuned_to_other_recordings_by_its_name_alone(asr, tone_manifest, tmp_path):
    corpora = {name: f"data.root={tone_manifest(name, 20, seed=i)}" for i, name in enumerate("ab", 1)}
    shape = ["features.rate_hz=8000", "features.bands=24", "encoder.layers=1", "encoder.width=16"]
    status, said = asr("run", "folder", corpora["a"], *shape, "training.epochs=1", "lm.order=2", "exp=base")
    assert status == 0, said
    base, words = load("base/model"), ["folder/finetune", corpora["b"], "training.epochs=1", "exp=on"]
    status, said = asr("run", *words, "training.start_from=base/model")
    assert (
        status == 0 and "as in base/model: features.rate_hz=8000 features.bands=24 encoder.layers=1" in said
    )
    tuned = load("on/model")
    assert (tuned.features.config, tuned.encoder.config) == (base.features.config, base.encoder.config)
    assert tuned.alphabet.symbols[: len(base.alphabet)] == base.alphabet.symbols
    said_there = {w for u in read_manifest(tmp_path / "b.jsonl") for w in u.text.split()}
    assert base.lm is not None and tuned.lm is not None and not said_there <= set(base.lm.vocabulary)
    assert {*base.lm.vocabulary} < {*tuned.lm.vocabulary} <= {*base.lm.vocabulary, *said_there}
    assert (tuned.decoder.name, tuned.decoder.alpha) == (base.decoder.name, base.decoder.alpha)
    assert not torch.equal(
        tuned.encoder.state_dict()["output.bias"], base.encoder.state_dict()["output.bias"]
    )
    assert json.loads(Path("on/recipe.json").read_text())["encoder"]["width"] == 16

    Path("base").rename("gone")
    made = Path("on/model/model.safetensors").read_bytes()
    status, said = asr("run", *words, "training.start_from=base/model")
    assert status == 0 and "training is done already" in said
    assert Path("on/model/model.safetensors").read_bytes() == made
    status, said = asr("run", *words, "training.start_from=base/model", "exp=new")
    assert status == 1 and "base/model: no model there" in said and not Path("new").exists()


def test_a_recipe_to_tune_a_model_asks_which(asr, tone_manifest):
    status, said = asr("run", "folder/finetune", f"data.root={tone_manifest('a', 4, seed=1)}")
    assert status == 1 and "MODEL: no model there" in said


def test_only_what_a_recipe_leaves_at_its_default_is_inherited(tmp_path, capsys):
    model().save(tmp_path)
    found = inherited(composed(tmp_path, "encoder.layers=2", "decoder.alpha=0.2", "features.edge_s=0.08"))
    assert found.features == dataclasses.replace(FEATURES, edge_s=0.08)
    assert found.encoder == dataclasses.replace(ENCODER, layers=2)
    assert found.decoder == DecoderConfig(name="beam", alpha=0.2)  # prior and confidence are measured anew
    assert found.data.style == "none"
    said = capsys.readouterr().err
    assert f"as in {tmp_path}: features.rate_hz=8000" in said and "encoder.layers" not in said
    asked = ["decoder.name=greedy", "encoder.dropout=0"]
    found = inherited(composed(tmp_path, *asked), asked)
    assert (found.decoder.name, found.decoder.alpha, found.encoder.dropout) == ("greedy", 0.7, 0.0)
    plain = recipes.compose(["folder"])
    assert inherited(plain) is plain


def test_what_was_optimised_on_which_variations_is_inherited_too(tmp_path):
    asked = ["training.denominator=0.9", "training.consistency=0.2", "training.learning_rate=1e-4"]
    asked += ["augmentation.speed=[0.9,1]", "augmentation.time_masks=10", "augmentation.noise=0"]
    first = recipes.compose(["folder", *asked])
    dataclasses.replace(model(), trained_on={"objective": objective(first)}).save(tmp_path)
    found = inherited(composed(tmp_path, "training.consistency=0.3", "augmentation.time_masks=7"))
    assert found.augmentation == dataclasses.replace(first.augmentation, time_masks=7)
    usual = dataclasses.replace(recipes.Recipe().training, start_from=str(tmp_path))
    of_it = {"denominator": 0.9, "denominator_epochs": 0.0, "consistency": 0.3}
    assert found.training == dataclasses.replace(usual, **of_it)


def test_an_alphabet_is_extended_by_what_the_texts_have_besides():
    texts = ["two", "cab"]
    assert extended(Alphabet(list(" cba")), texts).symbols == tuple(" cbaotw")
    subwords = Alphabet.from_texts(["a bad cab"], subwords=8)
    assert extended(subwords, texts) == subwords
    from_file = Alphabet([" ", "t", "u"], lexicon=Lexicon({"two": [("t", "u")]}))
    assert extended(from_file, texts) == from_file


def test_phones_stay_and_further_words_are_pronounced_with_them():
    pytest.importorskip("espeakng_loader", reason="needs asr[synth]")
    lexicon = Lexicon({"two": [("t", "u")], "uh": [("ʌ",)]}, language="en-us")
    spoken = Alphabet([" ", "t", "u", "ʌ"], lexicon=lexicon)
    found = extended(spoken, ["two", "tut"])
    assert found.symbols == spoken.symbols and found.lexicon is not None
    assert found.lexicon.first("two") == ("t", "u") and found.lexicon.first("tut") == ("t", "ʌ", "t")


def test_a_recipe_that_comes_with_a_model_has_its_settings_from_nowhere_else(capsys):
    recipe = recipes.compose(["fsdd"])
    assert inherited(recipe) == recipe and not capsys.readouterr().err
