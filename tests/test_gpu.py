"""What runs on a GPU, on a pretended one: the numbers of the CPU, no mixed devices, no waiting."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_gpu import GpuTensor, installed
from test_lm_recurrent import SMALL, remembering
from test_run import asr, words  # noqa: F401 (fixtures)
from test_streaming import SHAPES, split
from test_streaming import build as streaming
from test_training import ENCODER, FEATURES, QUICK, corpus, trainer  # noqa: F401 (corpus is a fixture)
from test_training_samples import EVERYTHING, timeless
from tone_model import spoken, tone_model

from asr.ctc import log_denominator
from asr.encoder import EncoderConfig
from asr.errors import AudioError, ConfigError
from asr.jobs.align import align_words
from asr.lm import train_recurrent
from asr.recognizer import Recognizer, load
from asr.streaming import OutputStream
from asr.text import Alphabet

PLAIN = dataclasses.replace(QUICK, epochs=2, precision="float32", consistency=0.2, intermediate_weight=0.3)
JOINED = dataclasses.replace(PLAIN, denominator=0.9, join=3, pause_s=0.05)
DEEP = dataclasses.replace(
    ENCODER, layers=2, norm="batch", projection=16, residual=True, dropout=0.0, intermediate_layer=1
)
HOW = {"encoder": DEEP, "augmentation": EVERYTHING}


@pytest.mark.parametrize("resident", ["never", "always"])
def test_a_step_has_the_gradient_of_the_cpu_and_waits_for_nothing(corpus, tmp_path, monkeypatch, resident):  # noqa: F811
    train, found = corpus(), {}
    for device in ("cpu", "cuda"):
        with installed(monkeypatch) as waits:
            config = dataclasses.replace(JOINED, device=device)
            run = trainer(train, tmp_path / device, config=config, resident=resident, **HOW)
            batch = next(run.feed.batches(1, run.feed.plan(1)))
            run.recognizer.encoder.train()
            waits.clear()
            run.updater.begin(0.1)
            sums = torch.zeros(5, dtype=torch.float64, device=device)
            sums[:4] += run.loss.add_gradient(batch, seed=1)
            gradients = {n: p.grad.clone() for n, p in run.recognizer.encoder.named_parameters()}
            norm = run.updater.finish(sums, by_layer=True)
            assert waits == []
            assert (
                isinstance(norm, GpuTensor)
                == isinstance(gradients["output.bias"], GpuTensor)
                == (device == "cuda")
            )
            assert norm.item() > 0 and len(waits) == (device == "cuda")
            found[device] = sums.cpu(), {n: gradient.cpu() for n, gradient in gradients.items()}
    (truth, gradients), (sums, ours) = found["cpu"], found["cuda"]
    torch.testing.assert_close(sums, truth, rtol=1e-6, atol=0)  # sums of float32
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        close = {"rtol": 1e-3, "atol": 1e-5 * largest}
        torch.testing.assert_close(ours[name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")


def test_an_interrupted_training_ends_with_the_same_bits(corpus, tmp_path, monkeypatch):  # noqa: F811
    def stop(kind: str, facts: dict[str, object]) -> None:
        if kind == "epoch":
            raise KeyboardInterrupt

    train, config = corpus(6), dataclasses.replace(PLAIN, device="auto", average=2)
    with installed(monkeypatch):
        whole = trainer(train, tmp_path / "whole", config=config, **HOW)
        assert whole.device == torch.device("cuda:0")
        whole.run()
        for _ in range(config.epochs):
            with pytest.raises(KeyboardInterrupt):
                trainer(train, tmp_path / "parts", config=config, observer=stop, **HOW).run()
        trainer(train, tmp_path / "parts", config=config, **HOW).run()
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    one, other = (load(tmp_path / name / "model").encoder.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_denominator_takes_few_operations_a_frame(monkeypatch):
    """Each costs a GPU some microseconds, more than the arithmetic in it."""
    counts = []
    for frames in (20, 70):
        log_probs = torch.randn(3, frames, 7).log_softmax(2)
        lengths, table = torch.tensor([frames, 9, 14]), torch.full((7, 7, 7), 1 / 7)
        with installed(monkeypatch):
            ours = log_probs.to("cuda").requires_grad_()
            before = GpuTensor.operations
            value = log_denominator(ours, lengths, table.to("cuda"))
            (gradient,) = torch.autograd.grad(value.sum(), ours)
            counts.append(GpuTensor.operations - before)
            found = value.detach().cpu(), gradient.cpu()
        log_probs.requires_grad_()
        truth = log_denominator(log_probs, lengths, table)
        torch.testing.assert_close(found, (truth.detach(), torch.autograd.grad(truth.sum(), log_probs)[0]))
    assert (counts[1] - counts[0]) / 50 <= 15


CELLS = [
    EncoderConfig(layers=2, width=12, cell="lstm", norm="layer"),
    EncoderConfig(layers=2, width=12, cell="gru", norm="batch", subsampling="conv", channels=4),
    EncoderConfig(layers=2, width=12, cell="rnn", bidirectional=False),
]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("encoder", CELLS, ids=lambda e: e.cell)
def test_outputs_are_those_of_the_cpu(monkeypatch, tmp_path, encoder, precision):
    features = {"features": FEATURES, "encoder": encoder}
    Recognizer.build(Alphabet(list(" abcd")), **features, seed=3).save(tmp_path / "model")
    sounds = [spoken(text, seed=1) for text in ("ab", "cad bad", "d")]
    truth, frames = load(tmp_path / "model").log_probs(sounds)
    with installed(monkeypatch):
        model = load(tmp_path / "model", device="cuda", precision=precision)
        log_probs, lengths = model.log_probs(sounds)
        assert type(log_probs) is torch.Tensor and torch.equal(lengths, frames)
    for one, other, n in zip(log_probs, truth, frames, strict=True):
        torch.testing.assert_close(one[:n], other[:n], atol=1e-4, rtol=0)


def test_transcripts_of_files_and_streams_are_those_of_the_cpu(monkeypatch, tmp_path):
    sound = spoken("cad bad ab", seed=4)
    tone_model(bidirectional=False).save(tmp_path / "model")
    truth = load(tmp_path / "model").transcribe(sound)
    there = align_words(load(tmp_path / "model"), sound, "cad bad ab")
    with installed(monkeypatch):
        model = load(tmp_path / "model", device="cuda")
        found = model.transcribe(sound)
        stream = model.open_stream()
        for block in split(sound, 700, 0, 1):
            stream.feed(block)
        assert stream.finish().stable == found.text == truth.text
        assert [w.start_s for w in found.words] == [w.start_s for w in truth.words] != []
        assert align_words(model, sound, "cad bad ab") == there
        with pytest.raises(AudioError, match="a recording without samples"):
            model.log_probs([sound, sound[:0]])
        with pytest.raises(ConfigError, match="precision=int8 runs on the CPU, and the model is on cuda"):
            load(tmp_path / "model", device="cuda", precision="int8")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))
def test_the_outputs_of_a_stream_are_those_of_the_cpu(monkeypatch, shape):
    sound = spoken("abcd dab", seed=1)
    truth = in_blocks(streaming(**shape), sound)
    with installed(monkeypatch):
        torch.testing.assert_close(in_blocks(streaming(**shape).to("cuda"), sound), truth, atol=1e-4, rtol=0)


def in_blocks(model: Recognizer, sound: np.ndarray) -> torch.Tensor:
    stream = OutputStream(model)
    return torch.cat([*map(stream.feed, split(sound, 333, 1)), stream.finish()])


def test_a_language_model_learns_and_scores_as_on_the_cpu(monkeypatch):
    texts, config, found = remembering(80, seed=2), dataclasses.replace(SMALL, dropout=0.0), {}
    for device in ("cpu", "cuda"):
        with installed(monkeypatch):
            model = train_recurrent(texts, config, device=device)
            assert not any(isinstance(p, GpuTensor) for p in model.parameters())
            found[device] = model.log_probs(texts[:9]), model.to(device).log_probs(texts[:9])
    for scores in found["cuda"]:
        np.testing.assert_allclose(scores, found["cpu"][0], rtol=1e-3)


def test_the_commands_work_there(asr, words, monkeypatch):  # noqa: F811 (fixtures)
    """Two members, with an LSTM (they learn too little for it to be used); then `--device cuda`."""
    words[words.index("training.device=cpu")] = "training.device=auto"
    Path("text.txt").write_text("bad cab\nadd a cab\n" * 20)
    with installed(monkeypatch):
        more = ["members=2", "encoder.dropout=0", "training.denominator=0.5"]
        text = ["lm.order=2", "lm.text=[text.txt]", "decoder.rescore=2", "lm.recurrent.epochs=1"]
        status, said = asr("run", *words, *more, *text)
        assert status == 0, said
        assert "on cuda" in said
        recording = str(next(Path().rglob("*.wav")))
        for command in ("evaluate", "transcribe"):
            file = recording if command == "transcribe" else "test.jsonl"
            status, said = asr(command, file, "--model", "exp/model", "--device", "cuda")
            assert status == 0, said
