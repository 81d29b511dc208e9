"""N-gram models as ARPA files: reading is strict and names the line, writing is reproducible.

The format: after `\\data\\` a count for each order, then one section `\\n-grams:` per order with lines of
log10 probability, words, log10 back-off weight, then `\\end\\`. Common variations are accepted: tabs or
spaces, back-off weights left out, `<UNK>` in capitals, notes before `\\data\\`.
"""

import bz2
import codecs
import gzip
import logging
import lzma
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from asr.errors import LanguageModelError
from asr.files import whole_file
from asr.lm.ngram import END, START, UNKNOWN, NGramModel
from asr.lm.texts import UNREADABLE, open_bytes

_log = logging.getLogger(__name__)
_LINES_AT_ONCE = 1 << 16
_IMPOSSIBLE = -100.0  # log10 probability for −∞, and of <unk> in a model that has none, as KenLM takes it
_UNKNOWN_SPELLINGS = (UNKNOWN.encode(), b"<UNK>")


def load(path: str | Path) -> NGramModel:
    """The model of an ARPA file, plain or compressed (gzip, bzip2, xz); `-` is standard input.

    Raises:
        LanguageModelError: a missing, truncated or malformed file: counts that do not agree, a missing
            section, <s> or </s>, a probability above 1 or not a number, a duplicate n-gram, or one whose
            context is not in the model. The message has path, line number and line.
    """
    lines = _Lines(path)
    try:
        with open_bytes(path) as file:
            lines.file = file
            return _read(lines)
    except FileNotFoundError as error:
        raise LanguageModelError(f"{path} does not exist; an ARPA file was expected") from error
    except IsADirectoryError as error:
        raise LanguageModelError(f"{path} is a folder; an ARPA file was expected") from error
    except UNREADABLE as error:
        raise LanguageModelError(f"{path}, after line {lines.number}: cannot be read ({error})") from error


class _Lines:
    """The lines of a file with their numbers, for error messages."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.number = 0  # of the line read last
        self.file: IO[bytes]

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines, or what is left."""
        lines = list(islice(self.file, count))
        if lines and not self.number:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        self.number += len(lines)
        return lines

    def next_filled(self) -> bytes:
        """The next line that is not blank, stripped; b"" at the end of the file."""
        while lines := self.take(1):
            if line := lines[0].strip():
                return line
        return b""

    def fail(self, what: str, line: bytes = b"", *, number: int | None = None) -> NoReturn:
        shown = f": {line.decode(errors='replace').rstrip()[:100]!r}" if line else ""
        raise LanguageModelError(f"{self.path}, line {number or self.number}: {what}{shown}")


def _read(lines: _Lines) -> NGramModel:
    counts, line = _read_counts(lines)
    trie = _Trie(lines)
    for n, count in enumerate(counts, start=1):
        if line.lower() != b"\\%d-grams:" % n:
            lines.fail(f"expected \\{n}-grams: after {counts[n - 2] if n > 1 else 0} {n - 1}-grams", line)
        trie.add(n, count, has_backoffs=n < len(counts))
        line = lines.next_filled()
    if line.lower() != b"\\end\\":
        lines.fail(
            f"expected \\end\\ after {counts[-1]} {len(counts)}-grams; the file is cut or its count wrong",
            line,
        )
    return trie.model()


def _read_counts(lines: _Lines) -> tuple[list[int], bytes]:
    """(declared number of n-grams of each order, the line after them)."""
    while (line := lines.next_filled()).lower() != b"\\data\\":
        if not line:
            lines.fail("no \\data\\ up to the end of the file; expected an ARPA language model")
    counts: list[int] = []
    while not (line := lines.next_filled()).startswith(b"\\"):
        match = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d+)", line)
        if not match or int(match[1]) != len(counts) + 1:
            lines.fail(f"expected 'ngram {len(counts) + 1}=<count>'", line or b"end of file")
        counts.append(int(match[2]))
    if not counts:
        lines.fail("no 'ngram 1=<count>' after \\data\\", line)
    return counts, line


