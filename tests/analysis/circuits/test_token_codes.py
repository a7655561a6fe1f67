"""How vectors code a token, on codes that are planted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.analysis.circuits.token_codes import token_code
from sae.registry import UserError


def planted(dimensions: int, noise: float, n: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of 12 dimensions that code 20 tokens in some of them, their tokens, and the directions of the code."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=draw)).Q[:, :dimensions].T
    code = torch.linalg.qr(torch.randn(20, dimensions, generator=draw)).Q * 20**0.5
    tokens = torch.randint(20, (n,), generator=draw)
    return code[tokens] @ directions + noise * torch.randn(n, 12, generator=draw), tokens, directions


def halves(x: Tensor, tokens: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    n = len(x) // 2
    return (x[:n], tokens[:n]), (x[n:], tokens[n:])


@pytest.mark.parametrize("dimensions", [3, 6])
def test_a_planted_code_has_its_dimensions_and_directions(dimensions: int):
    x, tokens, directions = planted(dimensions, 0.3, 8000)
    code = token_code(*halves(x, tokens), ranks=(1, dimensions, 12))
    assert code.dimensions == pytest.approx(dimensions, rel=0.1)
    told = code.accuracy[dimensions]
    assert told > code.accuracy[1] + 0.2 and told == pytest.approx(code.accuracy[12], abs=0.02), "nothing is elsewhere"
    assert code.random_accuracy[dimensions] < told - 0.04
    assert code.random_accuracy[12] == pytest.approx(code.accuracy[12], abs=1e-9), "all directions are all directions"
    found = code.directions[:dimensions]
    assert float((directions @ found.T).square().sum()) == pytest.approx(dimensions, rel=1e-2)
    torch.testing.assert_close(found @ found.T, torch.eye(dimensions), atol=1e-5, rtol=0)


def test_the_share_is_that_of_signal_and_noise():
    x, tokens, _ = planted(4, 0.5)
    code = token_code(*halves(x, tokens))
    # Signal: every coordinate of the code has variance near 1 (orthonormal columns over 20 tokens, times 20).
    signal = float(torch.stack([x[tokens == t].mean(0) for t in range(20)]).var(0, unbiased=False).sum())
    assert code.share == pytest.approx(signal / (signal + 12 * 0.25), rel=0.05)
    assert code.share_permuted < 0.03


def test_without_a_code_nothing_is_told():
    x, tokens, _ = planted(4, 0.0)
    shuffled = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))]
    code = token_code(*halves(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)), shuffled))
    assert all(accuracy < 0.09 for accuracy in code.accuracy.values())
    assert code.chance < 0.07 and code.share == pytest.approx(code.share_permuted, abs=0.01)


def test_the_accuracy_is_that_of_linear_discriminant_analysis():
    """With all directions, against scikit-learn, for tokens of unequal frequency."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, tokens, _ = planted(3, 1.5)
    kept = (tokens % 4 == 0) | (torch.rand(len(tokens), generator=torch.Generator().manual_seed(3)) < 0.1)
    fitted, held_out = halves(x[kept], tokens[kept])
    peer = LinearDiscriminantAnalysis(solver="lsqr").fit(*fitted)
    code = token_code(fitted, held_out, ranks=(12,))
    assert code.accuracy[12] == pytest.approx(peer.score(*held_out), abs=0.005)
    assert code.accuracy[12] > code.chance + 0.1


def test_where_nothing_is_coded_the_most_frequent_token_is_answered():
    draw = torch.Generator().manual_seed(4)
    tokens = (torch.rand(4000, generator=draw) ** 3 * 50).long()
    code = token_code(*halves(torch.randn(4000, 8, generator=draw), tokens), ranks=(1, 4, 8))
    assert min(code.accuracy.values()) > code.chance - 0.03
    assert code.dimensions == pytest.approx(code.dimensions_permuted, rel=0.2)


def test_one_token_is_refused():
    x, tokens, _ = planted(4, 0.1)
    with pytest.raises(UserError, match="fewer than two tokens"):
        token_code((x, tokens * 0), (x, tokens))
