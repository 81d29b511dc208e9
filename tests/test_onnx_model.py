"""Exported models, run by onnxruntime, against the models they were made of."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tone_model import spoken, tone_model
from tones import tones

from asr import lm, load
from asr.encoder import EncoderConfig
from asr.errors import BundleError, ConfigError
from asr.features import FeaturesConfig
from asr.jobs.export import export
from asr.onnx_model import lm_file, write
from asr.recognizer import Recognizer
from asr.streaming import OutputStream
from asr.text import Alphabet

onnx = pytest.importorskip("onnx", reason="exporting needs asr[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="exporting needs asr[export]")

CELLS = ["rnn", "gru", "lstm"]
SUBSAMPLINGS = [("stack", 3), ("conv", 4), ("conv", 3), ("stack", 1)]
WAVES = [tones("abcd dab", seed=1)[:n] for n in (4321, 1, 79, 80, 2400, 641)]


def build(
    *, normalise: str = "none", preemphasis: float = 0.0, edge_s: float = 0.0, pool_s: float = 0.0,
    trim_db: float = 0.0, layers: int = 2, **encoder: object,
) -> Recognizer:  # fmt: skip
    front = {"normalise": normalise, "preemphasis": preemphasis, "edge_s": edge_s, "pool_s": pool_s}
    front["trim_db"] = trim_db
    features = FeaturesConfig(rate_hz=8000, bands=24, **front)  # type: ignore[arg-type]
    shape = EncoderConfig(layers=layers, width=12, channels=4, **encoder)  # type: ignore[arg-type]
    model = Recognizer.build(Alphabet(list(" abcd")), features=features, encoder=shape).eval()
    if model.features.has_statistics:
        model.features.fit([(torch.from_numpy(WAVES[0])[None], torch.tensor([4321]))])
    return model


def exported(model: Recognizer, folder: Path) -> Recognizer:
    write(model, folder / "model.onnx")
    return load(folder / "model.onnx")


def check_log_probs(ours: Recognizer, theirs: Recognizer, waves: list[np.ndarray]) -> None:
    expected_BTV, lengths_B = ours.log_probs(waves)
    found_BTV, found_B = theirs.log_probs(waves)
    assert found_B.tolist() == lengths_B.tolist()
    for expected_TV, found_TV, n in zip(expected_BTV, found_BTV, lengths_B.tolist(), strict=True):
        torch.testing.assert_close(found_TV[:n], expected_TV[:n], atol=1e-4, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("subsampling", "factor"), SUBSAMPLINGS)
def test_log_probs_are_the_same_in_any_batch(cell, bidirectional, subsampling, factor, tmp_path) -> None:
    model = build(cell=cell, bidirectional=bidirectional, subsampling=subsampling, factor=factor)
    other = exported(model, tmp_path)
    for waves in (WAVES, WAVES[:1], WAVES[1:2], WAVES[::-1]):
        check_log_probs(model, other, waves)


@pytest.mark.parametrize(
    "shape",
    [
        {"normalise": "utterance", "bidirectional": False},
        {"normalise": "global", "bidirectional": True, "preemphasis": 0.9, "norm": "batch"},
        {"normalise": "global", "bidirectional": False, "preemphasis": 0.9, "norm": "layer"},
        {"bidirectional": False, "projection": 12, "residual": True, "norm": "batch"},
        {"bidirectional": True, "projection": 12, "residual": True, "norm": "layer", "layers": 3},
        {"normalise": "utterance", "bidirectional": True, "edge_s": 0.09, "pool_s": 0.5, "trim_db": 9.0},
    ],
    ids=str,
)
def test_every_part_of_a_model_is_exported(shape: dict[str, object], tmp_path: Path) -> None:
    model = build(**shape)  # type: ignore[arg-type]
    check_log_probs(model, exported(model, tmp_path), WAVES)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("subsampling", "factor"), SUBSAMPLINGS)
def test_blocks_with_their_state_give_what_the_whole_gives(cell, subsampling, factor, tmp_path) -> None:
    model = build(
        cell=cell, bidirectional=False, subsampling=subsampling, factor=factor, normalise="global",
        preemphasis=0.5,
    )  # fmt: skip
    stream, samples = OutputStream(exported(model, tmp_path)), WAVES[0]
    parts, at = [], 0
    for size in itertools.cycle([61, 0, 1700, 333]):
        parts.append(stream.feed(samples[at : at + size]))
        at += size
        if at >= len(samples):
            break
    whole_1TV, _ = model.log_probs([samples])
    torch.testing.assert_close(torch.cat([*parts, stream.finish()]), whole_1TV[0], atol=1e-4, rtol=0)


def test_another_program_streams_with_what_the_file_says(tmp_path: Path) -> None:
    """Nothing of ours but the file."""
    model, samples = build(bidirectional=False, normalise="global", factor=3), WAVES[0]
    write(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["asr"])
    w, h, f = facts["window_samples"], facts["hop_samples"], facts["frames_per_output"]
    states = {i.name: np.zeros((1, 1, i.shape[2]), np.float32) for i in session.get_inputs()[2:]}
    sound = np.concatenate([np.zeros(w // 2, np.float32), samples])
    total = -(-(1 + len(samples) // h) // f)
    filled = np.concatenate([sound, np.zeros(w + total * f * h, np.float32)])
    parts: list[np.ndarray] = []
    at = 0
    while missing := total - sum(map(len, parts)):
        n = min(2, missing)
        block = filled[at : at + w + (n * f - 1) * h]
        length = np.array([min(len(block), max(0, len(sound) - at))])
        log_probs, *after = session.run(None, {"samples": block[None], "lengths": length, **states})
        states = dict(zip(states, after, strict=True))
        parts.append(log_probs[0])
        at += n * f * h
    expected_1TV, _ = model.log_probs([samples])
    np.testing.assert_allclose(np.concatenate(parts), expected_1TV[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_an_exported_model_writes_what_the_bundle_writes(bidirectional: bool, tmp_path: Path) -> None:
    model = tone_model(bidirectional=bidirectional)
    other = exported(model, tmp_path)
    assert (other.alphabet, other.decoder, other.style) == (model.alphabet, model.decoder, model.style)
    assert (other.rate_hz, other.frame_s, other.trained_on) == (
        model.rate_hz,
        model.frame_s,
        model.trained_on,
    )
    for seed, text in enumerate(["abc dab c", "d", ""]):
        samples = spoken(text, seed=seed)
        ours, theirs = model.transcribe(samples), other.transcribe(samples)
        assert theirs.text == ours.text == text
        assert [(w.text, w.start_s, w.end_s) for w in theirs.words] == [
            (w.text, w.start_s, w.end_s) for w in ours.words
        ]
    if not bidirectional:
        *_, last = other.stream(np.array_split(spoken("abc dab c", seed=0), 13))
        assert last.transcript.text == "abc dab c"


def test_the_language_models_lie_beside(tmp_path: Path) -> None:
    model, text = build(), ["ab c", "a d", "dab a"]
    model.lm = lm.train(text, order=2)
    model.rescorer = lm.train_recurrent(text, lm.RecurrentConfig(pieces=9, width=8, epochs=1))
    model.decoder.name, model.decoder.alpha = "beam", 0.7
    other = exported(model, tmp_path)
    model.lm, model.decoder.name, model.decoder.alpha = None, "greedy", 0.5
    assert other.decoder.name == "beam" and other.decoder.alpha == 0.7
    assert other.lm is not None and other.lm.score("ab c") == pytest.approx(
        lm.train(text, order=2).score("ab c")
    )
    assert other.rescorer is not None and other.rescorer.score("ab c") == model.rescorer.score("ab c")
    lm_file(tmp_path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.lm\.safetensors.*copy both"):
        load(tmp_path / "model.onnx")


def test_an_exported_model_says_what_it_cannot_do(tmp_path: Path) -> None:
    other = exported(build(), tmp_path)
    with pytest.raises(ConfigError, match="run on the CPU"):
        other.to("meta")
    with pytest.raises(BundleError, match="cannot become a bundle"):
        other.save(tmp_path / "again")
    with pytest.raises(ConfigError, match=r"encoder\.bidirectional=true"):
        next(other.stream([]))
    assert other.to("cpu").eval() is other


def test_files_that_are_no_exported_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(BundleError, match="no model there"):
        load(file)
    write(build(), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="truncated, or no ONNX"):
        load(file)
    foreign = onnx.load_from_string(whole)
    del foreign.metadata_props[:]
    onnx.save(foreign, file)
    with pytest.raises(BundleError, match="not one of this toolkit"):
        load(file)
    for text, why in [('{"format": 99, "version": "9.0"}', "upgrade"), ("{}", "damaged"), ("?", "damaged")]:
        onnx.helper.set_model_props(foreign, {"asr": text})
        onnx.save(foreign, file)
        with pytest.raises(BundleError, match=why):
            load(file)


def test_what_does_not_compute_the_same_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = build(), tmp_path / "new" / "model.onnx"
    model.lm = lm.train(["ab c"], order=2)
    with monkeypatch.context() as patched:
        patched.setattr("asr.jobs.export.MOST_DIFFERENCE", -1.0)
        with pytest.raises(BundleError, match=r"model\.onnx: log-probabilities differ"):
            export(model, file)
        assert not list(file.parent.iterdir())
        file.write_bytes(b"before")
        with pytest.raises(BundleError, match="differ"):
            export(model, file)
    assert file.read_bytes() == b"before"
    assert export(model, file) < 1e-4
    assert sorted(file.parent.iterdir()) == [lm_file(file), file] and load(file).lm is not None


def test_the_language_model_beside_it_does_not_overwrite_the_model(tmp_path: Path) -> None:
    model = build()
    model.lm = lm.train(["ab c"], order=2)
    kept = model.save(tmp_path / "own.lm.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"own\.lm\.safetensors is the model itself"):
        export(model, tmp_path / "own.onnx", source=tmp_path / "own.lm.safetensors")
    assert (tmp_path / "own.lm.safetensors").read_bytes() == kept


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(build(bidirectional=False), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
