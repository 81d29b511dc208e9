"""A recipe: everything that determines a result, composed by Hydra from defaults, files and overrides.

The defaults are those of the dataclasses below and of those they refer to; `conf/` and `recipes/` state
differences only. A recipe is named by its path below a `recipes/` folder (one in the working directory, whose
recipes come first, or this project's), without `default.yaml`: `digits`, `digits/streaming`.
"""

import difflib
import functools
import json
import os
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from asr.augmentation import AugmentationConfig
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.files import expanded, home
from asr.jobs import explanation
from asr.jobs.console import say
from asr.jobs.settings import build, keys, schema
from asr.lm import RecurrentConfig
from asr.recognizer import DecoderConfig
from asr.training import TrainingConfig

_PATHS = ("data.root", "data.dir", "data.phones", "exp", "lm.arpa", "training.start_from")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


@dataclass
class DataConfig:
    """Which recordings, where they are, and how their text is processed."""

    source: str = "folder"
    """One of the corpora of `asr.corpus.SOURCES`."""
    root: str | None = None
    """Folder of the original corpus; None: in `dir`, downloaded or synthesised there if missing."""
    dir: str = "data"
    """Folder for downloads and packed corpora."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the source: held-out speakers, folders of a split, numbers of utterances …"""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further sources, each with its options (and `root`), whose training split is added to this one's. Their
    transcripts do not enter the language model."""
    style: Literal["none", "basic", "upper"] = "basic"
    """Normalisation of transcripts, see `asr.text.normalise`."""
    subwords: int | None = None
    """Number of byte-pair units; None: characters, or the outputs of `training.start_from`."""
    phones: str | None = None
    """Trains on phones: `cmudict` (American English), an espeak-ng voice (`en-us`), or a lexicon file."""
    min_s: float = 0.1
    max_s: float = 30.0
    """Training utterances shorter than min_s or longer than max_s are left out, and counted."""
    resident: Literal["auto", "never", "always"] = "auto"
    """Whether to hold all training samples in device memory; `auto`: on a GPU with enough free memory."""
    workers: int | None = None
    """Processes that decode audio while packing; None takes one per core."""


@dataclass
class LmConfig:
    """The language models that are stored in the bundle."""

    order: int = 0
    """Order of the n-gram model to train; 0 trains none."""
    text: list[str] = field(default_factory=list)
    """Files of additional sentences, one per line; the training transcripts of `data.source` always count."""
    arpa: str | None = None
    """An existing model, used unless `text` is given: an ARPA file, or the name of a published one, such as
    `librispeech-3gram`, which is downloaded once."""
    dictionary: bool = False
    """The model that is trained also has the words of the dictionary or lexicon file of `data.phones`, rare
    ones, so that they can be recognised though no sentence has them. (Voices of espeak-ng have none.)"""
    recurrent: RecurrentConfig = field(default_factory=RecurrentConfig)
    """An LSTM that judges the beam's hypotheses, trained on the same sentences if `decoder.rescore` is on."""


@dataclass
class Recipe:
    """The whole experiment."""

    name: str = "???"
    exp: str = "exp/${name}"
    """Folder of the experiment; the bundle is `<exp>/model`."""
    seed: int = 1
    members: int = 1
    """Number of models that are trained from different seeds and combined, see `asr.ensemble`."""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    lm: LmConfig = field(default_factory=LmConfig)


