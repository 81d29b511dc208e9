"""The shape of the project: who may import whom, how large a file may be, what stands at the top level."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

import asr

ROOT = Path(__file__).parents[1]
ROOMS = (
    "errors",
    "files",
    "machine",
    "containers",
    "resampling",
    "audio",
    "voice",
    "segmentation",
    "espeak",
    "cmudict",
    "pronunciation",
    "normalisation",
    "text",
    "captions",
    "corpus",
    "spans",
    "filterbank",
    "features",
    "excerpts",
    "draws",
    "augmentation",
    "subsampling",
    "lstm",
    "regularisation",
    "encoder",
    "ensemble",
    "precision",
    "ctc",
    "lm",
    "decoding",
    "transcript",
    "scoring",
    "streaming",
    "pipeline",
    "bundle",
    "onnx_model",
    "recognizer",
    "training",
    "jobs",
    "serving",
    "lab",
    "options",
    "subcommands",
    "cli",
)
"""Each imports only from itself and from those before it, but `jobs`, which brings all but `cli` together."""
TOP_LEVEL = {"pyproject.toml", "asr", "conf", "recipes", "scripts", "tests", "README.md", "LICENSE"}
MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 60
CONFIGURATION = {"hydra", "omegaconf", "typer"}
SLOW_TO_IMPORT = ("torch", "torchaudio", "numba", "matplotlib", "librosa", "hydra", "omegaconf", "fastapi")
OPTIONAL = ("numba", "matplotlib", "librosa", "pyctcdecode", "tensorboard", "fastapi", "hydra", "typer")


@cache
def trees() -> list[tuple[Path, ast.Module]]:
    """Each source file, relative to the repository, with its syntax tree."""
    paths = sorted((ROOT / "asr").rglob("*.py"))
    return [(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def room_of(module: str) -> str:
    """`asr.corpus.packed` → `corpus`; the package itself, and whatever is not of it, has none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "asr" and len(parts) > 1 else ""


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a file imports, at its top or later.

    A text that spells a module of this package counts too: that is how modules are loaded by name.
    """
    package = path.with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if parts[0] == "asr" and len(parts) > 1 and all(part.isidentifier() for part in parts):
                yield node.lineno, node.value


def wrong_imports(path: Path, tree: ast.Module) -> list[str]:
    """What a file imports from rooms below its own, as messages."""
    room = room_of(".".join(path.with_suffix("").parts))
    allowed = set(ROOMS[:-1] if room == "jobs" else ROOMS[: ROOMS.index(room) + 1])
    found = [(line, name, room_of(name)) for line, name in imports(path, tree)]
    return [
        f"{path}:{line}: {name}: {room} may import from itself and from rooms above it only"
        for line, name, used in found
        if used and not used.startswith("__") and used not in allowed
    ]


def loaded_by(statement: str, watched: tuple[str, ...]) -> list[str]:
    """The watched packages that a fresh interpreter has loaded after the statement."""
    code = f"import sys\n{statement}\nprint(*[name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return done.stdout.split()


def test_every_module_is_in_a_room():
    homeless = [
        str(path)
        for path, _ in trees()
        if path != Path("asr/__init__.py") and room_of(".".join(path.with_suffix("").parts)) not in ROOMS
    ]
    assert homeless == [], "a new room needs its place in the order"


def test_rooms_import_only_from_rooms_above_them():
    assert [
        message
        for path, tree in trees()
        if path != Path("asr/__init__.py")
        for message in wrong_imports(path, tree)
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "import asr.encoder",
        "from asr import encoder",
        "from asr.encoder import Encoder",
        "from .. import encoder",
        "from ..encoder import Encoder",
        "def late():\n    from asr.encoder import Encoder",
        "load('asr.encoder')",
    ],
)
def test_an_import_from_below_is_found_however_it_is_written(source):
    below, above = Path("asr/corpus/packed.py"), Path("asr/training/loop.py")
    assert len(wrong_imports(below, ast.parse(source))) == 1
    assert wrong_imports(above, ast.parse(source)) == []


def test_the_version_and_the_own_room_may_be_imported_anywhere():
    source = "from asr import __version__\nfrom asr.text import normalise\nimport numpy.asr.cli"
    assert wrong_imports(Path("asr/text.py"), ast.parse(source)) == []


def test_only_jobs_and_the_command_know_hydra_and_typer():
    assert [
        f"{path}:{line}: {name}"
        for path, tree in trees()
        if path.parts[1] not in ("jobs", "options.py", "subcommands.py", "cli.py")
        for line, name in imports(path, tree)
        if name.split(".")[0] in CONFIGURATION
    ] == []


def test_there_is_no_drawer_for_odds_and_ends():
    names = {"utils", "util", "helpers", "misc", "common"}
    assert [str(path) for path, _ in trees() if names & set(path.with_suffix("").parts)] == []


def test_a_file_has_one_job_and_few_lines():
    sizes = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path, _ in trees()}
    assert {path: lines for path, lines in sizes.items() if lines > MOST_LINES} == {}


def test_a_function_reads_on_one_screen():
    functions = [
        (f"{path}:{node.lineno}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {name: lines for name, lines in functions if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_the_package_and_the_command_import_nothing_heavy():
    assert loaded_by("import asr, asr.cli", (*SLOW_TO_IMPORT, "asr")) == ["asr"]


def test_completion_offers_all_names_of_the_package_before_they_are_loaded():
    code = "import asr; names = dir(asr); print(*names); [getattr(asr, name) for name in names]"
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, encoding="utf-8").split()
    names = {*asr.__all__, "ctc", "decoding", "lab", "lm", "scoring", "corpus", "training", "serving"}
    assert names == {name for name in shown if not name.startswith("__")} | {"__version__"}


def test_rooms_import_no_optional_or_slow_package_before_it_is_needed():
    files = [path.with_suffix("").parts for path, _ in trees()]
    here = {parts[1] for parts in files if parts[-1] != "__init__" or len(parts) == 3}
    rooms = [
        f"asr.{room}" for room in ROOMS if room in here - {"jobs", "serving", "options", "subcommands", "cli"}
    ]
    assert loaded_by(f"import {', '.join(rooms)}", OPTIONAL) == []


def test_nothing_else_stands_at_the_top_level():
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    assert [
        path.name
        for path in sorted(ROOT.iterdir())
        if path.name not in TOP_LEVEL
        and not path.name.startswith(".")
        and not any(fnmatch(path.name, pattern) for pattern in ignored)
    ] == []
