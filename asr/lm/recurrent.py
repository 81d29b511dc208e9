"""A recurrent language model: an LSTM that reads sentences from their beginning, piece by piece.

An n-gram model forgets all but the last words, and knows nothing about words that it has not counted. This
one is too slow for a beam search, so it judges what one has found: see `asr.decoding.rescoring`. Words are
spelled in subword pieces, and index 0 stands for the border between sentences.

Sources: Mikolov et al. 2010; Sundermeyer et al. 2012 (LSTM); Press & Wolf 2017 (input and output share their
embedding); Huang et al. 2014 (common beginnings of hypotheses are computed once).
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from asr import lstm
from asr.errors import AlphabetError, LanguageModelError, demands_of
from asr.files import whole_file
from asr.lm.mixture import AFTER, Steps
from asr.lm.ngram import Perplexity, check_sentences, grouped, per_word
from asr.normalisation import composed
from asr.regularisation import Dropout
from asr.text import WORD_OPENER, Alphabet

BORDER = 0
TOGETHER = 512  # sentences whose beginnings are compared
UNSEEN_LN = -10.0
"""Natural-log probability of each character that was not in the training text."""

_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
State = list[tuple[Tensor, Tensor]]
Spell = Callable[[str], tuple[list[int], int]]


@dataclass
class RecurrentConfig:
    """The shape of a recurrent language model, and how it is trained."""

    pieces: int = 2000
    """Subword pieces; at least as many as there are characters are taken, and no more than the text has."""
    width: int = 512
    """Units of each LSTM layer, and size of the embedding of a piece."""
    layers: int = 1
    dropout: float = 0.2
    epochs: int = 12
    learning_rate: float = 3e-3
    sentences_per_batch: int = 32

    def __post_init__(self) -> None:
        """Raises ConfigError at the first setting that cannot work."""
        demand = demands_of("lm.recurrent", self)
        for name in ("pieces", "width", "layers", "epochs", "sentences_per_batch"):
            demand(getattr(self, name) >= 1, name, "at least 1")
        demand(0 <= self.dropout < 1, "dropout", "0 to below 1")
        demand(self.learning_rate > 0, "learning_rate", "above 0")


class RecurrentModel(nn.Module):
    """A recurrent language model; made by `asr.lm.train_recurrent` or `RecurrentModel.load`."""

    def __init__(self, pieces: Alphabet, config: RecurrentConfig) -> None:
        super().__init__()
        self.pieces, self.config = pieces, config
        self.embedding = nn.Parameter(torch.empty(pieces.size, config.width))
        nn.init.normal_(self.embedding, std=config.width**-0.5)
        self.bias = nn.Parameter(torch.zeros(pieces.size))
        self.runs = nn.ModuleList(
            nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.layers)
        )
        self.dropout = Dropout(config.dropout)
        for run in self._layers():
            lstm.set_forget_bias(run, 1.0)

    def _layers(self) -> Sequence[nn.LSTM]:
        return cast(Sequence[nn.LSTM], self.runs)

    def hidden(self, previous_BT: Tensor) -> Tensor:
        """The last layer's outputs (B, T, width) after each piece; sentences start with `BORDER`."""
        x_BTH = self.dropout(self._embed(previous_BT))
        for run in self._layers():
            x_BTH = self.dropout(lstm.outputs(run, x_BTH))
        return x_BTH

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """The unnormalised log-probabilities (N, pieces) of the next piece, float32."""
        return functional.linear(hidden_NH, self.embedding, self.bias).float()

    def _embed(self, pieces: Tensor) -> Tensor:
        return functional.embedding(pieces, self.embedding) * (math.sqrt(self.config.width) / 2)

    def _step(self, pieces_N: Tensor, state: State) -> tuple[Tensor, State]:
        """Natural-log probabilities (N, pieces) of what follows each piece, and the state after it."""
        x_NH, after = self._embed(pieces_N), []
        for run, before in zip(self._layers(), state, strict=True):
            after.append(torch.lstm_cell(x_NH, before, *(run.get_parameter(name) for name in _WEIGHTS)))
            x_NH = after[-1][0]
        return self.logits(x_NH).log_softmax(-1), after

    def spell(self, text: str) -> tuple[list[int], int]:
        """The pieces of a text, and the number of its characters that no piece contains."""
        kept, count = composed(text), 0
        while unseen := self.pieces.missing(kept):  # what is left may be composed to unseen characters again
            count += sum(c in unseen for c in kept)
            kept = composed("".join(c for c in kept if c not in unseen))
        return self.pieces.encode(kept) if kept.strip() else [], count

    def log_probs(self, sentences: Sequence[str]) -> np.ndarray:
        """(N,) natural-log probability of each sentence with its end, float64."""
        return np.array([read.ln.sum() for read in self.steps(sentences)], np.float64)

    @torch.no_grad()
    def steps(self, sentences: Sequence[str]) -> list[Steps]:
        """How the model reads each sentence, piece by piece.

        What a word has of characters that no piece contains counts as a piece of its own at its end. What
        sentences begin with in common is computed once, so an N-best list takes a fraction of the time.
        """
        found, spell = [], cache(self.spell)  # hypotheses have their words in common
        for some in grouped(sentences, TOGETHER):
            spelled = [self._pieces(sentence, spell) for sentence in some]
            rows = self._read([ids for ids, _, _ in spelled])
            for (_, ends, unseen), ln in zip(spelled, rows, strict=True):
                at = np.searchsorted(ends, unseen[0], side="right")
                ln = np.insert(ln, at, UNSEEN_LN * unseen[1])
                found.append(Steps(np.insert(ends, at, unseen[0]), ln))
        return found

    def _pieces(self, sentence: str, spell: Spell) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Pieces; where they and the sentence end; where words with unseen characters end, and how many."""
        ids, ends, begin = list[int](), list[int](), 0
        unseen = list[tuple[int, int]]()
        for word in composed(sentence).split():
            own, count = spell(word)
            end = begin + len(word)
            lengths = [len(self.pieces.symbols[i - 1].removeprefix(WORD_OPENER)) for i in own]
            ends += [min(begin + n, end) for n in accumulate(lengths[:-1])] + [end] * bool(own)
            unseen += [(end, count)] * bool(count)
            ids, begin = ids + own, end
        return ids, np.array([*ends, AFTER]), np.array(unseen, np.int64).reshape(-1, 2).T

    def _read(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """ln P of each piece of each row, and of the border after it, float64.

        In each step all distinct beginnings of one length are advanced by their last piece.
        """
        steps = max(map(len, rows)) + 1
        next_RT = np.full((len(rows), steps), BORDER)
        for row, ids in zip(next_RT, rows, strict=True):
            row[: len(ids)] = ids
        found_RT, live = np.zeros((len(rows), steps)), np.arange(len(rows))
        begun = np.zeros(len(rows), np.int64)  # the beginning of each live row, among the distinct ones
        last_N = torch.tensor([BORDER], device=self.bias.device)
        zero_NH = torch.zeros(1, self.config.width, device=self.bias.device)
        state: State = [(zero_NH, zero_NH)] * self.config.layers
        for step in range(steps):
            log_probs_NV, state = self._step(last_N, state)
            now = next_RT[live, step]
            found_RT[live, step] = log_probs_NV.cpu().numpy()[begun, now]
            goes_on = now != BORDER
            live = live[goes_on]
            key = begun[goes_on] * self.pieces.size + now[goes_on]
            distinct, begun = np.unique(key, return_inverse=True)
            from_N, last_N = (
                torch.from_numpy(part).to(self.bias.device) for part in np.divmod(distinct, self.pieces.size)
            )
            state = [(h_NH[from_N], c_NH[from_N]) for h_NH, c_NH in state]
        return [ln_T[: len(row) + 1] for ln_T, row in zip(found_RT, rows, strict=True)]

    def score(self, sentence: str) -> float:
        """log10 probability of the sentence with its end, comparable to that of an n-gram model."""
        return float(self.log_probs([sentence])[0]) / math.log(10)

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """The perplexity of a text per word, counting one end for each sentence.

        Words with characters that were not in the training text are out of vocabulary; without them means
        without `UNSEEN_LN` for each of these characters.

        Raises:
            LanguageModelError: no sentences, or one text instead of several.
        """
        check_sentences(sentences)
        ln = penalty = 0.0
        words = oov = count = 0
        for some in grouped(sentences, TOGETHER):
            ln += float(self.log_probs(some).sum())
            for word in composed(" ".join(some)).split():
                unseen = sum(c in strange for c in word) if (strange := self.pieces.missing(word)) else 0
                words, oov, penalty = words + 1, oov + (unseen > 0), penalty + UNSEEN_LN * unseen
            count += len(some)
        if not count:
            raise LanguageModelError("perplexity of an empty text: expected at least one sentence")
        return Perplexity(
            perplexity=per_word(-ln, words + count),
            perplexity_without_oov=per_word(penalty - ln, words + count),
            log10_prob=ln / math.log(10),
            words=words,
            oov=oov,
            sentences=count,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for a file of tensors; pieces and settings are JSON in UTF-8."""
        about = {"pieces": json.loads(self.pieces.to_json()), "config": asdict(self.config)}
        weights = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        return weights | {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "RecurrentModel":
        """The model that `to_arrays` gave.

        Raises:
            LanguageModelError: arrays that are missing or contradict each other.
        """
        try:
            about = json.loads(arrays["about"].tobytes())
            pieces = Alphabet.from_json(json.dumps(about["pieces"]))
            model = cls(pieces, RecurrentConfig(**about["config"]))
            weights = {name: torch.from_numpy(a.copy()) for name, a in arrays.items() if name != "about"}
            model.load_state_dict(weights)
        except (KeyError, ValueError, TypeError, RuntimeError, AlphabetError) as error:
            raise LanguageModelError(f"no recurrent language model in these arrays ({error})") from error
        return model.eval()

    def save(self, path: str | Path) -> None:
        """Write the model to a safetensors file, whole or not at all."""
        with whole_file(Path(path), "wb", error=LanguageModelError) as file:
            file.write(save(self.to_arrays()))

    @classmethod
    def load(cls, path: str | Path) -> "RecurrentModel":
        """The model in a file that `save` wrote.

        Raises:
            LanguageModelError: no such file, or another one.
        """
        try:
            return cls.from_arrays(load_file(path))
        except (OSError, SafetensorError, LanguageModelError) as error:
            raise LanguageModelError(f"{path}: no readable recurrent language model ({error})") from error
