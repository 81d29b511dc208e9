"""Recordings on disk → packed corpus → batches; and the corpora that are known by name.

A source is a module with `prepare(root, *, progress=None, **options)`, which returns the utterances of each
split with absolute paths and the published transcripts. It uses what is below `root` and downloads what is
missing, if the corpus can be downloaded. Adding a source takes one file and one line here.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from asr.corpus.manifest import Utterance
from asr.corpus.split import check_known, nearest
from asr.errors import ConfigError
from asr.files import expanded

SOURCES: dict[str, str] = {
    "an4": "asr.corpus.an4",
    "commonvoice": "asr.corpus.commonvoice",
    "folder": "asr.corpus.folder",
    "fsdd": "asr.corpus.fsdd",
    "librispeech": "asr.corpus.librispeech",
    "synthetic": "asr.corpus.synthetic",
    "yesno": "asr.corpus.yesno",
}
"""Name of each source and its module."""


def prepare(
    source: str, root: Path, *, progress: Callable[[int, int], None] | None = None, **options: Any
) -> dict[str, list[Utterance]]:
    """The utterances of each split of a corpus; whatever is missing is downloaded into `root`.

    Args:
        source: one of `SOURCES`.
        root: folder of the corpus, or for `folder` also a manifest.
        progress: called with (done, total), in the source's own unit (bytes when downloading).
        options: those of the source's `prepare`.

    Raises:
        ConfigError: no such source, or no such option of it.
        CorpusError: the corpus is missing or damaged and cannot be fetched.
    """
    check_known([source], SOURCES, what="corpus")
    module = import_module(SOURCES[source])
    known = [
        name for name in inspect.signature(module.prepare).parameters if name not in ("root", "progress")
    ]
    for name in options:
        if name not in known:
            raise ConfigError(f"{source} has no option {name!r}; {nearest(name, known)}")
    root = Path(expanded(str(root)))
    found: dict[str, list[Utterance]] = module.prepare(root, progress=progress, **options)
    return found
