"""Terminal output: messages and progress bars on standard error, results on standard output."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from asr.errors import visible

console = Console(stderr=True, highlight=False, emoji=False)
"""Messages, warnings and bars."""
output = Console(highlight=False, soft_wrap=True, emoji=False)
"""Results."""


def say(text: str) -> None:
    """Print a message to the user."""
    console.print(visible(text), markup=False, soft_wrap=True)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


if console.is_terminal:  # else nobody wonders why nothing moves
    _slow = logging.getLogger("asr.machine.compilation")
    _slow.setLevel(logging.INFO)
    _slow.addHandler(_Said())
    _slow.propagate = False


def warn(text: str) -> None:
    """Print a warning: the job continues, but the user should know."""
    console.print(f"[yellow]warning:[/] {escape(visible(text))}", soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless it is one.

    >>> counted(1, "recording"), counted(1200, "recording")
    ('1 recording', '1,200 recordings')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def counting(
    title: str, unit: str | None = "files", *, hidden: bool = False
) -> Iterator[Callable[[float, int], None]]:
    """A progress bar, moved by calling it with (done, total); without a unit it shows a percentage."""
    shown = (MofNCompleteColumn(), TextColumn(unit)) if unit else (TaskProgressColumn(),)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), *shown, TimeElapsedColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # which may be a file or another program
        disable=hidden or not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class TrainingBar:
    """Shows the progress of a training run: a progress bar, and a line for each finished epoch."""

    def __init__(self, epochs: int) -> None:
        self._bar = Progress(
            TextColumn("[bold]epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} s audio/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=epochs, epoch=1, loss=float("nan"), speed=0.0)
        self._head = False

    def __enter__(self) -> "TrainingBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Handle an event of `asr.training.Trainer`, whose observer this is."""
        if kind == "step":
            self._bar.update(
                self._task,
                completed=facts["epoch"] - 1 + facts["step"] / facts["steps"],
                epoch=facts["epoch"],
                loss=facts["loss"],
                speed=facts["audio_s_per_s"],
            )
        elif kind == "skipped":
            warn(
                f"update {facts['skipped']} left out: loss {facts['loss']}, "
                f"gradient norm {facts['gradient_norm']}"
            )
        else:
            self._line(facts)

    def _line(self, facts: dict[str, Any]) -> None:
        if not self._head:
            console.print("[dim]epoch    loss  dev loss     WER     CER   blank  audio s/s[/]")
            self._head = True
        mark = " [green]best[/]" if facts["is_best"] else ""
        console.print(
            f"{facts['epoch']:5d} {facts['loss']:7.3f} {facts['dev_loss']:9.3f} {facts['wer']:7.2%} "
            f"{facts['cer']:7.2%} {facts['blank_share']:7.1%} {facts['audio_s_per_s']:10,.0f}{mark}"
        )
