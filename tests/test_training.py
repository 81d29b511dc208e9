"""The loop: it learns, it continues to the same bits, it says what it leaves out."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.augmentation import AugmentationConfig
from asr.corpus.manifest import read_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.encoder import EncoderConfig
from asr.errors import ConfigError, CorpusError, TrainingError
from asr.features import FeaturesConfig
from asr.machine.devices import autocast_dtype, choose_device
from asr.recognizer import Recognizer, load
from asr.text import Alphabet
from asr.training import Trainer, TrainingConfig, checkpoint, history
from asr.training.loader import collate, prefetch
from asr.training.optim import learning_rate
from asr.training.validation import Split

FEATURES = FeaturesConfig(rate_hz=8000, bands=24)
ENCODER = EncoderConfig(layers=1, width=32, factor=2, dropout=0.1)
QUIET = AugmentationConfig(speed=(), pad_s=0, noise=0, silence=0, warp=0, time_masks=0, frequency_masks=0)
QUICK = TrainingConfig(
    epochs=3, seconds_per_batch=8, learning_rate=5e-3, device="cpu", checkpoint_every_s=0.0
)


@pytest.fixture
def corpus(tone_manifest, tmp_path):
    def make(count: int = 24, *, seed: int = 0) -> PackedCorpus:
        manifest = tone_manifest(f"corpus{seed}", count, seed=seed)
        stem = tmp_path / f"packed{seed}"
        pack(read_manifest(manifest), stem, rate_hz=8000, workers=1)
        return PackedCorpus(stem)

    return make


def trainer(
    train: PackedCorpus,
    folder: Path,
    *,
    config: TrainingConfig = QUICK,
    encoder: EncoderConfig = ENCODER,
    augmentation: AugmentationConfig | None = None,
    **rest: object,
) -> Trainer:
    recognizer = Recognizer.build(Alphabet(list(" abcd")), features=FEATURES, encoder=encoder, seed=7)
    return Trainer(
        recognizer,
        train,
        train,
        config=config,
        augmentation=augmentation or AugmentationConfig(),
        seed=7,
        folder=folder,
        **rest,
    )


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_four_utterances_are_learnt_without_an_error(corpus, tmp_path):
    four = corpus(4)
    config = dataclasses.replace(QUICK, epochs=60, seconds_per_batch=1.5, learning_rate=1e-2, warmup_epochs=2)
    trainer(four, tmp_path / "exp", config=config, augmentation=QUIET).run()
    model = load(tmp_path / "exp" / "model")
    found = [model.transcribe(four.samples(i).astype(np.float32) / 32768).text for i in range(4)]
    assert found == [u.text for u in four.utterances]
    assert model.trained_on["dev_wer"] == 0


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", [1, 3, 5, 7])
def test_an_interrupted_run_ends_with_the_same_bits(corpus, tmp_path, moment):
    train = corpus()
    trainer(train, tmp_path / "whole").run()

    seen = 0

    def die(kind: str, facts: dict[str, object]) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(train, tmp_path / "parts", observer=die).run()
    trainer(train, tmp_path / "parts").run()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    timeless = ("seconds", "audio_s_per_s", "waited")
    records = [
        [
            {k: v for k, v in line.items() if k not in timeless}
            for line in history.read(tmp_path / name / history.FILE)
        ]
        for name in ("whole", "parts")
    ]
    assert records[0] == records[1]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_bundle_says_what_it_was_trained_further_from_even_after_an_interruption(share, corpus, tmp_path):
    train, base = corpus(), Recognizer.build(Alphabet(list(" abcd")), features=FEATURES, encoder=ENCODER)
    base.trained_on = {"recipe": "other", "seed": 3}
    further = dataclasses.replace(QUICK, start_from=str(base.save(tmp_path / "base")), start_share=share)

    def die(kind: str, facts: dict[str, object]) -> None:
        if (tmp_path / "parts" / "checkpoints" / "last.pt").is_file():
            raise KilledError

    whole = trainer(train, tmp_path / "whole", config=further)
    whole.run()
    made = load(tmp_path / "whole" / "model")
    assert made.trained_on["start_from"] == base.trained_on
    assert ("50% of the way back" in made.trained_on["weights"]) == (share > 0)
    [(_, best)], begun = whole.best.read(), base.encoder.state_dict()
    for name, found in made.encoder.state_dict().items():
        torch.testing.assert_close(found, (1 - share) * best[name] + share * begun[name], rtol=0, atol=1e-6)
    with pytest.raises(KilledError):
        trainer(train, tmp_path / "parts", config=further, observer=die).run()
    (tmp_path / "base").rename(tmp_path / "away")  # what was begun needs its beginning no more
    trainer(train, tmp_path / "parts", config=further).run()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_training_that_starts_from_its_own_bundle_goes_back_to_what_that_was(corpus, tmp_path):
    base = Recognizer.build(Alphabet(list(" abcd")), features=FEATURES, encoder=ENCODER)
    own = base.save(tmp_path / "own" / "model")
    further = dataclasses.replace(QUICK, start_from=str(own), start_share=1.0)
    trainer(corpus(), tmp_path / "own", config=further).run()
    found, begun = load(own).encoder.state_dict(), base.encoder.state_dict()
    assert all(torch.equal(found[name], begun[name]) for name in begun)


def test_a_signal_after_the_last_step_stops_too_once_the_bundle_is_written(corpus, tmp_path):
    train = corpus(4)

    def stop(kind: str, facts: dict[str, object]) -> None:
        if kind == "epoch" and facts["epoch"] == facts["epochs"]:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        trainer(train, tmp_path, observer=stop).run()
    assert weights(tmp_path) and trainer(train, tmp_path).run().finished


SCRIPT = """
import sys, pathlib
sys.path.insert(0, sys.argv[3])
from test_training import trainer
from asr.corpus.packed import PackedCorpus
trainer(PackedCorpus(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2])).run()
"""


def test_sigkill_while_checkpoints_are_written_loses_nothing(corpus, tmp_path):
    train = corpus()
    trainer(train, tmp_path / "whole").run()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "packed0"), str(tmp_path / "parts")]
    command.append(str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    last = checkpoint.last(tmp_path / "parts")
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()
    trainer(train, tmp_path / "parts").run()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_finished_run_returns_at_once(corpus, tmp_path):
    train = corpus()
    trainer(train, tmp_path / "exp").run()
    again = trainer(train, tmp_path / "exp", observer=lambda kind, facts: pytest.fail("it trained again"))
    assert again.run().finished
    assert "samples" not in vars(again.feed)  # nor was the corpus opened


def test_other_processes_begin_the_epoch_anew(caplog):
    begun = dataclasses.asdict(
        checkpoint.Progress(epoch=2, step=6, updates=30, loss_sum=4.0, labels=9, ranks=1)
    )
    assert checkpoint.Progress.resumed(begun, 1).step == 6 and not caplog.text
    anew = checkpoint.Progress.resumed(begun, 4)
    assert (anew.epoch, anew.step, anew.updates, anew.loss_sum, anew.labels) == (2, 0, 30, 0.0, 0)
    assert anew.ranks == 4 and "epoch 3 begins anew" in caplog.text
    assert checkpoint.Progress.resumed(begun | {"ranks": 0}, 4).step == 6  # an older version's


def test_other_settings_do_not_continue_a_run(corpus, tmp_path):
    train = corpus()
    trainer(train, tmp_path / "exp", identity={"layers": 1}).run()
    with pytest.raises(TrainingError, match=r"begun with other settings \(layers was 1, is 2\); give"):
        trainer(train, tmp_path / "exp", identity={"layers": 2})
    with pytest.raises(TrainingError, match=r"layers was 1, is absent\)"):
        trainer(train, tmp_path / "exp", defaults={"layers": 1})
    with pytest.raises(TrainingError, match="begun with other data; give"):
        trainer(corpus(seed=1), tmp_path / "exp", identity={"layers": 1})


def test_a_setting_that_was_added_since_counts_as_its_default(corpus, tmp_path):
    train = corpus()
    trainer(train, tmp_path / "exp", identity={"encoder": {"layers": 1}}).run()
    defaults = {"encoder": {"layers": 3, "new": 0}}
    now = {"identity": {"encoder": {"layers": 1, "new": 0}}, "defaults": defaults}
    assert trainer(train, tmp_path / "exp", **now).run().finished
    for identity in ({"layers": 1, "new": 1}, {"layers": 3, "new": 0}):  # the latter is the default by now
        with pytest.raises(TrainingError, match="other settings"):
            trainer(train, tmp_path / "exp", identity={"encoder": identity}, defaults=defaults)


def test_accumulated_batches_make_one_update(corpus, tmp_path):
    train = corpus()
    single = trainer(train, tmp_path / "a", config=dataclasses.replace(QUICK, epochs=1))
    double = trainer(train, tmp_path / "b", config=dataclasses.replace(QUICK, epochs=1, accumulate=2))
    assert double.run().updates == math.ceil(single.run().updates / 2)


def test_utterances_that_cannot_be_learnt_from_are_listed(corpus, tmp_path):
    train = corpus()
    coarse = trainer(train, tmp_path / "exp", encoder=dataclasses.replace(ENCODER, factor=200))
    long = [u.id for u in train.utterances if len(u.text) > 1]
    assert coarse.train.left_out["infeasible"] == long  # one output cannot spell two letters
    with pytest.raises(
        CorpusError, match=r"packed0: none of 24 utterances .* \(24 too short\); check .* data\.min_s"
    ):
        trainer(train, tmp_path / "exp", min_s=100)
    others = Recognizer.build(Alphabet(list("xy")), features=FEATURES, encoder=ENCODER)
    with pytest.raises(
        CorpusError, match=r"\(24 cannot be spelled\); no transcript .* has ' ', 'a', 'b', 'c', 'd'"
    ):
        Split(train, others, min_s=0.1, max_s=30.0)
    durations = np.asarray(train.lengths_samples) / 8000
    limit = float(np.median(durations))
    some = trainer(train, tmp_path / "exp", max_s=limit)
    assert len(some.train.left_out["too long"]) == int((durations > limit).sum())
    assert len(some.train.kept) + len(some.train.left_out["too long"]) == 24


def test_odd_recordings_are_counted_and_do_no_harm(tone_manifest, tmp_path):
    utterances = read_manifest(tone_manifest("c", 8))
    odd = {"nothing": 0, "a sample": 1, "an hour": 3600 * 8000}
    for name, samples in odd.items():
        file = tmp_path / f"{name}.flac"
        soundfile.write(file, np.zeros(samples, np.int16), 8000)
        utterances.append(dataclasses.replace(utterances[0], id=name, audio_filepath=file))
    utterances += [utterances[1], dataclasses.replace(utterances[2], id="no text", text=" ")]
    utterances += [dataclasses.replace(utterances[3], id="no words", text="…?!")]
    report = pack(utterances, tmp_path / "odd", rate_hz=8000, workers=1)
    assert report.counts == {"unreadable": 1, "duplicate id": 1, "empty transcript": 1}
    config = dataclasses.replace(QUICK, epochs=1)
    run = trainer(PackedCorpus(tmp_path / "odd"), tmp_path / "exp", config=config, min_s=0.1, max_s=30.0)
    assert {k: v for k, v in run.train.left_out.items() if v} == {
        "nothing said": ["no words"],
        "too short": ["a sample"],
        "too long": ["an hour"],
    }
    measured = {run.dev.corpus.utterances[i].id for i in run.dev.measured}
    assert {u.id for u in run.dev.corpus.utterances} - measured == {"an hour"}
    assert run.run().finished  # the development set is the same and leaves out what takes too much memory
    lines = history.read(tmp_path / "exp" / history.FILE)
    assert math.isfinite(lines[-1]["dev_loss"])


def test_non_finite_steps_are_skipped_counted_and_then_given_up(corpus, tmp_path):
    train = corpus()
    told = []
    sick = trainer(
        train,
        tmp_path / "exp",
        config=dataclasses.replace(QUICK, give_up_after=2),
        observer=lambda kind, facts: told.append(kind),
    )
    with torch.no_grad():
        next(sick.recognizer.encoder.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="2 updates in a row"):
        sick.run()
    assert told.count("skipped") == 2


def test_joined_utterances_are_of_one_speaker_and_spell_both_texts(corpus, tmp_path):
    train = corpus()
    joined = trainer(train, tmp_path / "exp", config=dataclasses.replace(QUICK, join=3))
    items = [item for batch in joined.feed.plan(1) for item in batch]
    assert sorted(i for item in items for i in item) == list(range(24))
    assert max(map(len, items)) > 1
    for item in items:
        assert len({train.utterances[i].speaker for i in item}) == 1
    pair = next(item for item in items if len(item) > 1)
    batch = collate(train, joined.train.targets, [pair], space=1)
    spelled = joined.recognizer.alphabet.decode(batch.targets_BS[0].tolist())
    assert spelled == " ".join(train.utterances[i].text for i in pair)
    assert batch.lengths_B[0] == sum(train.lengths_samples[i] for i in pair)


def test_where_the_speech_is_taken_away_nothing_is_to_be_written(corpus, tmp_path):
    made = trainer(corpus(), tmp_path, augmentation=AugmentationConfig(silence=0.5))
    [*batches] = made.feed.batches(0, made.feed.plan(0))
    lengths_B = torch.cat([batch.target_lengths_B for batch in batches])
    silent_B = torch.cat([batch.draws.silent_B for batch in batches])
    assert silent_B.any() and not silent_B.all()
    assert torch.equal(lengths_B == 0, silent_B)


def test_the_history_survives_a_line_cut_in_the_middle(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('{"kind": "step", "updates": 1}\n{"kind": "st')
    assert history.read(file) == [{"kind": "step", "updates": 1}]
    file.write_text('{"kind": "st\n{"kind": "step", "updates": 1}\n')
    with pytest.raises(TrainingError, match="line 1"):
        history.read(file)


def test_curves_are_drawn(corpus, tmp_path):
    trainer(corpus(), tmp_path / "exp", config=dataclasses.replace(QUICK, log_every=1)).run()
    picture = history.plot(history.read(tmp_path / "exp" / history.FILE), tmp_path / "curves.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_mean_of_weights_is_exact():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(5)},
    ]
    mean = checkpoint.average(states)
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["n"] == 3


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path):
    file = tmp_path / "last.pt"
    file.write_bytes(b"PK not a checkpoint")
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        checkpoint.read(file)
    assert checkpoint.read(tmp_path / "none.pt") is None


def test_an_error_in_the_prefetch_thread_reaches_the_loop():
    def make(n: int) -> int:
        if n == 2:
            raise ValueError("broken")
        return n

    got = []
    with pytest.raises(ValueError, match="broken"):
        for item in prefetch(make, [0, 1, 2, 3]):  # type: ignore[arg-type]
            got.append(item)
    assert got == [0, 1]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "exponential"])
def test_every_schedule_warms_up_and_ends_low(schedule):
    config = TrainingConfig(
        epochs=20, schedule=schedule, learning_rate=1.0, warmup_epochs=2, final_share=0.05
    )
    rates = [learning_rate(config, p) for p in np.linspace(0.01, 20, 200)]
    assert max(rates) == pytest.approx(1, abs=0.02)
    assert np.all(np.diff(rates[:20]) >= 0)
    assert np.all(np.diff(rates[21:]) <= 1e-12)
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05)


def test_the_wanted_precision_is_kept():
    cpu = choose_device("cpu")
    assert autocast_dtype("float32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16


def test_bf16_trains(corpus, tmp_path):
    run = trainer(corpus(), tmp_path / "exp", config=dataclasses.replace(QUICK, precision="bf16"))
    run.run()
    lines = [h for h in history.read(tmp_path / "exp" / history.FILE) if h["kind"] == "epoch"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert json.loads(json.dumps(lines))  # every value is plain


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"log_every": 0}, {"accumulate": 0}, {"beta2": 2.0}, {"learning_rate": -1.0}, {"join": 0},
     {"give_up_after": 0}, {"seconds_per_batch": 0.0}, {"final_share": 1.5}, {"pause_s": -0.1},
     {"schedule": "cosin"}, {"precision": "fp16"}],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"training.{name}={value!r}: expected"):
        TrainingConfig(**wrong)
