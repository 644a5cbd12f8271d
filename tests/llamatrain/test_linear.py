"""The fast product gives what torch's gives, forwards and backwards, compiled too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamatrain import kernels
from llamatrain.linear import lay_side_by_side, linear, products, side_by_side

LIBRARIES = ["mkl", "onednn"] if kernels.has_onednn() else ["mkl"]


@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (0, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("library", LIBRARIES)
def test_equals_torch(shape: tuple[int, ...], dtype: torch.dtype, library: str) -> None:
    kernels.choose(library, {})
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
    frozen = [torch.nn.Parameter(torch.randn(4, 16), requires_grad=False) for _ in range(2)]
    lay_side_by_side(*frozen)
    sum(products(x, *frozen)).sum().backward()  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in frozen)
    with torch.no_grad():
        assert not linear(x, weight).requires_grad


def test_inputs_of_any_strides() -> None:
    x, weight = torch.randn(16, 6).t(), torch.randn(16, 24).t()
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_several_weights_equal_torch(together: bool, library: str) -> None:
    """Side by side or not; so do slopes that lie apart."""
    kernels.choose(library, {})
    x, sizes = torch.randn(2, 5, 16), (24, 8, 8)
    weights = [torch.nn.Parameter(torch.randn(size, 16)) for size in sizes]
    if together:
        lay_side_by_side(*weights)
    assert (side_by_side(tuple(weights), 0) is None) is not together
    results = []
    for ours in (True, False):
        a = x.clone().requires_grad_()
        outs = products(a, *weights) if ours else [F.linear(a, weight) for weight in weights]
        loss = sum((i + 1) * out.square().sum() for i, out in enumerate(outs))
        results.append([*(out.detach() for out in outs), *torch.autograd.grad(loss, (a, *weights))])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_side_by_side_is_a_view_of_what_lies_so() -> None:
    whole = torch.randn(10, 6)
    for parts, dim in ((whole.split([4, 6]), 0), (whole.t().split([4, 6], 1), 1), (whole.split([2, 4], 1), 1)):
        found = side_by_side(parts, dim)
        assert found is not None and torch.equal(found, torch.cat(parts, dim))
        assert found.data_ptr() == whole.data_ptr()
        assert side_by_side(parts[::-1], dim) is None
        assert side_by_side(tuple(part.clone() for part in parts), dim) is None


@pytest.mark.skipif(not kernels.has_onednn(), reason="this torch was built without oneDNN")
def test_the_name_that_the_compiler_sees_agrees_with_the_product() -> None:
    x, weight = torch.randn(2, 5, 16), torch.randn(24, 16)
    torch.library.opcheck(torch.ops.llamatrain.product, (x, weight), test_utils=("test_schema", "test_faketensor"))
    torch.testing.assert_close(torch.ops.llamatrain.product(x, weight), F.linear(x, weight))