def names() -> list[str]:
    """All recipes that can be run from here, in alphabetical order."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    """The file of each recipe, by its name."""
    return {
        path.relative_to(folder).with_suffix("").as_posix().removesuffix("/default"): path
        for folder in reversed(list(_recipe_folders()))
        for path in folder.rglob("*.yaml")
    }


def _described() -> str:
    """A line for each recipe: its name, and what the comment at its top begins with."""
    files = _files()
    width, lines = max(map(len, files)) + 2, []
    for name, path in sorted(files.items()):
        text = path.read_text(encoding="utf-8", errors="replace")
        begun = re.search(r"^# (?!@)([^:.\n]*)", text, re.MULTILINE)
        lines.append(f"  {name:{width}}{begun.group(1) if begun else ''}".rstrip())
    return "\n".join(lines)


def _recipe_folders() -> Iterator[Path]:
    """Where recipes are; of two with the same name that in the first folder counts."""
    if (local := Path.cwd() / "recipes").is_dir() and local.resolve() != (home() / "recipes").resolve():
        yield local
    yield home() / "recipes"


def hydra_overrides(words: Sequence[str]) -> list[str]:
    """The words of the command line as Hydra overrides: the bare word, the recipe, becomes `recipes=…`.

    A manifest or a folder of recordings in place of the recipe means the recipe `folder` with it as root.

    Raises:
        ConfigError: no recipe, one that does not exist (with the closest that does), or two.
    """
    bare = [w for w in words if not re.match(r"^[~+]|.*=", w) or _is_place(w)]
    rest = [_quoted(w) for w in words if w not in bare]
    # The keys of these mappings belong to the sources: any may be set, and the source checks them.
    rest = ["++" + w if re.match(r"data\.(options|extra)[.=]", w) else w for w in rest]
    if len(bare) > 1:
        raise ConfigError(f"one recipe is expected, but {' and '.join(map(repr, bare))} were given")
    if bare:
        rest = _recipe_overrides(bare[0]) + rest
    elif not any(w.startswith("recipes=") for w in rest):
        raise ConfigError(f"no recipe given; the recipes are:\n{_described()}")
    return rest


def _is_place(word: str) -> bool:
    return word.startswith(("/", "./", "../", "~")) and os.path.exists(os.path.expanduser(word))  # noqa: PTH110, PTH111


def _quoted(word: str) -> str:
    """The override with its paths in quotes if they have characters that Hydra's grammar gives a meaning.

    >>> _quoted("data.root=/corpora/grüße (1)"), _quoted("exp=exp/a"), _quoted("exp=exp/a,exp/b")
    ('data.root="/corpora/grüße (1)"', 'exp=exp/a', 'exp=exp/a,exp/b')
    >>> _quoted("lm.text=[~/a.txt,b.txt]")
    'lm.text=["~/a.txt", "b.txt"]'
    """
    key, _, value = word.partition("=")
    is_plain = re.fullmatch(r"[\w./:%+@?|$*-]*", value, re.ASCII) or value[:1] in tuple("\"'[{")
    is_sweep = "," in value and not _is_place(value)
    if key == "lm.text" and (listed := re.fullmatch(r"\[([^][{}\"']*~[^][{}\"']*)\]", value)):
        return f"{key}={json.dumps([name.strip() for name in listed[1].split(',')], ensure_ascii=False)}"
    is_path = key in _PATHS or re.fullmatch(r"data\.extra\.\w+\.root", key)
    if not is_path or is_plain or is_sweep:
        return word
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _recipe_overrides(word: str) -> list[str]:
    known = names()
    if word in known:
        places = [(f, n) for f in _recipe_folders() for n in (f"{word}/default", word)]
        (place, name), *others = [(f, n) for f, n in places if (f / f"{n}.yaml").is_file()]
        if others:
            unused = " and ".join(str(f / f"{n}.yaml") for f, n in others)
            say(f"recipe {word}: {place / f'{name}.yaml'}, not {unused}")
        return [f"recipes={name}", f"name={word}"]
    path = Path(expanded(word))
    if path.suffix in MANIFEST_SUFFIXES or path.is_dir():
        if not path.exists():
            raise ConfigError(f"{word}: there is no such manifest")
        return [
            "recipes=folder/default",
            f"name={json.dumps(_slug(path), ensure_ascii=False)}",
            f"data.root={json.dumps(str(path.resolve()), ensure_ascii=False)}",
        ]
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the recipes are: {', '.join(known)}"
    raise ConfigError(f"there is no recipe {word!r}; {hint}")


def _slug(path: Path) -> str:
    path = path.resolve()
    return re.sub(r"[^\w.-]+", "_", path.name if path.is_dir() else path.stem) or "folder"


def register() -> dict[str, str]:
    """Register with Hydra the types of all keys, so that an unknown one is an error, and all recipes.

    Recipes are stored one by one, not through Hydra's search path: there, any folder beside `recipes/`, say
    `exp/`, would be taken for a config group.

    Returns what is wrong with each recipe that is not YAML, or a list; to compose one of these fails.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    store = ConfigStore.instance()
    store.store(name="schema", node=schema(Recipe))
    broken = {}
    for folder in reversed(list(_recipe_folders())):
        for path in sorted(folder.rglob("*.yaml")):
            group = Path("recipes", path.relative_to(folder)).parent.as_posix()
            try:
                node, wrong = OmegaConf.load(path), "expected keys and values, such as `seed: 2`, not a list"
            except (OSError, ValueError, yaml.YAMLError) as error:
                node, wrong = None, f"not a readable recipe ({error})"
            if not isinstance(node, DictConfig):
                broken[f"{group}/{path.stem}"] = f"{path}: {wrong}"
                node = OmegaConf.create({"broken": True})  # no key of a recipe
            store.store(group=group, name=path.stem, node=node, package="_global_")
    return broken


