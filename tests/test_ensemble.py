"""Several models heard as one, against the mean taken by hand, block by block, and from recipe to bundle."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tone_model import spoken, tone_model
from tones import tones

from asr import cli, load
from asr.encoder import Encoder, EncoderConfig
from asr.ensemble import Ensemble, build, describe
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.jobs.combine import combine, combine_bundles
from asr.precision import lower
from asr.recognizer import Recognizer
from asr.streaming import OutputStream
from asr.text import Alphabet
from asr.training.finetuning import start_from

SMALL = EncoderConfig(layers=2, width=12, dropout=0.0, factor=3, bidirectional=False)
SHAPES = [
    SMALL,
    replace(SMALL, cell="gru", width=8),
    replace(SMALL, subsampling="conv", channels=4, layers=1),
]
WAVES = [tones("abcd dab", seed=1)[:n] for n in (4321, 80, 2400, 641)]


def model(
    shape: EncoderConfig = SMALL, *, seed: int = 1, symbols: str = " abcd", bands: int = 24
) -> Recognizer:
    features = FeaturesConfig(rate_hz=8000, bands=bands, normalise="none")
    made = Recognizer.build(Alphabet(list(symbols)), features=features, encoder=shape, seed=seed)
    made.trained_on = {"seed": seed}
    return made.eval()


def three() -> list[Recognizer]:
    return [model(shape, seed=n) for n, shape in enumerate(SHAPES)]


def test_a_frame_is_the_geometric_mean_of_the_members_brought_to_a_sum_of_one():
    members = three()
    heard = [member.log_probs(WAVES) for member in members]
    found_BTV, lengths_B = combine(members).log_probs(WAVES)
    product_BTV = np.prod([log_probs_BTV.double().exp().numpy() for log_probs_BTV, _ in heard], axis=0)
    expected_BTV = product_BTV ** (1 / 3) / (product_BTV ** (1 / 3)).sum(-1, keepdims=True)
    for row, (found_TV, n) in enumerate(zip(found_BTV, lengths_B.tolist(), strict=True)):
        assert n == math.ceil((len(WAVES[row]) // 80 + 1) / 3)
        np.testing.assert_allclose(found_TV[:n].exp(), expected_BTV[row, :n], atol=1e-6)


def test_block_by_block_it_hears_what_it_hears_at_once():
    ensemble = combine(three())
    whole_BTV, _ = ensemble.log_probs([WAVES[0]])
    stream = OutputStream(ensemble)
    parts = [stream.feed(block) for block in np.split(WAVES[0], [700, 701, 3000])]
    heard_TV = torch.cat([*parts, stream.finish()])
    torch.testing.assert_close(heard_TV, whole_BTV[0], atol=2e-5, rtol=0)


def test_a_ensemble_of_equals_hears_what_each_hears():
    one = tone_model()
    both = combine([one, one])
    wave = spoken("ab cad")
    torch.testing.assert_close(both.log_probs([wave])[0], one.log_probs([wave])[0], atol=1e-5, rtol=0)
    assert both.transcribe(wave).text == one.transcribe(wave).text == "ab cad"


def test_it_is_one_bundle_that_older_versions_refuse(tmp_path, monkeypatch):
    members = three()
    ensemble = combine(members)
    ensemble.save(tmp_path)
    again = load(tmp_path)
    assert describe(again.encoder) == [describe(member.encoder) for member in members]
    assert torch.equal(again.log_probs(WAVES)[0], ensemble.log_probs(WAVES)[0])
    assert again.trained_on["members"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert members[0].save(tmp_path / "single").is_file()
    monkeypatch.setattr("asr.bundle.FORMAT", 1)
    load(tmp_path / "single")
    with pytest.raises(Exception, match="in format 2"):
        load(tmp_path)


def test_it_is_exported(tmp_path):
    pytest.importorskip("onnx", reason="exporting needs asr[export]")
    pytest.importorskip("onnxruntime", reason="exporting needs asr[export]")
    from asr.onnx_model import write

    ensemble = combine(three())
    write(ensemble, tmp_path / "all.onnx")
    exported = load(tmp_path / "all.onnx")
    expected_BTV, lengths_B = ensemble.log_probs(WAVES)
    found_BTV, _ = exported.log_probs(WAVES)
    for expected_TV, found_TV, n in zip(expected_BTV, found_BTV, lengths_B.tolist(), strict=True):
        torch.testing.assert_close(found_TV[:n], expected_TV[:n], atol=1e-4, rtol=0)
    assert exported.stream and exported.streams


def test_who_exports_an_ensemble_ranked_by_member_is_warned(tmp_path, capsys):
    pytest.importorskip("onnx", reason="exporting needs asr[export]")
    pytest.importorskip("onnxruntime", reason="exporting needs asr[export]")
    from asr.jobs.export import export

    ensemble = combine([model(replace(SMALL, bidirectional=True), seed=n) for n in (1, 2)])
    ensemble.decoder = replace(ensemble.decoder, by_member=True, warps=(0.9, 1.1))
    export(ensemble, tmp_path / "all.onnx", form="onnx")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "decoder.by_member has no effect in it" in said and "decoder.warps has no effect in it" in said
    assert ensemble.decoder.warps and not load(tmp_path / "all.onnx").decoder.warps
    export(ensemble, tmp_path / "all.safetensors", form="int8")
    assert load(tmp_path / "all.safetensors").decoder.warps == (0.9, 1.1)


def test_every_member_computes_in_int8():
    encoder = combine([model(seed=1), model(replace(SMALL, cell="gru"), seed=2)]).encoder
    lowered = lower(encoder, "int8")
    assert not any(isinstance(module, torch.nn.RNNBase) for module in lowered.modules())
    with pytest.raises(ConfigError, match="cell=rnn"):
        lower(combine([model(seed=1), model(replace(SMALL, cell="rnn"))]).encoder, "int8")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (model(symbols=" abcde"), "their outputs differ"),
        (model(bands=20), "their features differ"),
        (model(replace(SMALL, factor=2)), "one factor and direction"),
        (model(replace(SMALL, bidirectional=True)), "one factor and direction"),
        (combine([model(), model()]), "give the single models"),
    ],
)
def test_what_does_not_belong_together_is_refused(other, why):
    with pytest.raises(ConfigError, match=why):
        combine([model(), other])


def test_training_goes_on_from_a_member(tmp_path):
    members = three()
    combine(members).save(tmp_path)
    for number, (shape, member) in enumerate(zip(SHAPES, members, strict=True), 1):
        new = model(shape, seed=9)
        assert start_from(new, str(tmp_path), number)[0] == 6
        assert torch.equal(new.log_probs(WAVES)[0], member.log_probs(WAVES)[0])
        assert new.trained_on["start_from"] == member.trained_on
    for number in (0, 4):
        with pytest.raises(ConfigError, match=f"has 3 members, but no member {number}"):
            start_from(model(), str(tmp_path), number)


def test_one_is_not_several():
    with pytest.raises(ConfigError, match="at least two"):
        combine([model()])
    two = combine([model(seed=1), model(seed=2)])
    with pytest.raises(ConfigError, match=r"combined: one is an ensemble already; give the single models$"):
        combine([two, two])
    ensemble = build([SMALL, SMALL], 24, 6)
    assert isinstance(ensemble, Ensemble) and isinstance(build(SMALL, 24, 6), Encoder)
    with pytest.raises(ConfigError, match="one of its members"):
        list(ensemble.hidden(torch.zeros(1, 6, 24), torch.tensor([6])))


@pytest.mark.parametrize("given", ["m1", "m1/model.safetensors", "linked"])
@pytest.mark.parametrize("output", ["m1", "m1/model.safetensors", "linked"])
def test_no_member_is_overwritten_however_it_is_named(tmp_path, given, output):
    kept = model(seed=1).save(tmp_path / "m1").read_bytes()
    model(seed=2).save(tmp_path / "m2")
    (tmp_path / "linked").symlink_to("m1")
    with pytest.raises(ConfigError, match="is one of the models"):
        combine_bundles([tmp_path / given, tmp_path / "m2"], tmp_path / output)
    assert (tmp_path / "m1" / "model.safetensors").read_bytes() == kept
    combine_bundles([tmp_path / given, tmp_path / "m2"], tmp_path / "m1" / "both.safetensors")
    assert isinstance(load(tmp_path / "m1" / "both.safetensors").encoder, Ensemble)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["asr", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
        raise SystemExit(0)
    assert not leaving.value.code


def test_a_recipe_trains_its_members_and_goes_on_with_what_is_there(
    tmp_path: Path, tone_manifest, monkeypatch, capsys
):
    splits = ",".join(f"{name}:{tone_manifest(name, n, seed=n)}" for name, n in (("train", 8), ("dev", 3)))
    monkeypatch.chdir(tmp_path)
    words = ["run", "folder", f"data.options.splits={{{splits}}}", "exp=two", "members=2", "lm.order=2"]
    words += ["features.rate_hz=8000", "features.bands=24", "encoder.layers=1", "encoder.width=16"]
    words += ["training.epochs=1", "training.device=cpu", "data.workers=1"]
    call(monkeypatch, *words)
    members = [load(f"two/member-{k}/model") for k in (1, 2)]
    both = load("two/model")
    assert [m.trained_on["seed"] for m in members] == [1, 1001]
    assert both.trained_on["members"] == [m.trained_on for m in members]
    wave = tones("ab")
    theirs = [m.log_probs([wave])[0] for m in members]
    assert not torch.equal(*theirs)
    torch.testing.assert_close(both.log_probs([wave])[0], (sum(theirs) / 2).log_softmax(-1))
    asked = json.loads(Path("two/recipe.json").read_text())
    assert (asked["members"], asked["seed"], asked["exp"]) == (2, 1, "two")
    assert Path("two/curves.png").is_file() and both.lm is not None
    if len(os.sched_getaffinity(0)) > 1:  # side by side: the terminal is the first one's
        assert "development WER" in Path("two/member-2/training.log").read_text()
        assert not Path("two/member-1/training.log").exists()
    stamp = Path("two/model/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr("asr.jobs.members._train_together", None)  # what is trained needs no processes
    call(monkeypatch, *words)
    assert "they are combined already" in capsys.readouterr().err
    assert Path("two/model/model.safetensors").stat().st_mtime_ns == stamp
    call(monkeypatch, "combine", "two/member-1/model", "two/member-2/model", "-o", "other")
    assert torch.equal(load("other").log_probs([wave])[0], both.log_probs([wave])[0])
    monkeypatch.setattr("asr.jobs.members.available_cores", lambda: 1)  # from here on one after the other
    call(monkeypatch, *words, "members=3")
    assert len(load("two/model").trained_on["members"]) == 3
    call(monkeypatch, *words, "exp=on", "training.start_from=two/model", "training.learning_rate=1e-9")
    with pytest.raises(AssertionError):  # at once, not when three are trained
        call(monkeypatch, *words, "exp=more", "training.start_from=two/model", "members=4")
    assert "but no member 4" in " ".join(capsys.readouterr().err.split()) and not Path("more").exists()
    call(monkeypatch, *words, "exp=same", "training.start_from=two/member-1/model")
    same = [load(f"same/member-{k}/model").trained_on for k in (1, 2)]
    assert [facts["start_from"] for facts in same] == 2 * [members[0].trained_on]
    Path("two").rename("first")  # what is trained needs its beginning no more
    call(monkeypatch, *words, "exp=on", "training.start_from=two/model", "training.learning_rate=1e-9")
    for number in (1, 2):
        before, after = (load(f"{exp}/member-{number}/model") for exp in ("first", "on"))
        torch.testing.assert_close(before.log_probs([wave])[0], after.log_probs([wave])[0], atol=1e-4, rtol=0)
