"""Language models: word n-grams, trained from text, read and written as ARPA; recurrent ones, which rescore.

>>> import asr.lm
>>> model = asr.lm.train(["a b", "a b c", "b a"], order=2)
>>> model.order, model.vocabulary
(2, ['<unk>', '<s>', '</s>', 'a', 'b', 'c'])
>>> model.score("a b") > model.score("b c")
True
"""

from asr.lm.arpa import load
from asr.lm.interpolation import best_share, interpolate
from asr.lm.kneser_ney import MAX_ORDER, train
from asr.lm.learning import Report
from asr.lm.learning import train as train_recurrent
from asr.lm.mixture import SentenceModel, Steps, by_words, mixed
from asr.lm.ngram import NGramModel, Perplexity
from asr.lm.recurrent import RecurrentConfig, RecurrentModel
from asr.lm.texts import UNREADABLE, open_bytes, read_sentences

__all__ = [
    "MAX_ORDER",
    "UNREADABLE",
    "NGramModel",
    "Perplexity",
    "RecurrentConfig",
    "RecurrentModel",
    "Report",
    "SentenceModel",
    "Steps",
    "best_share",
    "by_words",
    "interpolate",
    "load",
    "mixed",
    "open_bytes",
    "read_sentences",
    "train",
    "train_recurrent",
]
