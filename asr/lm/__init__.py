"""Word n-gram language models: trained from text, read and written as ARPA, scored.

>>> import asr.lm
>>> model = asr.lm.train(["a b", "a b c", "b a"], order=2)
>>> model.order, model.vocabulary
(2, ['<unk>', '<s>', '</s>', 'a', 'b', 'c'])
>>> model.score("a b") > model.score("b c")
True
"""

from asr.lm.arpa import load
from asr.lm.kneser_ney import train
from asr.lm.ngram import NGramModel, Perplexity
from asr.lm.texts import read_sentences

__all__ = ["NGramModel", "Perplexity", "load", "read_sentences", "train"]
