"""What a batch's backward pass leaves: the same gradients whole or in chunks, and those of both losses together."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from alignment_objective import make
from graphs import Graphs
from torch import Tensor
from train_home import make_home, tiny
from transformers import AutoModel, AutoModelForMaskedLM

from casita.datasets_scripts.schema import HomeFolder
from casita.modeling.heads_casita import mask_spans
from casita.modeling.modeling_casita import CasitaForMaskedEventModeling
from casita.train.align import train
from casita.train.data.dataset import Batch, build_processor, load_split, load_table
from casita.train.training.objectives import AlignmentObjective, make_loss
from casita.train.training.rng import RandomState, rng_state, set_rng_state


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    return make_home(tmp_path_factory.mktemp("toy") / "home")


def batch_of(batch: Batch, rows: slice, length: int | None = None) -> Batch:
    """Some rows of a batch, as tensors of their own."""
    inputs = {name: tensor[rows, :length].clone() for name, tensor in batch.inputs.items()}
    return dataclasses.replace(batch, inputs=inputs, texts=batch.texts[rows], caption_ids=batch.caption_ids[rows])


def gradients(objective: AlignmentObjective, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `backward` returned, and the gradients by weight; drawn from seed 1."""
    torch.manual_seed(1)
    losses = objective.backward(batch)
    return losses, named_gradients(objective)


