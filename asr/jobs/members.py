"""Training of what a recipe asks for: one model, or an ensemble of several from different seeds.

On a CPU as many members as there are cores are trained in parallel, each with its share of the cores: a
second core speeds up a small network less than it speeds up training two.
"""

import dataclasses
import multiprocessing
import shutil
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

import torch

from asr.bundle import FILE
from asr.corpus.decode import available_cores, start_worker
from asr.errors import AsrError, ConfigError, TrainingError
from asr.jobs.combine import combine
from asr.jobs.console import console, say
from asr.jobs.evaluate import evaluate
from asr.jobs.prepare import Prepared, development_split
from asr.jobs.recipe import Recipe
from asr.jobs.train import CURVES, TUNED, train, write_recipe
from asr.machine.devices import choose_device
from asr.recognizer import Recognizer, load
from asr.training import checkpoint
from asr.training.distributed import Ranks
from asr.training.finetuning import member_of
from asr.training.history import FILE as HISTORY
from asr.training.interruption import on_signal, signals_wait

MEMBER = "member-{}"
"""Folder of a member in that of the experiment; they are counted from 1."""
LOG = "training.log"
"""File in the folder of a member for its messages, while another one has the terminal."""
SEED_STEP = 1000
"""Difference between the seeds of consecutive members."""
_FAILED, _ASKED = 1, 2
"""Why members that are trained in parallel stop: one of them failed, or a signal asked for it."""