class _Trie:
    """The orders read so far, each sorted by (context, last word)."""

    def __init__(self, lines: _Lines) -> None:
        self.lines = lines
        self.vocabulary: list[bytes] = []
        self.ids: dict[bytes, int] = {}
        self.counts: list[int] = []
        self.keys: list[np.ndarray] = []  # per order: context × vocabulary + word, increasing
        self.parts: list[dict[str, np.ndarray]] = []

    def add(self, n: int, count: int, *, has_backoffs: bool) -> None:
        """Read the n-grams of order n."""
        first_line = self.lines.number + 1
        chunks = [
            self._parse(n, min(_LINES_AT_ONCE, count - done), count, has_backoffs=has_backoffs)
            for done in range(0, max(count, 1), _LINES_AT_ONCE)
        ]
        probs, ids, backoffs = (np.concatenate(columns) for columns in zip(*chunks, strict=True))
        if n == 1 and UNKNOWN.encode() not in self.ids:
            what = self.lines.path, UNKNOWN, _IMPOSSIBLE
            _log.warning("%s has no %s; its log10 probability is taken to be %g", *what)
            ids = np.append(ids, np.array([[len(self.vocabulary)]], np.int32), axis=0)
            probs, backoffs = np.append(probs, np.float32(_IMPOSSIBLE)), np.append(backoffs, np.float32(0))
            self.ids[UNKNOWN.encode()] = len(self.vocabulary)
            self.vocabulary.append(UNKNOWN.encode())
        parents = self._contexts(ids, first_line)
        keys = parents.astype(np.int64) * len(self.vocabulary) + ids[:, -1]
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if len(twice := np.flatnonzero(keys[1:] == keys[:-1])):
            row = int(by_key[twice[0] + 1])
            words = b" ".join(self.vocabulary[i] for i in ids[row])
            self.lines.fail(
                f"the {n}-gram stands in the file for the second time", words, number=first_line + row
            )
        self.counts.append(len(keys))
        self.keys.append(keys)
        columns = {"parents": parents, "words": ids[:, -1], "log10_probs": probs, "backoffs": backoffs}
        self.parts.append({name: column[by_key] for name, column in columns.items()})

    def _parse(
        self, n: int, wanted: int, count: int, *, has_backoffs: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log10 probabilities (R,), word ids (R, n) and back-offs (R,) of the next `wanted` lines."""
        begin = self.lines.number + 1
        lines = self.lines.take(wanted)
        width = n + 1 + has_backoffs
        flat = _fields_if_complete(lines, width) or self._fields(lines, begin, n, count, width=width)
        if len(lines) < wanted:
            self.lines.fail(f"the file ends before all of {count} {n}-grams were read; it was cut")
        probs = self._numbers(flat[::width], lines, begin, highest=0.0)
        backoffs = self._numbers(flat[n + 1 :: width], lines, begin) if has_backoffs else np.zeros_like(probs)
        if n == 1:
            self._learn_words(flat[1::width], lines, begin)
        ids = np.empty((len(lines), n), dtype=np.int32)
        for k in range(n):
            ids[:, k] = [self.ids.get(word, -1) for word in flat[1 + k :: width]]
        if len(at := np.flatnonzero((ids < 0).any(axis=1))):
            self.lines.fail("a word that is not among the 1-grams", lines[at[0]], number=begin + int(at[0]))
        return probs, ids, backoffs

    def _fields(self, lines: list[bytes], begin: int, n: int, count: int, *, width: int) -> list[bytes]:
        """All fields, line after line; a back-off weight that is left out becomes 0."""
        rows = list(map(bytes.split, lines))
        for i, row in enumerate(rows):
            if len(row) == n + 1 < width:
                row.append(b"0")
            elif len(row) == n + 2 > width and _float_or_nan(row[-1]) == 0:  # some write it for all orders
                row.pop()
            if len(row) != width:
                self._blame_row(lines[i], begin + i, n, count)
        return list(chain.from_iterable(rows))

    def _blame_row(self, line: bytes, number: int, n: int, count: int) -> NoReturn:
        if not line.strip() or line.startswith(b"\\"):
            self.lines.fail(
                f"the header declares {count} {n}-grams, but there are fewer", line.strip(), number=number
            )
        self.lines.fail(
            f"expected log10 probability, {n} word{'s' * (n > 1)} and perhaps a back-off weight",
            line,
            number=number,
        )

    def _numbers(
        self, column: list[bytes], lines: list[bytes], begin: int, *, highest: float = np.inf
    ) -> np.ndarray:
        """The column as float32, finite and not above `highest`; a probability of zero is next to nothing."""
        try:
            values = np.fromiter(map(float, column), dtype=np.float64, count=len(column))
        except ValueError:
            values = np.array([_float_or_nan(text) for text in column])
        if highest == 0:
            values[np.isneginf(values)] = _IMPOSSIBLE
        if len(at := np.flatnonzero(~(np.isfinite(values) & (values <= highest)))):
            what = "log10 probability, at most 0" if highest == 0 else "back-off weight"
            text = column[at[0]].decode(errors="replace")
            self.lines.fail(f"{text} is no {what}", lines[at[0]], number=begin + int(at[0]))
        return values.astype(np.float32)

    def _learn_words(self, words: list[bytes], lines: list[bytes], begin: int) -> None:
        for i, word in enumerate(words):
            if word in self.ids:
                self.lines.fail(
                    "the word stands among the 1-grams for the second time", lines[i], number=begin + i
                )
            for spelling in _UNKNOWN_SPELLINGS if word in _UNKNOWN_SPELLINGS else (word,):
                self.ids[spelling] = len(self.vocabulary)
            self.vocabulary.append(UNKNOWN.encode() if word in _UNKNOWN_SPELLINGS else word)

    def _contexts(self, ids: np.ndarray, first_line: int) -> np.ndarray:
        """Index of the context w₁ … wₙ₋₁ of each n-gram within the order below."""
        if ids.shape[1] == 1:
            return np.zeros(len(ids), dtype=np.int64)
        nodes = ids[:, 0].astype(np.int64)
        for k in range(1, ids.shape[1] - 1):
            wanted, keys = nodes * len(self.vocabulary) + ids[:, k], self.keys[k]
            nodes = np.searchsorted(keys, wanted)
            absent = nodes == len(keys)
            absent[~absent] = keys[nodes[~absent]] != wanted[~absent]
            if len(at := np.flatnonzero(absent)):
                words = b" ".join(self.vocabulary[i] for i in ids[at[0]])
                self.lines.fail(
                    f"the first {k + 1} words are no {k + 1}-gram of the model",
                    words,
                    number=first_line + int(at[0]),
                )
        return nodes

    def model(self) -> NGramModel:
        words = self._decoded_vocabulary()
        for special in (START, END):
            if special.encode() not in self.ids:
                self.lines.fail(f"the 1-grams lack {special}; add it with a log10 probability (say -100)")
        bases = np.cumsum([0, 1, *self.counts])
        columns = {name: [np.zeros(1, dtype=a.dtype)] for name, a in self.parts[0].items()}
        for n, part in enumerate(self.parts):
            for name, column in part.items():
                columns[name].append(column + bases[n] if name == "parents" else column)
        return NGramModel(words, self.counts, **{name: np.concatenate(c) for name, c in columns.items()})

    def _decoded_vocabulary(self) -> list[str]:
        words = []
        for word in self.vocabulary:
            try:
                words.append(word.decode())
            except UnicodeDecodeError as error:
                raise LanguageModelError(
                    f"{self.lines.path}: the 1-gram {word!r} is not UTF-8 ({error.reason}); convert the file"
                ) from error
        return words


def _fields_if_complete(lines: list[bytes], width: int) -> list[bytes]:
    """All fields if each line has `width` of them, else []; all lines are split at once."""
    flat = b"".join(lines).replace(b"\n", b" \0 ").split()
    if len(flat) != len(lines) * (width + 1) or set(flat[width :: width + 1]) != {b"\0"}:
        return []
    del flat[width :: width + 1]
    return flat


def _float_or_nan(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def write(model: NGramModel, path: str | Path) -> None:
    """Write the model as ARPA, compressed according to the suffix; the file appears when it is complete.

    The path `-` is standard output.

    Raises:
        LanguageModelError: a path that cannot be written.
    """
    path = Path(path)
    whole = whole_file(path, "wb", error=LanguageModelError)
    with (
        nullcontext(sys.stdout.buffer) if str(path) == "-" else whole as raw,
        _compressor(raw, path.suffix.lower()) as file,
    ):
        for block in _blocks(model):
            file.write(block.encode())


def _compressor(raw: IO[bytes], suffix: str) -> Any:
    """A writer whose bytes depend only on what is written: no time stamp, no name."""
    if suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0)
    if suffix == ".bz2":
        return bz2.BZ2File(raw, "wb")
    return lzma.LZMAFile(raw, "wb") if suffix == ".xz" else nullcontext(raw)


def _blocks(model: NGramModel) -> Iterator[str]:
    yield "\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(model.counts, start=1))
    vocabulary = np.array(model.vocabulary, dtype=object)
    for n in range(1, model.order + 1):
        yield f"\n\\{n}-grams:\n"
        for start in range(int(model.bases[n - 1]), int(model.bases[n]), _LINES_AT_ONCE):
            nodes = np.arange(start, min(start + _LINES_AT_ONCE, int(model.bases[n])))
            columns = [_texts(model.log10_probs[nodes])]
            if n < model.order:
                columns.append(_texts(model.backoffs[nodes]))
            for _ in range(n):
                columns.insert(1, vocabulary[model.words[nodes]].tolist())
                nodes = model.parents[nodes]
            line = "%s\t" + " ".join(["%s"] * n) + ("\t%s\n" if n < model.order else "\n")
            yield "".join(map(line.__mod__, zip(*columns, strict=True)))
    yield "\n\\end\\\n"


def _texts(values: np.ndarray) -> list[str]:
    """The shortest decimals that read back as the same float32."""
    return (values + np.float32(0)).astype("U16").tolist()  # + 0 turns −0 into 0
