"""Packed attention beside PyTorch's own, one sequence at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vlm2vec_service.engine.attention import Segments, packed_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5, 2, 300, 300, 700], [64, 63, 65, 1300]])
@pytest.mark.parametrize("key_heads", [6, 2])
def test_each_segment_attends_to_itself(
    lengths: list[int], causal: bool, key_heads: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    q, k, v = (
        torch.randn(1, total, heads, 16, generator=generator).to(dtype).transpose(1, 2)
        for heads in (6, key_heads, key_heads)
    )
    segments = Segments(lengths, causal, torch.device("cpu"))
    out, _ = packed_attention(nn.Identity(), q, k, v, None, 0.3, segments)
    expected = torch.cat(
        [
            F.scaled_dot_product_attention(
                a.float(), b.float(), c.float(), is_causal=causal, scale=0.3, enable_gqa=True
            )
            for a, b, c in zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
        ],
        dim=2,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert out.shape == (1, total, 6, 16)
    torch.testing.assert_close(
        out.float(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance
    )


def test_without_segments_a_batch_attends_fully() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8).unbind(0)
    out, _ = packed_attention(nn.Identity(), q, k, v, None)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_boundaries_and_runs() -> None:
    segments = Segments([3, 3, 2, 3], causal=True, device=torch.device("cpu"))
    assert segments.boundaries.tolist() == [0, 3, 6, 8, 11]
    assert segments.runs == [(0, 2, 3), (6, 1, 2), (8, 1, 3)]
