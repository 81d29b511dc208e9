"""Settings of training, learning rate as a function of progress, and the optimiser with its updates."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn

from asr.encoder import Encoder
from asr.errors import demands_of
from asr.machine.optimizer import AdamW
from asr.regularisation import MaskedBatchNorm
from asr.training.distributed import Ranks

Schedule = Literal["constant", "linear", "cosine", "exponential"]
Precision = Literal["auto", "float32", "bf16"]


@dataclass
class TrainingConfig:
    """How to train."""

    epochs: int = 30
    seconds_per_batch: float = 160.0
    """Upper bound of a batch: utterances × longest utterance, in seconds of audio."""
    accumulate: int = 1
    """Batches whose gradients are accumulated before an update."""
    ascending_first_epoch: bool = True
    """The first epoch goes from short to long utterances."""
    join: int = 1
    """Up to this many utterances of one speaker are joined into one, drawn anew in every epoch; 1 is off."""
    pause_s: float = 0.0
    """Joined utterances are separated by up to this many seconds of silence."""
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup_epochs: float = 1.0
    final_share: float = 0.01
    """Share of the learning rate that is left at the end; not used by the constant schedule."""
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip_norm: float = 5.0
    start_from: str | None = None
    """Bundle to fine-tune; only the outputs of symbols that it lacks are initialised anew. A recipe has the
    settings that it leaves at their defaults from it, see `asr.jobs.inheritance`."""
    start_member: int = 1
    """Which of its members, if it is an ensemble; with `members`, the others start from the following."""
    start_share: float = 0.0
    """In the end the weights go back by this share of the way to those of `start_from`, for instance 0.5, so
    that less of what it had learnt is forgotten. 0 is off."""
    freeze: list[str] = field(default_factory=list)
    """Patterns of names of encoder parameters that are not trained, such as `layers.0.*`."""
    intermediate_weight: float = 0.0
    """Share of the auxiliary CTC loss after `encoder.intermediate_layer` in the total loss; 0 is off."""
    consistency: float = 0.0
    """Weight of the consistency loss (CR-CTC) between two passes over each utterance with different masks and
    dropout, e.g. 0.2; doubles the time of a step. 0 is off."""
    denominator: float = 0.0
    """Weight of the discriminative denominator: log of the sum over all labellings under a trigram of the
    targets. 0 is plain CTC; 0.9 trains discriminatively. For models decoded with a lexicon and a language
    model."""
    denominator_epochs: float = 3.0
    """The denominator is ramped up over this many epochs; switched on at once, training can get stuck at
    all-blank output."""
    precision: Precision = "auto"
    """`auto` uses bf16 autocast where the device multiplies faster in it."""
    device: str = "auto"
    average: int = 0
    """The final weights are the mean of this many best epochs, unless worse than the best on development."""
    patience: int = 0
    """Stop after this many epochs without a better development WER (loss if `denominator` > 0); 0 is off."""
    checkpoint_every_s: float = 60.0
    log_every: int = 20
    """Steps between two lines of the history."""
    give_up_after: int = 20
    """Consecutive non-finite steps after which training stops with an error."""

    def __post_init__(self) -> None:
        """Raises ConfigError at the first setting that cannot work."""
        demand = demands_of("training", self)
        for name in ("epochs", "start_member", "accumulate", "join", "log_every", "give_up_after"):
            demand(getattr(self, name) >= 1, name, "at least 1")
        for name in ("average", "patience", "pause_s", "warmup_epochs", "weight_decay", "clip_norm"):
            demand(getattr(self, name) >= 0, name, "at least 0")
        demand(self.denominator_epochs >= 0, "denominator_epochs", "at least 0")
        demand(self.seconds_per_batch > 0, "seconds_per_batch", "more than 0")
        demand(self.learning_rate > 0, "learning_rate", "more than 0")
        for name, known in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
            demand(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        demand(0 <= self.beta2 < 1, "beta2", "0 to below 1")
        demand(0 <= self.final_share <= 1, "final_share", "0 to 1")
        demand(0 <= self.start_share <= 1, "start_share", "0 to 1")
        demand(0 <= self.intermediate_weight < 1, "intermediate_weight", "0 to less than 1")
        demand(0 <= self.consistency < math.inf, "consistency", "0 (off) or more")
        demand(0 <= self.denominator <= 1, "denominator", "0 (off) to 1")


def learning_rate(config: TrainingConfig, progress_epochs: float) -> float:
    """The learning rate after `progress_epochs` epochs, a pure function of the settings.

    >>> config = TrainingConfig(epochs=10, learning_rate=1.0, warmup_epochs=2, schedule="linear")
    >>> [round(learning_rate(config, p), 3) for p in (0.5, 1.0, 2.0, 6.0, 10.0)]
    [0.25, 0.5, 1.0, 0.505, 0.01]
    """
    warmup = config.warmup_epochs
    if progress_epochs < warmup:
        return config.learning_rate * max(progress_epochs / warmup, 1e-3)
    x = min((progress_epochs - warmup) / max(config.epochs - warmup, 1e-9), 1.0)
    low = config.final_share
    shapes: dict[Schedule, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "linear": lambda: 1 - x * (1 - low),
        "cosine": lambda: low + (1 - low) * (1 + math.cos(math.pi * x)) / 2,
        "exponential": lambda: max(low, 1e-9) ** x,
    }
    return config.learning_rate * shapes[config.schedule]()


def denominator(config: TrainingConfig, progress_epochs: float) -> float:
    """The weight of the denominator after `progress_epochs` epochs, a pure function of the settings.

    >>> config = TrainingConfig(denominator=0.8, denominator_epochs=2)
    >>> [round(denominator(config, p), 3) for p in (0.0, 0.5, 2.0, 9.0)]
    [0.0, 0.2, 0.8, 0.8]
    """
    over = config.denominator_epochs
    return config.denominator * (min(progress_epochs / over, 1.0) if over > 0 else 1.0)


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> AdamW:
    """AdamW in which only matrices decay: biases and normalisation gains do not."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=1e-8,
        fused=True,
    )


