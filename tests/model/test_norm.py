"""RMSNorm against its plain form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamatrain.model.norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_casts_back_before_it_scales(dtype: torch.dtype) -> None:
    norm = RMSNorm(64, 1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = (3 * torch.randn(50, 64)).to(dtype)
    wide_x = x.float()
    expected = (wide_x * torch.rsqrt(wide_x.pow(2).mean(-1, keepdim=True) + 1e-5)).to(dtype) * norm.weight
    if dtype == torch.float32:
        torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=1e-6)
    else:  # the last bit of float32 may differ, which one rounding in some thousands shows
        assert (norm(x) == expected).float().mean() > 0.999


def test_gradients_equal_autograds_own() -> None:
    norm = RMSNorm(64, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = (3 * torch.randn(2, 25, 64)).requires_grad_()
    slope = torch.randn(2, 25, 64)
    expected = torch.autograd.grad(F.rms_norm(x, (64,), norm.weight, 1e-5), (x, norm.weight), slope)
    for found, wanted in zip(torch.autograd.grad(norm(x), (x, norm.weight), slope), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
