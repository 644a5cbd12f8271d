"""The fast product gives what torch's gives, forwards and backwards, compiled too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamatrain import linear as module
from llamatrain.linear import linear


@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (0, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(24, 16, dtype=dtype)
    found, wanted = [], []
    for product, results in ((linear, found), (F.linear, wanted)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = product(a, b)
        out.square().sum().backward()
        results += [out.detach(), a.grad, b.grad]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(3, 16, requires_grad=True), torch.randn(4, 16)
    linear(x, weight).sum().backward()
    assert x.grad is not None and weight.grad is None
    with torch.no_grad():
        assert not linear(x, weight).requires_grad


def test_inputs_of_any_strides() -> None:
    x, weight = torch.randn(16, 6).t(), torch.randn(16, 24).t()
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.skipif(not module._ONEDNN, reason="this torch was built without oneDNN")
def test_the_names_that_the_compiler_sees_agree_with_the_products() -> None:
    x, weight, slope = torch.randn(2, 5, 16), torch.randn(24, 16), torch.randn(10, 24)
    torch.library.opcheck(torch.ops.llamatrain.product, (x, weight), test_utils=("test_schema", "test_faketensor"))
    flat = x.reshape(10, 16)
    torch.library.opcheck(
        torch.ops.llamatrain.weight_product, (slope, flat), test_utils=("test_schema", "test_faketensor")
    )
    torch.testing.assert_close(torch.ops.llamatrain.weight_product(slope, flat), slope.t() @ flat)
