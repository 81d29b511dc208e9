"""The commands that take a recipe, as a single run or as a Hydra sweep."""

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError, ConfigError
from asr.files import expanded, locked
from asr.jobs import recipe as recipes
from asr.jobs.console import say, warn
from asr.text import normalise

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

FAILED = "failed.txt"
"""File in the folder of a sweep's job with the error that ended it."""


def single(stage: str, words: Sequence[str]) -> None:
    """Run one stage of the recipe that the words of the command line describe."""
    if launching := [w for w in words if re.match(r"\+*hydra[/.](launcher|sweeper)\b", w)]:
        raise ConfigError(f"{launching[0]}: launchers and sweepers are for sweeps; add -m")
    if (corpus := _do(stage, recipes.compose(words), words)) is not None:
        print(corpus)


def _do(stage: str, recipe: recipes.Recipe, overrides: Sequence[str]) -> Path | None:
    """Run the stage, alone in the folder of the experiment; returns the packed corpus, if it makes no more.

    Of the overrides only the keys count: they say what was asked for.

    Raises:
        ConfigError: another process works there.
    """
    from asr.jobs.inheritance import inherited
    from asr.jobs.prepare import prepare

    recipe = inherited(recipe, overrides)
    if stage == "prepare":
        return prepare(recipe).folder
    with nullcontext() if int(os.environ.get("RANK", 0)) else _alone(Path(recipe.exp)):
        if stage == "train":
            from asr.jobs.members import check_training, train_all

            check_training(recipe)
            train_all(recipe, prepare(recipe))
        else:
            from asr.jobs.run import run

            run(recipe)
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder; if nothing is written to it, it is not made."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = folder / ".lock"
    busy = f"another process works in {folder}: wait for it, or give this run its own, exp=FOLDER"
    with locked(lock, busy=busy):
        try:
            yield
        finally:
            with suppress(OSError):  # of a folder that is not empty, which ends this
                lock.unlink()
                for place in missing:
                    place.rmdir()


def _attempt(stage: str, config: Any) -> float:
    """Run a job of a sweep, perhaps in another process or on another machine; returns its objective.

    A job that fails with an `AsrError` or because of a file does not stop the others; it is listed at the
    end. As it may run elsewhere, it leaves the error in its folder.
    """
    from hydra.core.hydra_config import HydraConfig

    folder = Path(config.exp)
    say(f"\n{folder}")
    try:
        _do(stage, recipes.from_hydra(config), HydraConfig.get().overrides.task)
    except (AsrError, OSError) as error:
        warn(f"{folder} failed: {error}")
        with suppress(OSError):  # the disk may be full
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILED).write_text(f"{error}\n", encoding="utf-8")
        return math.inf
    (folder / FAILED).unlink(missing_ok=True)
    return 0.0 if stage == "prepare" else _development_wer(folder, stage)


def _development_wer(folder: Path, stage: str) -> float:
    """The objective that a searching sweeper minimises; the WER of the best path if there is no other yet."""
    from asr.recognizer import load

    if stage == "run":
        from asr.jobs.run import RESULTS

        splits = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["splits"]
        return float(splits["dev" if "dev" in splits else "test"]["wer"])
    return float(load(folder / "model").trained_on["dev_wer"])


def sweep(stage: str, words: Sequence[str]) -> None:
    """Hydra's multirun over comma-separated values; each job has its own folder below the experiment's.

    That is `exp=…`, or `exp/` and the name of the recipe. Of a key that is given twice the last value counts.

    Raises:
        ConfigError: wrong overrides.
        AsrError: jobs failed; raised after all of them have been run.
    """
    import hydra

    given = recipes.hydra_overrides(words)
    overrides = list({o.partition("=")[0]: o for o in given}.values())  # of a key given twice the last counts
    parsed = _parsed(overrides)
    for choice in _each_choice(parsed):
        if any(o.startswith("recipes=") for o in choice):
            recipes.composed(choice)  # or an error that names the nearest key
    slurm = [o for o in overrides if re.fullmatch(r"\+*hydra/launcher=\w*slurm", o)]
    if slurm and shutil.which("srun") is None:
        raise ConfigError(f"{slurm[0]}: there is no Slurm on this machine (srun is missing)")
    folder = Path(_folder(overrides))
    # a job for each value of `key=a,b`, `key=[a],[b]`, `key=range(…)`, not of `key=[a,b]`
    constant = [o.key_or_group for o in parsed if not o.is_sweep_override()]
    overrides += [
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        f"hydra.sweep.dir={json.dumps(str(folder), ensure_ascii=False)}",
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
        f"hydra.job.config.override_dirname.exclude_keys={json.dumps([*constant, 'exp'])}",
        "exp=${hydra:sweep.dir}/${hydra:sweep.subdir}",
    ]
    recipes.register()
    for old in _failures(folder):
        (old / FAILED).unlink()
    arguments = sys.argv
    sys.argv = [arguments[0], "--multirun", *overrides]
    try:
        conf = str(recipes.home() / "conf")
        main = hydra.main(config_path=conf, config_name="config", version_base="1.3")
        main(lambda config: _attempt(stage, config))()
    except SystemExit as error:
        if error.code:
            raise ConfigError("the sweep stopped, see above") from error
    finally:
        sys.argv = arguments
    if stage != "prepare":
        (_rank if stage == "run" else _list_trained)(folder)
    if failed := _failures(folder):
        reasons = [f"{job}: {(job / FAILED).read_text(encoding='utf-8').strip()}" for job in failed]
        raise AsrError("\n".join([f"{len(failed)} of the jobs failed", *reasons]))


