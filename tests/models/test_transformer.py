"""The transformer against definitions: masks, words or their vectors, and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from benchmark.models.base import VictimModel, build, names, reads
from benchmark.models.transformer import HEADS, WIDTH


def fresh() -> VictimModel:
    model = build("transformer", (5,), 3, 20)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def sentences(count: int = 4) -> torch.Tensor:
    return torch.randint(20, (count, 5), generator=torch.Generator().manual_seed(1))


def test_texts_and_images_have_their_own_models() -> None:
    assert [name for name in names() if reads(name) == "text"] == ["transformer"]
    with pytest.raises(ValueError, match="reads images only"):
        build("elu", (5,), 3, 20)
    with pytest.raises(ValueError, match="reads text only"):
        build("transformer", (1, 8, 8), 3)


def test_words_and_their_vectors_are_one_input() -> None:
    model = fresh()
    assert torch.equal(model(sentences()), model(model.features.words(sentences())))


def test_parameters_are_shared_by_plain_names() -> None:
    for name, parameter in fresh().named_parameters():
        part, *layer, kind = name.split(".")
        assert part in ("features", "head") and kind in ("weight", "bias")
        assert len(layer) == (part == "features") and parameter.requires_grad


def test_attention_is_pytorchs_causal_attention() -> None:
    model = fresh()
    inputs = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(2))
    layers = model.features
    query, key, value = (
        layers.layer(part, 1)(inputs).view(2, 6, HEADS, -1).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = layers.layer("merge", 1)(expected.transpose(1, 2).reshape(2, 6, WIDTH))
    assert torch.allclose(layers._attend(1, inputs), expected, atol=1e-6)


def test_later_words_do_not_change_earlier_places() -> None:
    model, one, two = fresh(), sentences(), sentences()
    two[:, 3:] = (two[:, 3:] + 1) % 20
    first = model.features.block(1, model.features.stream(one))
    second = model.features.block(1, model.features.stream(two))
    assert torch.allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert not torch.allclose(first[:, 4], second[:, 4], atol=1e-3)


def test_every_words_queries_have_a_gradient() -> None:
    """Without the start that stands before it, the first word's query would have none."""
    model = fresh()
    stream = model.features.stream(sentences()).detach().requires_grad_()
    queries = model.features.layer("query", 1)
    seen: list[torch.Tensor] = []
    handle = queries.register_full_backward_hook(lambda _, __, out: seen.append(out[0]))
    model.features.block(2, model.features.block(1, stream))[:, 1:].square().sum().backward()
    handle.remove()
    sizes = seen[0].norm(dim=-1)
    assert bool((sizes[:, 1:] > 0).all()) and float(sizes[:, 0].max()) < 1e-6


def test_matched_gradients_have_slopes_for_stacked_victims() -> None:
    model = fresh().double()
    weights = dict(model.named_parameters())
    vectors = model.features.words(sentences(3)).detach()
    labels = F.one_hot(torch.tensor([0, 1, 2]), 3).double()

    def loss(parameters, words, label):
        return functional_call(model, parameters, (words[None], None, label[None]))

    def mismatch(words, label):
        gradient = grad(loss)(weights, words, label)
        return sum((value - 0.1).square().sum() for value in gradient.values())

    slopes = vmap(grad(mismatch))(vectors, labels)
    step = 1e-6 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3)).double()
    for index in range(3):
        higher = mismatch(vectors[index] + step[index], labels[index])
        lower = mismatch(vectors[index] - step[index], labels[index])
        expected = float((slopes[index] * step[index]).sum().detach())
        assert float((higher - lower).detach()) / 2 == pytest.approx(expected, rel=1e-3)
