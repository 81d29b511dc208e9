"""Training of what a recipe asks for: one model, or several from different seeds that are heard as one.

On a CPU as many of them as there are cores are trained side by side, each with its share of the cores: small
networks gain less from a second core than a second network does.
"""

import dataclasses
import multiprocessing
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from asr.corpus.decode import available_cores, start_worker
from asr.errors import ConfigError, TrainingError
from asr.jobs.combine import combine
from asr.jobs.console import console, say
from asr.jobs.evaluate import evaluate
from asr.jobs.prepare import Prepared
from asr.jobs.recipe import Recipe
from asr.jobs.train import TUNED, development_split, train, write_recipe
from asr.recognizer import FILE, Recognizer, load
from asr.training.distributed import Ranks
from asr.training.history import FILE as HISTORY
from asr.training.interruption import on_signal
from asr.training.optim import choose_device

LOG = "training.log"
"""In the folder of a member: its messages, if another one has the terminal."""
SEED_STEP = 1000
"""From the seed of a member to that of the next."""


def train_all(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the bundle; what was interrupted goes on, what is finished returns at once.

    Every member has a folder of its own; history and curves of all together are those of the first.

    Raises:
        ConfigError: settings that contradict each other.
        CorpusError, TrainingError: see `train`; or a process that trained died.
    """
    if recipe.members < 1:
        raise ConfigError(f"members={recipe.members}: expected 1 or more")
    if recipe.members == 1:
        return train(recipe, prepared)
    bundle = Path(recipe.exp) / "model"
    members = [_member(recipe, k) for k in range(recipe.members)]
    bundles = _train_each(members, prepared)
    if not Ranks().is_first:
        return bundle
    combined = combine([load(path) for path in bundles])
    if _is_there(combined, bundle):
        say(f"they are combined already: {bundle}")
        return bundle
    (bundle.parent / TUNED).unlink(missing_ok=True)
    utterances = prepared.open(development_split(prepared)).utterances
    wer = evaluate(combined, utterances, decoder="greedy").score.wer
    combined.trained_on |= {"dev_wer": wer, "weights": f"{recipe.members} models"}
    for name in (HISTORY, "curves.png"):
        shutil.copy(bundles[0].parent / name, bundle.parent / name)
    write_recipe(recipe)
    combined.save(bundle)
    say(f"development WER of all together {wer:.2%}; bundle in {bundle}")
    return bundle


def _member(recipe: Recipe, k: int) -> Recipe:
    folder, seed = Path(recipe.exp) / f"member-{k + 1}", recipe.seed + SEED_STEP * k
    return dataclasses.replace(recipe, members=1, seed=seed, exp=str(folder))


def _is_there(combined: Recognizer, bundle: Path) -> bool:
    """Whether the bundle has these very weights; its decoder may have been tuned since."""
    if not (bundle / FILE).is_file():
        return False
    ours, theirs = combined.encoder.state_dict(), load(bundle).encoder.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _train_each(members: Sequence[Recipe], prepared: Prepared) -> list[Path]:
    """Their bundles."""
    is_shared = Ranks().size > 1 or choose_device(members[0].training.device).type != "cpu"
    at_once = 1 if is_shared else min(len(members), available_cores())
    bundles = []
    for first in range(0, len(members), at_once):
        now = members[first : first + at_once]
        names = ", ".join(str(first + i + 1) for i in range(len(now)))
        say(f"member {names} of {len(members)}" + (f"; messages of others in {LOG}" if len(now) > 1 else ""))
        bundles += _train_together(now, prepared) if len(now) > 1 else [train(now[0], prepared)]
    return bundles


def _train_together(members: Sequence[Recipe], prepared: Prepared) -> list[Path]:
    """The bundles of members that are trained at the same time; the first one shows how far it is."""
    spawn, threads = multiprocessing.get_context("spawn"), max(1, available_cores() // len(members))
    pool = ProcessPoolExecutor(len(members), spawn, initializer=_start_worker, initargs=(threads,))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        for process in multiprocessing.active_children():
            process.terminate()  # which asks for an end at the next step, as Ctrl-C at a terminal has already

    try:
        with on_signal(stop):
            futures = [pool.submit(_train_in_worker, one, prepared, i == 0) for i, one in enumerate(members)]
            bundles = [future.result() for future in futures]
    except BrokenProcessPool as error:
        if stopped:  # before there was anything to save
            raise KeyboardInterrupt from error
        raise TrainingError(
            f"a process that trained a member died ({error}); out of memory, perhaps. Run again, it goes on "
            "where it stopped; with one core (`taskset -c 0`) the members are trained one after the other"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    for bundle in bundles[1:]:
        facts = load(bundle).trained_on
        say(f"development WER {facts['dev_wer']:.2%} ({facts['weights']}); bundle in {bundle}")
    return bundles


def _start_worker(threads: int) -> None:
    start_worker()
    torch.set_num_threads(threads)


def _train_in_worker(recipe: Recipe, prepared: Prepared, is_first: bool) -> Path:
    """The bundle; what others than the first have to say goes to a file, for one terminal shows one bar."""
    if is_first:
        return train(recipe, prepared)
    log = Path(recipe.exp) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as console.file:
        return train(recipe, prepared)