def named_gradients(objective: AlignmentObjective) -> dict[str, Tensor]:
    return {name: p.grad for name, p in objective.trained.named_parameters() if p.requires_grad}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float = 1e-6) -> None:
    """All gradients, by the length of the difference."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected) ** 0.5
    length = sum(float(gradient.double().square().sum()) for gradient in expected.values()) ** 0.5
    assert length > 0.1
    assert difference < relative * length


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "sigmoid", "queue_size": 8},
        {"loss": "focal_sigmoid", "masked_weight": 0.5, "contrast_weight": 2.0, "learning_rate": 1.0},
        {"embedding_source": "learned", "masked_weight": 0.5, "queue_size": 8},
    ],
    ids=["info_nce", "sigmoid, queue", "focal, masked", "learned, masked, queue"],
)
def test_in_chunks_the_gradients_are_those_of_the_whole_batch(home, settings):
    unchunked, batch = make(home, dropout=0.0, **settings)
    chunked, _ = make(home, dropout=0.0, micro_batch_size=3, **settings)
    for _ in range(2):  # at the second the queue is filled
        losses, expected = gradients(unchunked, batch)
        again, found = gradients(chunked, batch)
        assert_near(found, expected)
        torch.testing.assert_close(again, losses)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_a_batch_meets_earlier_ones_in_the_queue_and_never_itself(home, loss):
    queued, batch = make(home, dropout=0.0, loss=loss, queue_size=16)
    alone, _ = make(home, dropout=0.0, loss=loss)
    first, second = (batch_of(batch, slice(0, 6)), batch_of(batch, slice(6, 12)))
    torch.testing.assert_close(gradients(queued, first)[0]["loss"], gradients(alone, first)[0]["loss"])
    queue = queued.trained.queue
    assert queue.caption_ids.tolist() == [*first.caption_ids.tolist(), *[-1] * 10]
    assert gradients(queued, second)[0]["loss"] > gradients(alone, second)[0]["loss"] + 1e-4  # more to distinguish
    assert queue.caption_ids.tolist() == [*second.caption_ids.tolist(), *first.caption_ids.tolist(), *[-1] * 4]


def test_in_chunks_dropout_is_the_same_in_both_passes(home):
    settings = {"dropout": 0.3, "masked_weight": 0.5}
    chunked, batch = make(home, micro_batch_size=4, **settings)
    plain, _ = make(home, **settings)
    _, found = gradients(chunked, batch)
    after = torch.get_rng_state()

    torch.manual_seed(1)  # the same dropout by hand: chunk after chunk, then their hidden events
    masked = plain.mask_events(batch.inputs)
    rows = [slice(first, first + 4) for first in range(0, 12, 4)]
    outs = [plain.model({name: t[row] for name, t in batch.inputs.items()}, batch.texts[row]) for row in rows]
    sensors, texts = (torch.cat([out[name] for out in outs]) for name in ("sensors", "texts"))
    model = plain.trained.model
    loss = make_loss(plain.config)(sensors, texts, batch.caption_ids, model.logit_scale, model.logit_bias)
    for row in rows:
        part = {name: t[row] if t.ndim else t for name, t in masked.items()}
        loss = loss + 0.5 * plain.model(batch.inputs, None, part)["masked_loss"]
    loss.backward()
    assert_near(found, named_gradients(plain))
    assert torch.equal(torch.get_rng_state(), after)


def test_checkpointed_layers_give_the_same_gradients(home):
    expected, found = (
        gradients(*make(home, dropout=0.3, masked_weight=0.5, gradient_checkpointing=on))[1] for on in (False, True)
    )
    assert_near(found, expected)


def test_compiled_the_encoder_gives_the_same_gradients_and_one_graph_serves_all_sizes(home, monkeypatch):
    torch.compiler.reset()
    plain, batch = make(home, dropout=0.0)
    graphs = Graphs()  # instead of a compiler of C++, which takes half a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=graphs))
    compiled, _ = make(home, dropout=0.0, compile=True)
    for rows, length in ((12, 8), (7, 6)):
        part = batch_of(batch, slice(rows), length)
        assert_near(gradients(compiled, part)[1], gradients(plain, part)[1])
        assert len(graphs) == 1
    torch.compiler.reset()


def test_random_numbers_come_again_and_then_go_on():
    state = rng_state()
    moment = RandomState()
    first, second = torch.rand(3), torch.rand(3)
    with moment.replay():
        assert torch.equal(torch.rand(3), first)
    third = torch.rand(3)
    set_rng_state(state)
    assert torch.equal(torch.rand(9), torch.cat([first, second, third]))


# ----------------------------------------------------------------------------------------------------- masked events
def test_the_masked_loss_is_the_heads_own_and_the_contrast_sees_clean_events(home):
    objective, batch = make(home, dropout=0.0, masked_weight=0.5)
    losses, _ = gradients(objective, batch)
    model = objective.trained.model
    masked = CasitaForMaskedEventModeling(model.config)
    masked.load_state_dict(model.state_dict(), strict=False)
    torch.manual_seed(1)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    shown, labels = mask_spans(ids, mask, vocab_size=model.config.vocab_size)
    expected = masked(**{**batch.inputs, "input_ids": shown}, labels=labels).loss
    torch.testing.assert_close(losses["masked_loss"], expected.detach())
    clean, _ = make(home, dropout=0.0)
    torch.testing.assert_close(losses["contrast_loss"], gradients(clean, batch)[0]["loss"])
    torch.testing.assert_close(losses["loss"], losses["contrast_loss"] + 0.5 * losses["masked_loss"])


def test_how_much_is_hidden_follows_from_the_settings(home):
    objective, batch = make(home, masked_weight=1.0, mask_probability=1.0)
    assert objective.mask_events(batch.inputs)["num_items_in_batch"] == batch.inputs["attention_mask"].sum()
    objective, _ = make(home, masked_weight=1.0, mask_probability=1e-9)  # one of each window is hidden by force
    assert objective.mask_events(batch.inputs)["num_items_in_batch"] == 12


def test_the_published_model_holds_the_trained_head_and_loads_without_it_in_silence(home, tmp_path, caplog):
    out = train(tiny(home, tmp_path / "run", masked_weight=0.5, learning_rate=3e-3, queue_size=16))
    with caplog.at_level("WARNING"):
        masked, loading = AutoModelForMaskedLM.from_pretrained(
            out / "model", trust_remote_code=True, output_loading_info=True
        )
        model, _ = AutoModel.from_pretrained(out / "model", trust_remote_code=True, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not caplog.records
    assert not hasattr(model, "head")
    config = tiny(home, tmp_path / "run", masked_weight=0.5)
    split = load_split(config, "validation", build_processor(config, load_table(config)))
    inputs = split.batch(np.arange(len(split)), split.choose_captions(0, 0)).inputs
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    shown, labels = mask_spans(ids, mask, vocab_size=len(masked.get_input_embeddings().weight))
    fresh = CasitaForMaskedEventModeling(masked.config)
    fresh.load_state_dict({k: v for k, v in masked.state_dict().items() if not k.startswith("head.")}, strict=False)
    losses = [m.eval()(shown, attention_mask=mask, labels=labels).loss for m in (masked, fresh)]
    assert losses[0] < 0.9 * losses[1]


def test_masked_events_alone_train_the_tower_and_leave_the_projections(home, tmp_path):
    objective, batch = make(home, contrast_weight=0.0, masked_weight=1.0)
    losses, found = gradients(objective, batch)
    assert set(losses) == {"loss"}
    assert not any("projection" in name or "logit" in name for name in found)
    assert all(gradient is not None for gradient in found.values())
    out = train(tiny(home, tmp_path / "run", contrast_weight=0.0, masked_weight=1.0, learning_rate=3e-3))
    assert (out / "model" / "model.safetensors").is_file()
