"""What every dictionary offers beside codes: calls, devices, parts of its latents, and its form as a module."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sae
from sae.dictionaries.relu import Relu
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.registry import kinds
from tests.contract.test_dictionaries import make

KINDS = [name for name, module in kinds("dictionaries").items() if hasattr(module, "KIND")]
ENCODERS = [name for name, module in kinds("encoders").items() if hasattr(module, "KIND")]
DIVISIBLE = {"relu", "jumprelu", "batchtopk", "gated", "matryoshka", "threshold", "transcoder"}


@pytest.fixture(params=[*KINDS, *ENCODERS])
def d(request: pytest.FixtureRequest) -> Dictionary:
    if request.param in KINDS:
        return make(request.param)
    x = make("relu").decode(torch.rand(400, 10, generator=torch.Generator().manual_seed(1)).pow(4))
    quick = {"lista": {"n_rows": 200, "steps": 3}, "threshold": {"n_rows": 200}}.get(request.param, {})
    return make("relu").with_encoder(request.param, x, **quick)


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(4))


def test_a_call_is_the_reconstruction(d: Dictionary, x: Tensor):
    assert torch.equal(d(x), d.reconstruct(x)) and torch.equal(d(x), d.decode(d.encode(x)))
    skip = Transcoder(d.W_enc, d.W_dec, torch.zeros(10), d.b_dec, W_skip=torch.eye(6))
    torch.testing.assert_close(skip(x), skip.decode(skip.encode(x)) + x)


def test_device_and_precision(d: Dictionary, x: Tensor):
    assert (d.device, d.dtype) == (torch.device("cpu"), torch.float32)
    for double in (
        d.to(torch.float64),
        d.to("cpu", torch.float64),
        d.to(dtype=torch.float64),
        d.to(torch.zeros(1).double()),
    ):
        assert double.dtype == torch.float64 and {t.dtype for t in double.state_dict().values()} == {torch.float64}
    assert d.to("meta").device.type == "meta" and d.to(device="meta").dtype == torch.float32
    assert torch.equal(d.cpu().encode(x), d.encode(x)) and type(d.to(torch.bfloat16)) is type(d)
    assert set(d.state_dict()) == set(d.tensors())
    with pytest.raises(sae.UserError, match="device = 'cuda:77': no such device"):
        d.to("cuda:77")


def test_part_of_the_latents_is_a_dictionary_or_refused(d: Dictionary, x: Tensor):
    if d.kind not in DIVISIBLE:
        with pytest.raises(sae.UserError, match="depends on the others"):
            _ = d[:4]
        return
    z, mask = d.encode(x), torch.arange(10) % 3 == 0
    for latents, numbers in ((slice(4), [0, 1, 2, 3]), ([2, 5, 9], [2, 5, 9]), ([-1], [9]), (mask, [0, 3, 6, 9])):
        part = d[latents]
        assert type(part) is type(d) and part.n_latents == len(numbers) and part.card["latents"] == numbers
        torch.testing.assert_close(part.encode(x), z[..., numbers])
        torch.testing.assert_close(part.decode(z[..., numbers]), z[..., numbers] @ d.W_dec[numbers] + d.b_dec)
    assert d[2:8][[1, 3]].card["latents"] == [3, 5]
    torch.testing.assert_close(d[2:8][[1, 3]].encode(x), z[..., [3, 5]])


def test_parts_are_saved_like_any_dictionary(d: Dictionary, x: Tensor, tmp_path):
    if d.kind in DIVISIBLE:
        part = replace(d, card={"scores": {"mcc": 1.0}, "seed": 3})[[1, 4, 7]]
        assert part.card == {"seed": 3, "latents": [1, 4, 7]}, "scores are those of the whole"
        sae.save(part, tmp_path)
        assert torch.equal(sae.load(tmp_path).encode(x), part.encode(x))


def test_the_levels_of_a_part():
    d = make("matryoshka")
    assert (d.levels, d[[1, 3, 7, 8]].levels, d[6:].levels) == ((5, 10), (2, 4), (4,))
    with pytest.raises(sae.UserError, match="ascending"):
        _ = d[[3, 1]]


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (3, r"such as d\[:10\]"),
        ([10], "there is no latent 10; give numbers from 0 to 9"),
        ([1, 1], "named twice"),
        ([], "give a slice"),
        (slice(10, 20), "no latent is left"),
        (slice(None, None, -1), "go forwards"),
        ([True, False], "a mask of 2 for 10"),
        ([0.5], "give a slice"),
        ("ab", "give a slice"),
        ((slice(2), 0), "give a slice"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_latents_that_do_not_exist_are_refused(latents: object, words: str):
    with pytest.raises(sae.UserError, match=words):
        _ = make("relu")[latents]  # pyright: ignore


def test_a_dictionary_is_no_sequence():
    with pytest.raises(TypeError):
        list(make("relu"))  # pyright: ignore


@pytest.mark.parametrize("where", ["tpu0", torch.int8, 1.5])
def test_places_that_do_not_exist_are_refused(where: object):
    with pytest.raises(sae.UserError):
        make("relu").to(where)


def test_the_module_computes_what_the_dictionary_does(d: Dictionary, x: Tensor):
    m = d.module()
    with torch.no_grad():
        z = m.encode(x)
        assert torch.equal(z, d.encode(x)) and torch.equal(m.decode(z), d.decode(z)) and torch.equal(m(x), d(x))
    # With gradients torch multiplies in another order, which iterations to a tolerance amplify.
    torch.testing.assert_close(m(x), d(x), rtol=1e-3, atol=1e-3)
    assert dict(m.named_parameters()).keys() == d.tensors().keys()


def test_the_module_lives_in_a_network(d: Dictionary, x: Tensor):
    network = torch.nn.Sequential(torch.nn.Linear(6, 6), d.module())
    before = {name: t.clone() for name, t in d.tensors().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    (network(x) - x).square().sum().backward()
    module = network[1]
    assert module.W_dec.grad is not None and float(module.W_dec.grad.abs().sum()) > 0
    assert network[0].weight.grad is not None and float(network[0].weight.grad.abs().sum()) > 0
    optimizer.step()
    assert not torch.equal(module.W_dec, before["W_dec"])
    assert all(torch.equal(t, before[name]) for name, t in d.tensors().items()), "the dictionary stays as it is"
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = torch.nn.Sequential(torch.nn.Linear(6, 6), d.module())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), network(x))
    network.to(torch.float64)
    assert module.encode(x.double()).dtype == torch.float64
    back = module.dictionary()
    assert type(back) is type(d) and back.settings() == d.settings() and not back.W_dec.requires_grad
    torch.testing.assert_close(back.encode(x.double()), module.encode(x.double()))


def test_gradients_of_the_module_are_those_of_its_equations(x: Tensor):
    d = Relu.tied(torch.nn.functional.normalize(torch.randn(10, 6), dim=-1)).to(torch.float64)
    m, flat = d.module(), x.double().flatten(0, 1)
    m(flat).square().sum().backward()
    z, grad = d.encode(flat), 2 * d(flat)
    torch.testing.assert_close(m.W_dec.grad, z.T @ grad)
    torch.testing.assert_close(m.b_enc.grad, ((grad @ d.W_dec.T) * (z > 0)).sum(0))
