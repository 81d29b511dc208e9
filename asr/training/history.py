"""The history of a training run, as JSON lines, TensorBoard events and a plot."""

import json
import os
from pathlib import Path
from typing import Any

from asr.errors import TrainingError
from asr.files import explained, whole_file
from asr.scoring.charts import FEWEST_STEPS

FILE = "history.jsonl"


class History:
    """An append-only record, used as a context manager.

    Args:
        folder: of the experiment; the file is `history.jsonl` in it.
        updates, epoch: of the checkpoint that training resumes from; lines of later updates or epochs, which
            a killed run wrote after it, are removed.
    """

    def __init__(self, folder: Path, *, updates: int = 0, epoch: int = 0) -> None:
        self.path = folder / FILE
        self.lines = [
            line
            for line in read(self.path)
            if line["updates"] <= updates and (line["kind"] != "epoch" or line["epoch"] <= epoch)
        ]
        """All lines, including those from before the run was resumed."""
        with whole_file(self.path, error=TrainingError) as file:
            file.writelines(json.dumps(line) + "\n" for line in self.lines)
        self._file = self.path.open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, so not at the top

        self._events: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=updates + 1)

    def add(self, kind: str, *, updates: int, **values: Any) -> None:
        """Add a line: `kind` is `step` or `epoch`; numbers also become TensorBoard scalars.

        Raises:
            TrainingError: the disk is full.
        """
        line = {"kind": kind, "updates": updates, **values}
        self.lines.append(line)
        with explained(self.path.parent, TrainingError):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for key, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._events.add_scalar(f"{kind}/{key}", value, updates)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        with explained(self.path.parent, TrainingError):
            os.fsync(self._file.fileno())
            self._file.close()
            self._events.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a history; a last line that was cut off by a kill is left out.

    Raises:
        TrainingError: a damaged line before the last.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    out = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise TrainingError(f"{path}, line {number}: not JSON: {line[:80]!r}") from error
    return out


def plot(history: list[dict[str, Any]], path: Path, *, title: str = "") -> Path:
    """A PNG with the loss over the updates and the word error rate of each epoch."""
    from matplotlib.figure import Figure

    steps = [h for h in history if h["kind"] == "step"]
    epochs = [h for h in history if h["kind"] == "epoch"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    learnt, form = (steps, "-") if len(steps) >= FEWEST_STEPS else (epochs, "s-")
    updates, loss = ([h[key] for h in learnt] for key in ("updates", "loss"))
    losses.plot(updates, loss, form, lw=0.8, ms=3, alpha=0.7, label="training")
    losses.plot(
        [h["updates"] for h in epochs], [h["dev_loss"] for h in epochs], "o-", ms=3, label="development"
    )
    losses.set(xlabel="update", ylabel="loss per label (nats)", yscale="log", title="Loss")
    losses.legend()
    rates.plot([h["epoch"] for h in epochs], [100 * h["wer"] for h in epochs], "o-", ms=3, label="WER")
    rates.plot([h["epoch"] for h in epochs], [100 * h["cer"] for h in epochs], "s--", ms=3, label="CER")
    rates.set(xlabel="epoch", ylabel="error rate on the development set (%)", ylim=(0, None), title="Error")
    rates.legend()
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path