def compose(words: Sequence[str]) -> Recipe:
    """The recipe that the words of the command line describe.

    Args:
        words: a recipe name and Hydra overrides, in any order.

    Raises:
        ConfigError: an unknown recipe, key or value, with the closest that exists.
    """
    return from_hydra(composed(hydra_overrides(words)))


def composed(overrides: list[str]) -> Any:
    """The configuration that Hydra overrides describe, its choices unchecked; errors as for `compose`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    broken = register()
    try:
        with initialize_config_dir(str(home() / "conf"), version_base="1.3"):
            return hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        wrong = next((wrong for name, wrong in broken.items() if f"In '{name}'" in str(error)), None)
        raise ConfigError(wrong or explain(error)) from error
    except ValueError as error:  # a group of configurations that is given something else than a name
        for override in overrides:
            group = home() / "conf" / override.partition("=")[0].lstrip("+")
            if group.is_dir():
                known = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
                raise ConfigError(f"{override}: expected the name of a file in {group}: {known}") from error
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{overrides[0]}: a recipe is among its own defaults; give the one that builds on it another name"
        ) from error


def from_hydra(config: Any) -> Recipe:
    """The typed recipe of a configuration that Hydra composed; in paths `~` is the home folder.

    Raises:
        ConfigError: a value that is missing or not among the choices of its key, or no home folder.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        fields: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    if not fields["exp"]:
        raise ConfigError("exp= is empty: give the folder of the experiment, exp=FOLDER")
    paths = list(_PATHS)
    for name, options in fields["data"]["extra"].items():
        key = f"data.extra.{name}"
        if not isinstance(options or {}, dict):
            raise ConfigError(f"{key}={options}: expected options of that source, such as {key}.root=FOLDER")
        if options and not isinstance(options.get("root"), str | None):
            raise ConfigError(f"{key}.root={options['root']}: expected one path, or none")
        paths += [f"{key}.root"] if options else []
    for *sections, key in (path.split(".") for path in paths):
        section = functools.reduce(dict.__getitem__, sections, fields)
        if section.get(key):
            section[key] = expanded(section[key])
    fields["training"]["start_from"] = fields["training"]["start_from"] or None
    fields["lm"]["text"] = [expanded(name) for name in fields["lm"]["text"]]
    return typing.cast("Recipe", build(Recipe, fields))


def explain(error: Exception) -> str:
    """Hydra's message in one or two lines, with the closest key that exists."""
    return explanation.explain(error, known=list(keys(Recipe)), folders=list(_recipe_folders()))
