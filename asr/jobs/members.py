"""Training of what a recipe asks for: one model, or several from different seeds that are heard as one.

On a CPU as many of them as there are cores are trained side by side, each with its share of the cores: small
networks gain less from a second core than a second network does.
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

from asr.corpus.decode import available_cores, start_worker
from asr.errors import AsrError, ConfigError, TrainingError
from asr.jobs.combine import combine
from asr.jobs.console import console, say
from asr.jobs.evaluate import evaluate
from asr.jobs.prepare import Prepared
from asr.jobs.recipe import Recipe
from asr.jobs.train import TUNED, development_split, train, write_recipe
from asr.recognizer import FILE, Recognizer, load
from asr.training.distributed import Ranks
from asr.training.history import FILE as HISTORY
from asr.training.interruption import on_signal, signals_wait
from asr.training.optim import choose_device

LOG = "training.log"
"""In the folder of a member: its messages, if another one has the terminal."""
SEED_STEP = 1000
"""From the seed of a member to that of the next."""
_FAILED, _ASKED = 1, 2
"""Why members that are trained together stop: one of them failed; a signal asked for it."""


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
    """The bundles of members that are trained at the same time; the first one shows how far it is.

    If one fails, the others stop at their next step; run again, they go on from there.
    """
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Value("i", 0, lock=False)  # without a lock, which a signal could find taken
    ensure_running()  # or else the first start does this, and lets signals through
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
    return _bundles([answers[ours] for ours in started])


def _answer(connection: Connection, *, was_asked: bool) -> Path | BaseException:
    """What a process that trained has to say; one that died says nothing."""
    try:
        answer: Path | BaseException = connection.recv()
    except EOFError:
        if was_asked:  # before there was anything to save
            return KeyboardInterrupt()
        return TrainingError(
            "a process that trained a member died; out of memory, perhaps. Run again, it goes on where it "
            "stopped; with one core (`taskset -c 0`) the members are trained one after the other"
        )
    return answer


def _bundles(answers: Sequence[Path | BaseException]) -> list[Path]:
    """Where they are, told of all but the first, which has told itself.

    Raises:
        BaseException: what one of them failed of, before what stopped the others because of that.
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
    """Answers with the bundle, or with what went wrong; an error nobody expected shows itself and ends this.

    What others than the first have to say goes to a file, for one terminal shows one bar.
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
    except (AsrError, KeyboardInterrupt) as failure:
        answer.send(failure)
