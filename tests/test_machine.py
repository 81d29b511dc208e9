"""What is compiled for the processor's own instructions against plain arithmetic."""

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numba.core.caching import FunctionCache
from torch import Tensor

from asr.machine import compilation, instructions, products, rows, tiles, vectors
from asr.machine.instructions import has
from asr.machine.threads import each_alone

WAYS = {
    "tiles": pytest.param(
        tiles.pack, tiles.multiply, marks=pytest.mark.skipif(not tiles.AVAILABLE, reason="no AMX here")
    ),
    "vectors": pytest.param(
        vectors.pack,
        vectors.multiply,
        marks=pytest.mark.skipif(not vectors.AVAILABLE, reason="no AVX-512 BF16 here"),
    ),
    "plain": pytest.param(vectors.pack, products.multiply_plainly),
}
each_way = pytest.mark.parametrize(("pack", "multiply"), WAYS.values(), ids=WAYS)


def product(a_BK: Tensor, matrix_KN: Tensor, pack: object, multiply: object) -> np.ndarray:
    panels = pack(matrix_KN)
    out_BN = np.full((len(a_BK), len(panels) * products.COLUMNS), np.nan, np.float32)
    multiply(a_BK.view(torch.uint16).numpy(), panels, out_BN)
    return out_BN


@each_way
@pytest.mark.parametrize("columns", [1, 64, 130])
@pytest.mark.parametrize("inner", [32, 96])
def test_products_of_any_number_of_rows_are_right(inner, columns, pack, multiply):
    torch.manual_seed(inner + columns)
    matrix_KN = torch.randn(inner, columns).bfloat16()
    for batch in [*range(1, 14), 16, 17, 25, 31, 32, 33, 70]:
        a_BK = torch.randn(batch, inner).bfloat16()
        found_BN = product(a_BK, matrix_KN, pack, multiply)
        true_BN = (a_BK.double() @ matrix_KN.double()).numpy()
        np.testing.assert_allclose(found_BN[:, :columns], true_BN, rtol=1e-5, atol=1e-5)
        assert not found_BN[:, columns:].any()


@each_way
def test_what_is_not_a_number_or_infinite_stays_in_its_row(pack, multiply):
    a_BK = torch.ones(3, 32).bfloat16()
    a_BK[1, 2], a_BK[2, 0] = torch.nan, torch.inf
    found_BN = product(a_BK, torch.ones(32, 64).bfloat16(), pack, multiply)
    assert (found_BN[0] == 32).all() and np.isnan(found_BN[1]).all() and np.isposinf(found_BN[2]).all()


@pytest.mark.parametrize("columns", [16, 32, 48, 64, 80, 144])
def test_a_row_is_multiplied_by_a_matrix_of_any_number_of_vectors(columns):
    random = np.random.default_rng(columns)
    for depth in (4, 8, 44):
        row = random.normal(size=columns + 44).astype(np.float32)
        matrix = random.normal(size=(depth, columns)).astype(np.float32)
        found = np.full(columns, np.nan, np.float32)
        rows.multiply_row(row, matrix, found)
        np.testing.assert_allclose(found, row[:depth].astype(float) @ matrix, rtol=1e-4, atol=1e-5)


def test_numba_is_asked_which_instructions_it_compiles(monkeypatch):
    for name in ("CPU_NAME", "CPU_FEATURES"):
        monkeypatch.setattr(f"numba.config.{name}", None)
    monkeypatch.setattr(instructions, "get_host_cpu_features", lambda: "+this,-that")
    assert has("this") and not has("that") and not has("other")
    monkeypatch.setattr("numba.config.CPU_FEATURES", "+that,-this")
    assert has("that") and not has("this")
    monkeypatch.setattr("numba.config.CPU_FEATURES", None)
    monkeypatch.setattr("numba.config.CPU_NAME", "generic")
    assert not has("this")


def compiled_anew(folder: Path) -> Any:
    """A function of a file that is compiled by `kernel`, as a new process would load it."""
    (folder / "loops.py").write_text(
        "from asr.machine.compilation import kernel\n\n@kernel()\ndef double(x):\n    return 2 * x\n"
    )
    spec = importlib.util.spec_from_file_location("loops", folder / "loops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.double(2.5) == 5.0
    return module.double


def test_compiled_loops_are_kept_until_any_compiled_code_of_the_package_changes(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "asr.machine.compilation")
    monkeypatch.setattr(compilation._Kept, "is_told", False)
    assert not compiled_anew(tmp_path).stats.cache_hits
    assert "the first time only" in caplog.text
    caplog.clear()
    monkeypatch.setattr(compilation._Kept, "is_told", False)
    assert compiled_anew(tmp_path).stats.cache_hits
    assert not caplog.text
    monkeypatch.setattr(compilation, "_sources", lambda: "others")
    assert not compiled_anew(tmp_path).stats.cache_hits
    assert compiled_anew(tmp_path).stats.cache_hits


@pytest.mark.parametrize(
    ("method", "error"),
    [("__init__", RuntimeError("no locator available")), ("save_overload", OSError(28, "No space left"))],
)
def test_where_nothing_can_be_kept_loops_are_compiled_all_the_same(tmp_path, monkeypatch, method, error):
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(FunctionCache, method, fail)
    assert not compiled_anew(tmp_path).stats.cache_hits


def test_memory_that_was_freed_is_not_cleared_again() -> None:
    """Page faults of 64 MB that come and go ten times, in a process of its own, which stays so for good."""
    script = """
import resource, numpy as np
from asr.machine.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back, arranged = faults(), keep_freed()
faults()
print(given_back, arranged, faults())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    given_back, arranged, kept = run.stdout.split()
    if arranged == "False":
        pytest.skip("the C library is not glibc")
    assert int(given_back) > 200  # 320 pages of 2 MB, or many more of 4 kB
    assert int(kept) < int(given_back) / 5


def test_what_is_kept_in_fragments_is_given_back():
    """Half of 200 MB, every other block, is freed: it stays in the process until it is given back."""
    script = """
import numpy as np
from pathlib import Path
from asr.machine.memory import give_back, keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

arranged = keep_freed()
blocks = [np.ones(2**15) for _ in range(800)]
del blocks[::2]
kept = resident()
give_back()
print(arranged, kept - resident(), sum(map(np.sum, blocks)) == 400 * 2**15)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    arranged, returned, unharmed = run.stdout.split()
    if arranged == "False":
        pytest.skip("the C library is not glibc")
    assert int(returned) > 90e6 and unharmed == "True"


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_where_each_works_alone_torch_has_one_thread_and_elsewhere_as_many_as_before(three_threads):
    elsewhere: list[int] = []
    inside, both = threading.Event(), threading.Barrier(2)

    def work(i: int) -> tuple[int, int]:
        both.wait(10)  # they do run side by side
        torch.rand(100, 100).sum()
        if i:
            inside.wait(10)  # until a thread that was started meanwhile has looked
        else:
            later = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
            later.start()
            later.join()
            inside.set()
        return i, torch.get_num_threads()

    assert each_alone(work, 2) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == 3 and elsewhere == [3]


def test_what_fails_in_a_thread_of_its_own_fails_for_all(three_threads):
    with pytest.raises(ZeroDivisionError):
        each_alone(lambda i: 1 // i, 2)
    assert torch.get_num_threads() == 3
