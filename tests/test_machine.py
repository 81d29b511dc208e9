"""What is compiled for the processor's own instructions against plain arithmetic."""

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.machine import products


def product(a_BK: Tensor, matrix_KN: Tensor, multiply: object) -> np.ndarray:
    panels = products.pack(matrix_KN)
    out_BN = np.full((len(a_BK), len(panels) * products.COLUMNS), np.nan, np.float32)
    multiply(a_BK.view(torch.uint16).numpy(), panels, out_BN)
    return out_BN


@pytest.mark.parametrize("multiply", [products.multiply, products.multiply_plainly])
@pytest.mark.parametrize("columns", [1, 64, 130])
@pytest.mark.parametrize("inner", [2, 34])
def test_products_of_any_number_of_rows_are_right(inner, columns, multiply):
    torch.manual_seed(inner + columns)
    matrix_KN = torch.randn(inner, columns).bfloat16()
    for batch in [*range(1, 14), 25]:
        a_BK = torch.randn(batch, inner).bfloat16()
        found_BN = product(a_BK, matrix_KN, multiply)
        true_BN = (a_BK.double() @ matrix_KN.double()).numpy()
        np.testing.assert_allclose(found_BN[:, :columns], true_BN, rtol=1e-5, atol=1e-5)
        assert not found_BN[:, columns:].any()


def test_what_is_not_a_number_or_infinite_stays_in_its_row():
    a_BK = torch.ones(3, 4).bfloat16()
    a_BK[1, 2], a_BK[2, 0] = torch.nan, torch.inf
    found_BN = product(a_BK, torch.ones(4, 64).bfloat16(), products.multiply)
    assert (found_BN[0] == 4).all() and np.isnan(found_BN[1]).all() and np.isposinf(found_BN[2]).all()