class Updater:
    """Gradients of all ranks → one update of the encoder's weights, skipped if something is not finite.

    There is no device sync: results stay on the device until they are read.

    Args:
        encoder: whose weights are updated; `Loss.add_gradient` fills their `grad`.
        config: of optimiser and clipping.
        ranks: this process among all.
    """

    def __init__(self, encoder: Encoder, config: TrainingConfig, ranks: Ranks) -> None:
        self.encoder, self.clip_norm, self.ranks = encoder, config.clip_norm or math.inf, ranks
        self.optimizer: Any = build_optimizer(encoder.parameters(), config)
        self.norms: dict[str, Tensor] = {}
        """Norm of the gradient of each layer, before clipping, after a `finish` with `by_layer`."""
        # One process would meet the batches of the ranks in turn, n moves of the running moments for one of
        # each rank: a rank forgets as much in its one move, and the mean of all weights the later ones more.
        kept, n = 1 - MaskedBatchNorm.momentum, ranks.size
        self._share = (1 - kept) * kept ** (n - 1 - ranks.rank) / (1 - kept**n)
        for module in encoder.modules() if n > 1 else ():
            if isinstance(module, MaskedBatchNorm):
                module.momentum = 1 - kept**n

    def begin(self, rate: float) -> None:
        """Set the learning rate of the coming step, and reset the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()

    def finish(self, sums: Tensor, *, by_layer: bool) -> Tensor:
        """Sum gradients over ranks, divide by labels, clip and update, unless something is not finite.

        Args:
            sums: float64 on the device, loss and labels first; replaced by the sum over all ranks, see
                `Ranks.sum_`.
            by_layer: whether to measure `norms` too.

        Returns:
            The norm of the gradient before clipping, a scalar on the device.
        """
        named = [(n, p.grad) for n, p in self.encoder.named_parameters() if p.grad is not None]
        gradients = [gradient for _, gradient in named]
        moments = [b for b in self.encoder.buffers() if b.is_floating_point()]
        for moment in moments if self.ranks.size > 1 else ():
            moment.mul_(self._share)
        self.ranks.sum_([sums, *gradients, *moments])
        labels = sums[1].clamp(min=1).float()
        norm = nn.utils.get_total_norm(gradients) / labels
        self.norms = {k: v / labels for k, v in gradient_norms(named).items()} if by_layer else {}
        # The fused optimiser kernel divides gradients by grad_scale, and skips the update if found_inf is 1.
        self.optimizer.grad_scale = labels / (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        self.optimizer.found_inf = (~(sums[0].isfinite() & norm.isfinite())).float()
        self.optimizer.step()
        return norm


def gradient_norms(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The Euclidean norm of the gradients of each layer: `layers.0`, …, `output`; scalars on the device."""
    layers: dict[str, list[Tensor]] = {}
    for name, gradient in named:
        parts = name.split(".")
        layers.setdefault(".".join(parts[:2]) if parts[1].isdigit() else parts[0], []).append(gradient)
    return {layer: nn.utils.get_total_norm(gradients) for layer, gradients in layers.items()}