def train_all(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the bundle; interrupted training is resumed, finished training returns at once.

    Every member has a folder of its own; history and curves of the ensemble are those of the first.

    Args:
        recipe: what to train, checked by `check_training`.
        prepared: its packed corpus.

    Raises:
        ConfigError, BundleError, CorpusError, TrainingError: see `train`; or a training process died.
    """
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
    for name in (HISTORY, CURVES):
        shutil.copy(bundles[0].parent / name, bundle.parent / name)
    write_recipe(recipe)
    combined.save(bundle)
    say(f"development WER of all together {wer:.2%}; bundle in {bundle}")
    return bundle


def check_training(recipe: Recipe) -> None:
    """Check what can be wrong with a training before any recording is read.

    Raises:
        ConfigError: settings that contradict each other, or a folder that holds the other kind of model.
        BundleError: there is no model to start from.
    """
    if recipe.members < 1:
        raise ConfigError(f"members={recipe.members}: expected 1 or more")
    _check_folder(Path(recipe.exp), members=recipe.members)
    last = recipe if recipe.members == 1 else _member(recipe, recipe.members - 1)
    if (start := last.training.start_from) and not (Path(last.exp) / "checkpoints").exists():
        member_of(start, last.training.start_member)


def _check_folder(folder: Path, *, members: int) -> None:
    """Raises ConfigError if there is one model where several are to be trained, or the reverse."""
    there, what = (MEMBER.format(1), "an ensemble") if members == 1 else ("checkpoints", "a single model")
    if (folder / there).exists():
        raise ConfigError(
            f"members={members}: {folder / there} is of {what}; "
            "give the run its own folder (exp=…), or remove this one to start anew"
        )


def _member(recipe: Recipe, k: int) -> Recipe:
    """The recipe of one member; an ensemble is trained further member by member."""
    folder, seed = Path(recipe.exp) / MEMBER.format(k + 1), recipe.seed + SEED_STEP * k
    training = recipe.training
    if training.start_from:
        training = dataclasses.replace(training, start_member=training.start_member + k)
    return dataclasses.replace(recipe, members=1, seed=seed, exp=str(folder), training=training)


def _is_there(combined: Recognizer, bundle: Path) -> bool:
    """Whether the bundle has exactly these weights; its decoder may have been tuned since."""
    if not (bundle / FILE).is_file():
        return False
    ours, theirs = combined.encoder.state_dict(), load(bundle).encoder.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _train_each(members: Sequence[Recipe], prepared: Prepared) -> list[Path]:
    """The bundles of all members, trained in parallel where that pays."""
    is_shared = Ranks().size > 1 or choose_device(members[0].training.device).type != "cpu"
    at_once = 1 if is_shared else min(len(members), available_cores())
    bundles = []
    for first in range(0, len(members), at_once):
        now = members[first : first + at_once]
        names = ", ".join(str(first + i + 1) for i in range(len(now)))
        is_parallel = len(now) > 1 and not all(map(_is_trained, now))  # else they return at once
        say(f"member {names} of {len(members)}" + (f"; messages of others in {LOG}" if is_parallel else ""))
        bundles += _train_together(now, prepared) if is_parallel else [train(m, prepared) for m in now]
    return bundles


def _is_trained(member: Recipe) -> bool:
    state = checkpoint.read(checkpoint.last(Path(member.exp)))
    return state is not None and bool(state["progress"]["finished"])


def _train_together(members: Sequence[Recipe], prepared: Prepared) -> list[Path]:
    """The bundles of members that are trained in parallel; the first one shows its progress.

    If one fails, the others stop at their next step; run again, they continue from there.
    """
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Value("i", 0, lock=False)  # no lock: the signal handler could deadlock on it
    ensure_running()  # otherwise the first process start does this, and unblocks signals
    started: dict[Connection, SpawnProcess] = {}
    answers: dict[Connection, Path | BaseException] = {}

    def ask() -> None:
        stop.value = _ASKED

    with on_signal(ask):
        try:
            for member in members:
                ours, theirs = spawn.Pipe(duplex=False)
                how = {"threads": max(1, available_cores() // len(members)), "is_first": not started}
                arguments = (member, prepared, stop, theirs)
                process = spawn.Process(target=_train_in_worker, args=arguments, kwargs=how)
                with signals_wait():
                    process.start()
                started[ours] = process
                theirs.close()
            while waiting := [ours for ours in started if ours not in answers]:
                ready = wait(waiting)
                for ours in (one for one in waiting if one in ready):
                    answers[ours] = _answer(ours, was_asked=stop.value == _ASKED)
                    if not isinstance(answers[ours], Path):
                        stop.value = stop.value or _FAILED
        finally:
            for ours, process in started.items():
                if ours not in answers:  # after a second Ctrl-C, or because another one could not be started
                    process.kill()
                process.join()
    bundles = _bundles([answers[ours] for ours in started])
    if stop.value == _ASKED:  # too late for any of them to stop
        raise KeyboardInterrupt
    return bundles


def _answer(connection: Connection, *, was_asked: bool) -> Path | BaseException:
    """The result of a training process: its bundle, or its error, or one for a process that died."""
    try:
        return connection.recv()
    except EOFError:
        if was_asked:  # stopped before there was anything to save
            return KeyboardInterrupt()
        return TrainingError(
            "a process that trained a member died; out of memory, perhaps. Run again, it goes on where it "
            "stopped; with one core (`taskset -c 0`) the members are trained one after the other"
        )


def _bundles(answers: Sequence[Path | BaseException]) -> list[Path]:
    """The bundles; prints the result of all but the first, which has printed its own.

    Raises:
        BaseException: the error of a member; an actual failure takes precedence over KeyboardInterrupt.
    """
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, KeyboardInterrupt)):
        raise failure
    bundles = [answer for answer in answers if isinstance(answer, Path)]
    for bundle in bundles[1:]:
        facts = load(bundle).trained_on
        say(f"development WER {facts['dev_wer']:.2%} ({facts['weights']}); bundle in {bundle}")
    return bundles


def _train_in_worker(
    recipe: Recipe, prepared: Prepared, stop: Any, answer: Connection, *, threads: int, is_first: bool
) -> None:
    """Send back the bundle, or the expected error; an unexpected error is printed and ends the process.

    Messages of all members but the first go to a file, because a terminal can show only one progress bar.
    """
    start_worker()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    torch.set_num_threads(threads)
    log = Path(recipe.exp) / LOG
    try:
        if not is_first:
            log.parent.mkdir(parents=True, exist_ok=True)
            console.file = log.open("a", encoding="utf-8", buffering=1)
        answer.send(train(recipe, prepared, must_stop=lambda: stop.value != 0))
    except (AsrError, OSError, KeyboardInterrupt) as failure:
        answer.send(failure)