def _failures(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs that failed; a value with slashes makes nested ones, a lone job none."""
    return sorted(file.parent for pattern in (FAILED, f"*=*/**/{FAILED}") for file in folder.glob(pattern))


def _folder(overrides: Sequence[str]) -> str:
    """The parent of the folders of a sweep's jobs."""
    given = {key: value.strip("'\"") for key, _, value in (o.partition("=") for o in overrides)}
    name = given.get("name") or given["recipes"].removesuffix("/default")
    return expanded(given.get("exp") or f"exp/{name}")


def _parsed(overrides: list[str]) -> "list[Override]":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(recipes.explain(error)) from error


def _each_choice(parsed: "list[Override]") -> Iterator[list[str]]:
    """The overrides of jobs in which each value that a sweep lists occurs, others with their first values."""
    listed = [values for o in parsed if (values := _values(o))]
    first = [values[0] for values in listed]
    yield first
    for k, values in enumerate(listed):
        yield from ([*first[:k], value, *first[k + 1 :]] for value in values[1:])


def _values(override: "Override") -> list[str]:
    """The override with each value that it lists, or with the first of a range; none if it lists none."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not isinstance(override.value(), ChoiceSweep | RangeSweep):
        return []
    values = override.sweep_string_iterator()
    if isinstance(override.value(), RangeSweep):
        values = islice(values, 1)
    return [f"{override.get_key_element()}={value}" for value in values]


def _rank(folder: Path) -> None:
    """Print the runs of a sweep from best to worst, with the significance of their differences.

    Earlier runs in the folder count if they were measured on the same utterances as the newest.
    """
    from asr.jobs.console import output
    from asr.recognizer import load
    from asr.scoring import rank, score_spoken
    from asr.scoring.tables import print_table, ranking_table

    files = sorted(folder.glob("*=*/**/dev.hypotheses.jsonl"))  # a value with slashes makes nested folders
    if not files:
        return
    runs = {file: _read_columns(file) for file in files}
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    wanted, model = runs[newest], load(newest.parent / "model")
    scores = {
        file.parent.relative_to(folder).as_posix(): score_spoken(
            [normalise(text, model.style) for text in texts], hypotheses, alphabet=model.alphabet, ids=ids
        )
        for file, (ids, texts, hypotheses) in runs.items()
        if (ids, texts) == wanted[:2]
    }
    if left_out := len(runs) - len(scores):
        warn(f"{left_out} of {len(runs)} runs in {folder} are not ranked: measured on other utterances")
    if len(scores) > 1:
        print_table(ranking_table(rank(scores)), output)


def _list_trained(folder: Path) -> None:
    """Print the runs of a sweep that were only trained by the WER of their best paths, the lowest first."""
    runs = [file.parent for file in folder.glob("*=*/**/model") if not file.parent.name.startswith("member-")]
    if len(runs) > 1:
        say("development WER, greedily:")
    for wer, name in sorted((_development_wer(run, "train"), str(run.relative_to(folder))) for run in runs):
        say(f"{wer:8.2%}  {name}")


def _read_columns(file: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, references and hypotheses of a file of hypotheses."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    ids, texts, hypotheses = ([line[key] for line in lines] for key in ("id", "text", "pred_text"))
    return ids, texts, hypotheses
