"""Compiled, the model is one graph with the same numbers; in bfloat16 it stays near float32 and trains alike."""

import shutil

import pytest
import torch
from graphs import Graphs
from small_models import KINDS, make_batch, make_model

CLOSE = {"rtol": 0, "atol": 2e-6}  # float32 sums in another order


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def padded_batch(batch, length):
    inputs = make_batch(batch, length)
    inputs["attention_mask"][1, length - 2 :] = 0
    inputs["attention_mask"][2, :2] = 0
    return inputs


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_two_lengths_and_batches_compile_to_one_graph_without_breaks(kind):
    model, graphs = make_model(kind), Graphs()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    for shape in ((4, 9), (5, 14)):
        inputs = padded_batch(*shape)
        torch.testing.assert_close(compiled(**inputs).sensor_embeds, model(**inputs).sensor_embeds, **CLOSE)
    assert len(graphs) == 1


@torch.no_grad()
def test_the_tower_alone_compiles_without_breaks_also_without_a_mask():
    tower, graphs = make_model("everything").sensor_model, Graphs()
    compiled = torch.compile(tower, fullgraph=True, dynamic=True, backend=graphs)
    for inputs in (padded_batch(3, 8), {k: v for k, v in make_batch(3, 8).items() if k != "attention_mask"}):
        torch.testing.assert_close(compiled(**inputs).pooler_output, tower(**inputs).pooler_output, **CLOSE)
    assert len(graphs) == 2  # with a mask and without one


def test_the_compiled_training_step_gives_the_same_gradients():
    inputs, text = padded_batch(4, 9), torch.randn(4, 12, generator=torch.Generator().manual_seed(3))
    gradients = []
    for compile_it in (False, True):
        model = make_model("learned", hidden_dropout=0.0, attention_dropout=0.0).train()
        step = torch.compile(model, fullgraph=True, dynamic=True, backend=Graphs()) if compile_it else model
        step(**inputs, text_embeds=text, return_loss=True).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@torch.no_grad()
def test_inductors_own_code_gives_the_same_numbers():
    model = make_model("everything")
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for shape in ((4, 9), (5, 14)):
        inputs = padded_batch(*shape)
        torch.testing.assert_close(compiled(**inputs).sensor_embeds, model(**inputs).sensor_embeds, **CLOSE)


# ---------------------------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_in_bfloat16_the_vectors_point_the_same_way(kind):
    model, inputs = make_model(kind), padded_batch(8, 30)
    expected = model(**inputs).sensor_embeds
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model(**inputs).sensor_embeds
    # bfloat16 keeps 8 bits: two decimals of a cosine
    assert torch.cosine_similarity(under_autocast.float(), expected).min() > 0.99
    assert not torch.equal(under_autocast.float(), expected)
    cast = make_model(kind).to(torch.bfloat16)
    assert torch.cosine_similarity(cast(**inputs).sensor_embeds.float(), expected).min() > 0.99


def train(precision, steps=30):
    """Losses of a short training on one batch, and the model."""
    model = make_model("image").train()
    inputs, text = padded_batch(8, 12), torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**inputs, text_embeds=text, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses), model


def test_training_in_bfloat16_follows_the_loss_curve_of_float32():
    full, _ = train("fp32")
    half, model = train("bf16")
    assert half.isfinite().all()
    assert full[-5:].mean() < 0.7 * full[:5].mean()
    # dropout draws the same numbers; what is left is rounding, which Adam's steps let grow a little
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.float32
