"""Packed corpora with targets, for training and validation, and the scores of a model on one."""

import math

import numpy as np
import torch

from asr import scoring
from asr.corpus import batches
from asr.corpus.packed import PackedCorpus
from asr.ctc import fits, required_frames
from asr.decoding import greedy
from asr.errors import CorpusError
from asr.recognizer import Recognizer
from asr.spans import inside
from asr.text import normalise
from asr.training.distributed import Ranks
from asr.training.loader import Batch, collate, in_halves
from asr.training.losses import Loss


class Split:
    """A packed corpus with the targets of each utterance, and which utterances can be trained on (`kept`)."""

    def __init__(self, corpus: PackedCorpus, recognizer: Recognizer, *, min_s: float, max_s: float) -> None:
        self.corpus = corpus
        self.texts = [normalise(u.text, recognizer.style) for u in corpus.utterances]
        alphabet = recognizer.alphabet.with_words(word for text in self.texts for word in text.split())
        self.unspellable = {
            i: strange for i, text in enumerate(self.texts) if (strange := alphabet.missing(text))
        }
        """Index → what the alphabet cannot spell; excluded from the loss, but included in the WER."""
        self.targets = [
            [] if i in self.unspellable else alphabet.encode(text) for i, text in enumerate(self.texts)
        ]
        lengths = torch.from_numpy(corpus.lengths_samples)
        frames = recognizer.encoder.output_lengths(recognizer.features.output_lengths(lengths)).tolist()
        seconds = (corpus.lengths_samples / corpus.rate_hz).tolist()
        self.left_out: dict[str, list[str]] = {
            reason: []
            for reason in ("cannot be spelled", "nothing said", "too short", "too long", "infeasible")
        }
        self.kept: list[int] = []
        for i, u in enumerate(corpus.utterances):
            if i in self.unspellable:
                self.left_out["cannot be spelled"].append(u.id)
            elif not self.targets[i]:  # of a transcript of punctuation alone
                self.left_out["nothing said"].append(u.id)
            elif seconds[i] < min_s:
                self.left_out["too short"].append(u.id)
            elif seconds[i] > max_s:
                self.left_out["too long"].append(u.id)
            elif frames[i] < required_frames(self.targets[i]):
                self.left_out["infeasible"].append(u.id)
            else:
                self.kept.append(i)
        self.measured = [i for i, length_s in enumerate(seconds) if length_s <= max_s]
        """Utterances to measure on; longer ones are recognised in pieces, not at once as here."""
        if not self.kept:
            counts = ", ".join(f"{len(ids)} {reason}" for reason, ids in self.left_out.items() if ids)
            raise CorpusError(
                f"{corpus.stem.name}: none of {len(corpus)} utterances can be used ({counts}); "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        most = max(self.left_out, key=lambda reason: len(self.left_out[reason]))
        if most == "cannot be spelled":
            strange = sorted({character for found in self.unspellable.values() for character in found})
            return f"no transcript that is trained on has {', '.join(map(repr, strange[:10]))}"
        if most == "infeasible":
            return "their texts are longer than the outputs: check them, or subsample less (encoder.factor)"
        return "check the transcripts, data.min_s and data.max_s"


@torch.no_grad()
def measure(
    recognizer: Recognizer, split: Split, *, seconds_per_batch: float, ranks: Ranks, loss: Loss
) -> dict[str, float]:
    """Loss per label (nats), WER, CER, share of blank frames and length ratio of a split, decoded greedily.

    Every rank processes its share of the batches and returns the scores of the whole split. The loss excludes
    utterances that are infeasible or cannot be spelled (NaN if there are no others), the error rates none
    that are `measured`. The length ratio is that of the characters of all hypotheses to all references.

    Raises:
        TrainingError: a single utterance does not fit into memory, or another rank is gone.
    """
    recognizer.eval()
    plan = batches.plan(
        split.corpus.lengths_samples[split.measured],
        seed=0,
        epoch=0,
        seconds_per_batch=seconds_per_batch,
        rate_hz=recognizer.rate_hz,
        shuffle=False,
    )
    strange = {split.corpus.utterances[i].id for i in split.unspellable}

    def hear(batch: Batch) -> tuple[list[str], np.ndarray]:
        is_spelled_B = np.array([name not in strange for name in batch.ids])
        return _hear(recognizer, batch, is_spelled_B, loss)

    found: list[tuple[int, str]] = []
    sums = np.zeros(4)
    for planned in plan[ranks.rank :: ranks.size]:
        items = [(split.measured[i],) for (i,) in planned]
        batch = collate(split.corpus, split.targets, items)
        heard = []
        for texts, counts in in_halves(hear, batch, rate_hz=recognizer.rate_hz):
            heard += texts
            sums += counts
        found += [(i, text) for (i,), text in zip(items, heard, strict=True)]
    parts = ranks.gather((found, sums))
    nll, labels, blanks, frames = sum((s for _, s in parts), np.zeros(4)).tolist()
    ordered = sorted(pair for part, _ in parts for pair in part)
    said, heard = [split.texts[i] for i, _ in ordered], [text for _, text in ordered]
    score = scoring.score_spoken(said, heard, alphabet=recognizer.alphabet)
    written, spoken = sum(map(len, heard)), sum(map(len, said))
    return {
        "dev_loss": nll / labels if labels else math.nan,
        "wer": score.wer,
        "cer": score.cer,
        "blank_share": blanks / max(frames, 1),
        "length_ratio": written / max(spoken, 1),
    }


def _hear(
    recognizer: Recognizer, batch: Batch, is_spelled_B: np.ndarray, loss: Loss
) -> tuple[list[str], np.ndarray]:
    """What is heard in each utterance; loss (nats), labels, blank frames and all frames of the batch."""
    batch = batch.to(recognizer.device)
    features_BTF, frames_B = recognizer.features(batch.samples_BT, batch.lengths_B)
    with loss.autocast():
        log_probs_BTV, out_B = recognizer.encoder(features_BTF, frames_B)
    loss_B = loss.of_utterances(log_probs_BTV, batch.targets_BS, out_B, batch.target_lengths_B)
    nll_B = loss_B.double().cpu().numpy()
    log_probs_BTV, out_B = log_probs_BTV.float().cpu(), out_B.cpu()
    counted_B = fits(batch.targets_BS, out_B, batch.target_lengths_B).numpy() & is_spelled_B
    blank_BT = log_probs_BTV.argmax(-1) == 0
    inside_BT = inside(out_B, blank_BT.shape[1])[..., 0]
    labels_B = batch.target_lengths_B.numpy()
    counts = (
        nll_B[counted_B].sum(),
        labels_B[counted_B].sum(),
        int((blank_BT & inside_BT).sum()),
        int(inside_BT.sum()),
    )
    return [h.text(recognizer.alphabet) for h in greedy(log_probs_BTV, out_B)], np.array(counts)
