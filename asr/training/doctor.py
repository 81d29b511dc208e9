"""Diagnosis of a training run from its history, with advice on what to try: pure functions of its lines.

The lines are those of `asr.training.history`. A diagnosis needs signs over several epochs, or a value that no
healthy run has; the limits below are rules of thumb.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]

PATIENCE = 3
"""Epochs that a sign must persist."""
LONG_PATIENCE = 8
"""Epochs without progress that count as a plateau."""


@dataclass(frozen=True)
class Diagnosis:
    """One problem, and what to try."""

    name: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.problem}; try: {self.advice}"


def diagnose(history: Sequence[Line]) -> list[Diagnosis]:
    """All problems of a run, most serious first; empty for a healthy or very short one."""
    epochs = [_comparable(line) for line in history if line["kind"] == "epoch"]
    steps = [line for line in history if line["kind"] == "step"]
    found = [sign(epochs, steps) for sign in _SIGNS]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def best_epoch(epochs: Sequence[Line]) -> int:
    """The index of the line of the epoch that was kept as the best."""
    return max((i for i, line in enumerate(epochs) if line["is_best"]), default=0)


def _comparable(epoch: Line) -> Line:
    """The line with +∞ for a loss that is not a number, so that it compares as the worst."""
    return epoch | {key: math.inf for key in ("loss", "dev_loss") if math.isnan(epoch[key])}


class Watch:
    """Reports each diagnosis once, when it first appears.

    Args:
        history: the lines so far; diagnoses that they already show count as reported.
    """

    def __init__(self, history: Sequence[Line]) -> None:
        self._told = {diagnosis.name for diagnosis in diagnose(history)}

    def news(self, history: Sequence[Line]) -> list[Diagnosis]:
        """The diagnoses that have not been reported yet."""
        found = [diagnosis for diagnosis in diagnose(history) if diagnosis.name not in self._told]
        self._told |= {diagnosis.name for diagnosis in found}
        return found


def _not_finite(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if not epochs or epochs[-1]["skipped"] <= max(2, 0.01 * epochs[-1]["updates"]):
        return None
    skipped, updates = epochs[-1]["skipped"], epochs[-1]["updates"]
    return Diagnosis(
        "not finite",
        f"{skipped} of {updates} updates were left out because loss or gradient was not finite",
        "a lower training.learning_rate, more training.warmup_epochs, or training.precision=float32",
    )


def _exploding(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    lowest = min((e["loss"] for e in epochs), default=math.inf)
    if not 0 < lowest < math.inf or epochs[-1]["loss"] < 1.5 * lowest:
        return None
    return Diagnosis(
        "divergence",
        f"the training loss was {lowest:.2f} and rose to {epochs[-1]['loss']:.2f}",
        "a lower training.learning_rate or a smaller training.clip_norm",
    )


def _blank(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    last = epochs[-PATIENCE:]
    if len(last) < PATIENCE or any(e["blank_share"] < 0.97 or e["length_ratio"] > 0.2 for e in last):
        return None
    return Diagnosis(
        "blank",
        f"the model says next to nothing: {last[-1]['blank_share']:.0%} of the frames are blank after "
        f"{last[-1]['epoch']} epochs",
        "more epochs if the loss still falls; a higher training.learning_rate, shorter batches (more updates "
        "an epoch), training.ascending_first_epoch=true, a smaller encoder; and listen whether the "
        "transcripts belong to the recordings",
    )


def _length(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    last = epochs[-PATIENCE:]
    ratios = [e["length_ratio"] for e in last]
    if len(last) < PATIENCE or _blank(epochs, steps) is not None:
        return None
    if last[-1]["denominator"]:  # then best paths are too long, until the language model corrects them
        return None
    if all(ratio > 1.25 for ratio in ratios):
        return Diagnosis(
            "too long",
            f"hypotheses are {ratios[-1]:.2f} times as long as the references",
            "look for transcripts that leave words out, and for long silences or noise in the recordings",
        )
    if all(ratio < 0.75 for ratio in ratios):
        return Diagnosis(
            "too short",
            f"hypotheses have {ratios[-1]:.0%} of the length of the references",
            "more epochs if the loss still falls; less subsampling (encoder.factor) for fast speech; look "
            "for recordings that are cut off",
        )
    return None


def _gradients(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    measured = [s["gradient_norms"] for s in steps[-10:] if s.get("gradient_norms")]
    if len(measured) < PATIENCE:
        return None
    medians = {layer: statistics.median(m.get(layer, 0.0) for m in measured) for layer in measured[-1]}
    largest = max(medians.values())
    weak = [layer for layer, norm in medians.items() if norm < 1e-4 * largest]
    if not weak:
        return None
    return Diagnosis(
        "gradient",
        f"next to no gradient reaches {', '.join(weak)}: {medians[weak[0]]:.1e} against {largest:.1e}",
        "fewer encoder.layers, encoder.norm=layer, encoder.residual=true, or an intermediate loss "
        "(encoder.intermediate_layer with training.intermediate_weight=0.3)",
    )


def _overfitting(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if len(epochs) <= PATIENCE:
        return None
    lowest = min(range(len(epochs)), key=lambda i: epochs[i]["dev_loss"])
    since = len(epochs) - 1 - max(best_epoch(epochs), lowest)
    risen = epochs[-1]["dev_loss"] > 1.1 * epochs[lowest]["dev_loss"]
    fallen = epochs[-1]["loss"] < 0.9 * epochs[lowest]["loss"]
    if since < PATIENCE or not (risen and fallen):
        return None
    return Diagnosis(
        "overfitting",
        f"the training loss falls, but the development loss has risen from {epochs[lowest]['dev_loss']:.2f} "
        f"(epoch {epochs[lowest]['epoch']}) to {epochs[-1]['dev_loss']:.2f} without a better WER",
        "more recordings, more encoder.dropout and augmentation, training.consistency=0.2, a smaller "
        "encoder; with few hours phones instead of characters (data.phones, as in folder/english); "
        "training.patience=5 stops in time (the best epoch is kept in any case)",
    )


def _plateau(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if len(epochs) <= LONG_PATIENCE or _blank(epochs, steps) or _overfitting(epochs, steps):
        return None
    before, since = epochs[:-LONG_PATIENCE], epochs[-LONG_PATIENCE:]
    for key in ("loss", "dev_loss", "wer"):
        if min(e[key] for e in since) < 0.98 * min(e[key] for e in before):
            return None
    if epochs[-1]["wer"] < 0.02:
        return None
    return Diagnosis(
        "plateau",
        f"neither loss nor WER has become better in {LONG_PATIENCE} epochs (WER {epochs[-1]['wer']:.1%})",
        "another training.learning_rate (higher if the loss never fell), a larger encoder, or stop here",
    )


def _infeasible(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if not epochs:
        return None
    before = epochs[-2]["infeasible"] if len(epochs) > 1 else 0
    never = epochs[-1].get("left_out", {}).get("infeasible", 0)
    now = epochs[-1]["infeasible"] - before
    total = epochs[-1]["utterances"] + never
    if (never + now) <= 0.01 * total:
        return None
    return Diagnosis(
        "infeasible",
        f"{(never + now) / total:.1%} of the utterances have fewer output frames than their text needs, so "
        "nothing is learnt from them",
        "less subsampling (encoder.factor), subwords in place of characters (data.subwords), slower "
        "augmentation.speed; and look whether long texts stand beside short recordings",
    )


def _starvation(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    last = epochs[-PATIENCE:]
    if len(last) < PATIENCE or any(e["waited"] < 0.2 or e["seconds"] < 1 for e in last):
        return None
    return Diagnosis(
        "starvation",
        f"{last[-1]['waited']:.0%} of the time is spent waiting for batches",
        "a faster or local disk for data.dir, or fewer other programs on these cores",
    )


def _memory(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if not epochs or epochs[-1]["out_of_memory"] <= 0.01 * epochs[-1]["updates"]:
        return None
    return Diagnosis(
        "memory",
        f"memory ran out {epochs[-1]['out_of_memory']} times in {epochs[-1]['updates']} updates; the batches "
        "were split, nothing was lost but time",
        "a lower training.seconds_per_batch with a higher training.accumulate",
    )


def _padding(epochs: list[Line], steps: list[Line]) -> Diagnosis | None:
    if not epochs or epochs[-1]["padding"] < 0.3:
        return None
    return Diagnosis(
        "padding",
        f"{epochs[-1]['padding']:.0%} of what is computed is padding",
        "a lower training.seconds_per_batch (training.accumulate keeps the updates as large), or a lower "
        "data.max_s if few utterances are very long",
    )


_SIGNS: tuple[Callable[[list[Line], list[Line]], Diagnosis | None], ...] = (
    _not_finite,
    _exploding,
    _blank,
    _length,
    _gradients,
    _infeasible,
    _overfitting,
    _plateau,
    _starvation,
    _memory,
    _padding,
)
