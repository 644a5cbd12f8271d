"""A batch as a line of tokens: where they stand, and that losses and gradients are those of padded rows with masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llamatrain.model import attention, transformer
from llamatrain.model.config import ModelConfig
from llamatrain.model.line import BRANCH, Line, worth_a_line
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import FeedForward, Transformer

from .test_transformer import tokens, wide


def batch(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, positions and segments (5, length): several segments; padding behind, and before; branches; short ones."""
    ids = tokens(5, length)
    segments = torch.zeros_like(ids)
    segments[0, :50], segments[0, 50:120], segments[0, 120:] = 1, 2, 3
    segments[1, : length // 2] = 1
    segments[2, 30:] = 1
    segments[3, :40], segments[3, 40:70], segments[3, 70:100], segments[3, 100:130] = 1, 1 + BRANCH, 1 + 2 * BRANCH, 2
    segments[4, 0], segments[4, 1:3] = 1, 2
    positions = torch.zeros_like(ids)
    for row, ids_of_row in enumerate(segments):
        for segment in ids_of_row.unique().tolist():
            own = ids_of_row == segment
            before = int((ids_of_row == segment % BRANCH).sum()) if segment >= BRANCH else 0
            positions[row, own] = before + torch.arange(int(own.sum()))
    return ids, positions, segments


def test_segments_of_about_one_length_are_a_group() -> None:
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [0, 1, 1, 1 + BRANCH, 1 + 2 * BRANCH, 1 + 2 * BRANCH]])
    line = Line(segments)
    assert line.tokens.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert line.groups == [(3, 5)]
    assert line.slots.view(3, 5).tolist() == [[0, 1, 0, 0, 0], [2, 3, 4, 0, 0], [5, 6, 7, 8, 9]]
    assert line.empty.tolist() == [2, 3, 4, 8, 9]
    assert line.slots[line.slot_of].tolist() == list(range(10))
    (found,) = line.segments(segments)
    apart = [1, 1, 1 + BRANCH, 1 + 2 * BRANCH, 1 + 2 * BRANCH]
    assert found.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], apart]
    (positions,) = line.positions(torch.tensor([[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 2, 3]]))
    assert positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 2, 3]]
    assert line.places_of(torch.tensor([4, 11, 5])).tolist() == [4, 9, -1]
    values = torch.arange(1.0, 11)[:, None]
    assert line.lay_out(values)[..., 0].tolist() == [[1, 2, 3, 4, 5, 0], [0, 6, 7, 8, 9, 10]]
    assert [group[1] for group in Line(torch.ones(1, 300).long().cumsum(1).div(100).ceil().long()).groups] == [100]


def test_it_serves_where_there_is_something_to_gain() -> None:
    assert worth_a_line(torch.tensor([[1, 1, 2]]))
    assert worth_a_line(torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert not worth_a_line(torch.ones(2, 3, dtype=torch.int64))
    assert not worth_a_line(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("length", [150, 600])
@pytest.mark.parametrize("selected", [None, 2, 20])
def test_it_gives_what_masks_give(
    monkeypatch: pytest.MonkeyPatch, model_config: ModelConfig, length: int, selected: int | None
) -> None:
    """Logits with and without gradients, and the gradients, at all tokens or every n-th; rows in blocks and by torch's kernel."""
    ids, positions, segments = batch(length)
    real = segments.flatten().nonzero().squeeze(1)
    select = None if selected is None else real[::selected]
    results = []
    for as_line in (False, True):
        monkeypatch.setattr(attention, "worth_a_line", lambda _, as_line=as_line: as_line)
        model = wide(model_config, n_kv_heads=2, max_seq_len=length)
        logits = model(ids, positions, segments, select=select)
        logits = logits if selected else logits.flatten(0, 1)[real]
        logits.logsumexp(-1).sum().backward()
        with torch.no_grad():
            again = model(ids, positions, segments, select=real)
        results.append([logits.detach(), again, *(parameter.grad for parameter in model.parameters())])
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_padding_cannot_be_read(model_config: ModelConfig) -> None:
    ids, positions, segments = batch(150)
    padding = (segments == 0).flatten().nonzero().squeeze(1)
    with pytest.raises(IndexError):
        Transformer(model_config, seed=0)(ids, positions, segments, select=padding[:1])


def test_its_products_are_of_real_tokens_alone(model_config: ModelConfig) -> None:
    ids, positions, segments = batch(150)
    model, seen = Transformer(model_config, seed=0), list[int]()
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.register_forward_hook(lambda _, given, out: seen.append(given[0].numel() // model_config.dim))
    real = segments.flatten().nonzero().squeeze(1)
    model(ids, positions, segments, select=real[:7])
    assert seen == [len(real)] * (model_config.n_layers - 1) + [7]
    seen.clear()
    model.model.through = lambda *given: transformer._through(
        *given
    )  # as a compiled layer, for which lengths must not vary
    model(ids, positions, segments)
    assert seen == [5 * 150] * model_config.n_layers


def test_scores_are_read_where_they_are_asked_for(model_config: ModelConfig) -> None:
    ids, positions, segments = batch(150)
    model = ScalarModel(model_config, seed=0)
    ends = torch.tensor([49, 119, 149, 224])
    with torch.no_grad():
        whole, read = model(ids, positions, segments), model(ids, positions, segments, select=ends)
    torch.testing.assert_close(read, whole.flatten()[ends])
    nothing = torch.zeros(2, 4, dtype=torch.int64)  # a rank that is left without pairs
    model(nothing, nothing, nothing, select=torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
