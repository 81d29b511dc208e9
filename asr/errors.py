"""Every error a user can cause or meet, as one tree to catch.

    AsrError
    ├── AudioError              a file that is not audio, is empty, or cannot be read
    ├── TextError               text that cannot be decoded, normalised or spelled
    │   └── AlphabetError       a symbol the alphabet lacks, or an alphabet that contradicts itself
    ├── CorpusError             a corpus that is missing, damaged, or too small for what is asked
    │   ├── ManifestError       a manifest line that is wrong: path, line number and the line itself
    │   └── DownloadError       a transfer that broke off, or whose checksum differs
    ├── ConfigError             a recipe or option that does not exist or has an impossible value
    ├── BundleError             a model that is truncated, foreign, or of another version
    ├── CtcError                log-probabilities or targets of the wrong shape, or a text that cannot fit
    ├── DecodingError           decoder input or settings that make no sense
    │   └── LanguageModelError  an n-gram model that is damaged or does not fit the alphabet
    ├── ScoringError            references and hypotheses that do not belong together
    ├── TrainingError           training that cannot start or continue
    └── ServingError            a request that the service must refuse

A message says what was given and where, what was expected, and what to do. The command line prints it
without a traceback; `--debug` shows the traceback.
"""

import re
from collections.abc import Callable

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class AsrError(Exception):
    """Base of all errors that `asr` raises on purpose."""


class AudioError(AsrError):
    """A file, buffer or stream that does not hold readable audio."""


class TextError(AsrError):
    """Text that cannot be decoded, normalised or spelled."""


class AlphabetError(TextError):
    """A symbol outside the alphabet, or an alphabet that contradicts itself."""


class CorpusError(AsrError):
    """A corpus that is missing, damaged or too small."""


class ManifestError(CorpusError):
    """A manifest line that is wrong."""


class DownloadError(CorpusError):
    """A transfer that broke off, or whose checksum differs."""


class ConfigError(AsrError):
    """A recipe, key or value that does not exist or cannot work."""


class BundleError(AsrError):
    """A model bundle that is truncated, foreign or of another version."""


class CtcError(AsrError):
    """Log-probabilities or targets of the wrong shape, or a text that cannot fit."""


class DecodingError(AsrError):
    """Decoder input or settings that make no sense."""


class LanguageModelError(DecodingError):
    """An n-gram model that is damaged or does not fit the alphabet."""


class ScoringError(AsrError):
    """References and hypotheses that do not belong together."""


class TrainingError(AsrError):
    """Training that cannot start or continue."""


class ServingError(AsrError):
    """A request that the service must refuse."""


def how_to_install(extra: str) -> str:
    """The command that installs the packages of one of this project's extras, by their own names.

    `pip install 'asr[extra]'` could bring an unrelated project, which has this name in the registry.
    """
    from importlib import metadata  # slow to import

    try:
        required = metadata.requires("asr") or []
    except metadata.PackageNotFoundError:  # run from its sources
        required = []
    packages = [r.split(";")[0].strip() for r in required if f"extra == '{extra}'" in r.replace('"', "'")]
    return " ".join(["pip install", *(f"'{p}'" for p in packages or [f".[{extra}]"])])


def visible(text: str) -> str:
    """The text with control characters escaped, so that what is quoted from a file commands no terminal.

    >>> visible("a\\tb\\x1b[31m")
    'a\\tb\\\\x1b[31m'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def demands_of(section: str, settings: object) -> Callable[[bool, str, str], None]:
    """`demand(holds, names, expected)`: raises ConfigError with the values of these settings unless it holds.

    >>> from types import SimpleNamespace
    >>> demand = demands_of("encoder", SimpleNamespace(layers=0))
    >>> demand(False, "layers", "at least 1")
    Traceback (most recent call last):
    asr.errors.ConfigError: encoder.layers=0: expected at least 1
    """

    def demand(holds: bool, names: str, expected: str) -> None:
        if holds:
            return
        values = {name: getattr(settings, name) for name in names.split()}
        given = (
            f"{section}.{k}={v!r}" if isinstance(v, str) else f"{section}.{k}={v}" for k, v in values.items()
        )
        raise ConfigError(f"{', '.join(given)}: expected {expected}")

    return demand
