"""The model: padding, batch, clock and backend do not matter; the table is data."""

import math

import numpy as np
import pytest
import torch
from small_models import KINDS, SMALL, make_batch, make_model, make_table

from casita.modeling.configuration_casita import PRESETS, CasitaConfig
from casita.modeling.embeddings_casita import fourier_features, time_delta_bucket
from casita.modeling.modeling_casita import (
    CasitaModel,
    CasitaSensorModel,
    alibi_slopes,
)

TOLERANCE = {"rtol": 0, "atol": 2e-6}  # float32 sums in another order


@pytest.fixture(params=KINDS)
def model(request):
    return make_model(request.param)


@torch.no_grad()
def embed(model, batch):
    return model(**batch).sensor_embeds


def test_padding_anywhere_changes_nothing(model):
    batch = make_batch()
    mask = batch["attention_mask"]
    mask[1, 6:] = 0  # right
    mask[2, :4] = 0  # left
    mask[3, 2:5] = 0  # inside
    together = embed(model, batch)
    for row in range(len(mask)):
        alone = {k: v[row : row + 1, mask[row] == 1] for k, v in batch.items() if k != "attention_mask"}
        torch.testing.assert_close(embed(model, alone)[0], together[row], **TOLERANCE)


def test_the_batch_around_a_window_does_not_matter(model):
    batch = make_batch()
    alone = {name: value[:1] for name, value in batch.items()}
    torch.testing.assert_close(embed(model, alone), embed(model, batch)[:1], **TOLERANCE)


@pytest.mark.parametrize("length", [1, 2, 257])
def test_any_length_gives_finite_unit_vectors(model, length):
    vectors = embed(model, make_batch(2, length))
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))


def test_eager_sdpa_and_flex_agree(model):
    batch = make_batch()
    batch["attention_mask"][1, 6:] = 0
    batch["attention_mask"][2, :4] = 0
    results = []
    for attention in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        results.append(embed(model, batch))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)
    torch.testing.assert_close(results[2], results[0], **TOLERANCE)


def test_a_window_without_events_is_refused_by_its_number(model):
    batch = make_batch()
    batch["attention_mask"][2] = 0
    with pytest.raises(ValueError, match="window 2 of the batch has no events"):
        model(**batch)


def test_order_matters_but_not_its_direction():
    # ALiBi is symmetric by design: without time deltas a window and its mirror image look alike.
    model, batch = make_model(), {"input_ids": torch.arange(3, 12)[None]}
    shuffled = {"input_ids": torch.tensor([[3, 11, 4, 10, 5, 9, 6, 8, 7]])}
    mirrored = {"input_ids": batch["input_ids"].flip(1)}
    torch.testing.assert_close(embed(model, mirrored), embed(model, batch), **TOLERANCE)
    assert (embed(model, shuffled) - embed(model, batch)).abs().max() > 10 * TOLERANCE["atol"]


def test_the_clocks_origin_is_arbitrary():
    model, batch = make_model("everything"), make_batch()
    later = dict(batch, timestamps=batch["timestamps"] + 3600)
    # float32 seconds near 4000 keep 2e-4 s
    torch.testing.assert_close(embed(model, batch), embed(model, later), rtol=0, atol=1e-4)


def test_the_cls_token_hears_late_events_as_well_as_early_ones():
    # In the reference system the later half of 50 events gets 22 % of the CLS row's weight (REFERENCE 1.7).
    model = make_model(pooling="cls")
    model.set_attn_implementation("eager")
    ids = torch.full((1, 50), 5)
    with torch.no_grad():
        weights = model.sensor_model(input_ids=ids, output_attentions=True).attentions[0]
    late = weights[0, :, 0, 26:].sum(-1) / weights[0, :, 0, 1:].sum(-1)
    torch.testing.assert_close(late, torch.full((4,), 0.5))


def test_far_events_get_less_weight_than_near_ones():
    model = make_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model.sensor_model(input_ids=torch.full((1, 10), 5), output_attentions=True).attentions[0]
    assert (weights[0, :, 1, 1:].diff(dim=-1) < 0).all()


def test_slopes_are_the_papers():
    assert alibi_slopes(8) == [2**-i for i in range(1, 9)]
    assert alibi_slopes(4) == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert len(set(alibi_slopes(12))) == 12


def test_time_buckets_are_the_references():
    delta = torch.tensor([0.0, 1.0, 60.0, 600.0, 3600.0, 1e6])
    assert time_delta_bucket(delta, 100, 3600).tolist() == [0, 8, 49, 77, 99, 99]


def test_fourier_features_are_sines_and_cosines_of_doubling_angles():
    c = torch.tensor([[[0.3, 0.7]]])
    features = fourier_features(c, 3)[0, 0].tolist()
    expected = [f(v * 2**k * math.pi) for v in (0.3, 0.7) for f in (math.sin, math.cos) for k in range(3)]
    assert features == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_have_the_references_size(preset):
    # The reference system's image encoder with CLIP vectors, as counted by running it. Ours has no extra Linear(d, d)
    # behind the pooling, its frozen projection is a buffer, and the text projection is left out of this count.
    config = CasitaConfig.from_preset(preset, vocab_size=69, image_embedding_dim=512)
    with torch.device("meta"):
        model = CasitaModel(config)
    ours = sum(p.numel() for n, p in model.named_parameters() if "text_projection" not in n and "logit" not in n)
    d = config.hidden_size
    theirs = {"tiny": 3_422_464, "small": 19_703_296, "base": 43_907_328, "large": 153_256_960}[preset]
    assert theirs - ours == (d * d + d) + (512 * d + d)


def test_the_table_and_the_frozen_map_are_saved_but_never_trained(tmp_path):
    frozen = {f"sensor_model.embeddings.{name}.weight" for name in ("table", "input_projection")}
    make_model().save_pretrained(tmp_path)
    for model in (make_model(), CasitaModel.from_pretrained(tmp_path)):
        assert frozen <= set(model.state_dict())
        assert not frozen & {name for name, _ in model.named_parameters()}
    thawed = make_model(freeze_input_projection=False)
    assert "sensor_model.embeddings.input_projection.weight" in dict(thawed.named_parameters())


def test_the_frozen_map_keeps_angles():
    model = make_model()  # 24 -> 32 wide: an orthogonal map loses nothing
    table = torch.from_numpy(make_table().embeddings)
    with torch.no_grad():
        rows = model.sensor_model.embeddings.project(table)
    torch.testing.assert_close(rows @ rows.T / 32, table @ table.T, rtol=0, atol=1e-5)


def test_saving_and_loading_gives_equal_numbers(model, tmp_path):
    batch = make_batch()
    model.save_pretrained(tmp_path)
    again = CasitaModel.from_pretrained(tmp_path).eval()
    assert torch.equal(embed(again, batch), embed(model, batch))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_loading_in_bfloat16_leaves_the_table_exact(tmp_path):
    model = make_model()
    model.set_sensor_embeddings(make_table())
    model.save_pretrained(tmp_path)
    half = CasitaModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert half.sensor_projection.out_proj.weight.dtype == torch.bfloat16
    assert torch.equal(half.get_input_embeddings().weight, model.get_input_embeddings().weight)
    vectors = embed(half, make_batch())
    # bfloat16 keeps 8 bits: two decimals of a cosine
    cosine = torch.nn.functional.cosine_similarity(vectors.float(), embed(model, make_batch()))
    assert (cosine > 0.99).all()


def test_another_homes_table_is_swapped_in_without_training(tmp_path):
    model = make_model()
    model.set_sensor_embeddings(make_table(home="a"))
    weights = {n: p.clone() for n, p in model.named_parameters()}
    other = make_table(rows=40, home="b", seed=2)
    model.set_sensor_embeddings(other)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert torch.equal(model.get_input_embeddings().weight[3:], torch.from_numpy(other.embeddings))
    assert model.config.vocab_size == 43
    ids = {"input_ids": torch.tensor([[42, 41, 3]])}
    model.save_pretrained(tmp_path)
    assert torch.equal(embed(CasitaModel.from_pretrained(tmp_path).eval(), ids), embed(model, ids))


def test_a_table_of_another_kind_is_refused_with_the_difference_spelled_out():
    model = make_model()
    model.set_sensor_embeddings(make_table())
    with pytest.raises(ValueError, match=r"'b' has width 25.*reads width 24"):
        model.set_sensor_embeddings(make_table(width=25))
    with pytest.raises(ValueError, match=r"pixels\|pooled\|center.*trained on pixels\|pooled\|l2"):
        model.set_sensor_embeddings(make_table(normalization="center", mean=np.zeros(24, np.float32)))
    with pytest.raises(ValueError, match="only an image model has a table"):
        make_model("learned").set_sensor_embeddings(make_table())


def test_a_learned_row_is_the_sum_of_its_parts():
    model = make_model("learned")
    keys = [f"M{i}_{state}" for i in range(4) for state in ("OFF", "ON")]
    rooms = [["bath", "hall", "bath", "kitchen"][i // 2] for i in range(8)]
    config = model.config
    config.vocab_size = 11
    model = CasitaModel(config).eval()
    model.set_sensor_vocabulary(keys, rooms)
    table = model.get_input_embeddings()
    m2_on = table.sensor.weight[3 + 2] + table.state.weight[3 + 1] + table.room.weight[3 + 0]
    torch.testing.assert_close(table(torch.tensor([3 + 5])), m2_on[None])
    with pytest.raises(ValueError, match="num_rooms=3 in the config, but the keys have 1"):
        model.set_sensor_vocabulary(keys, ["hall"] * 8)


def test_inputs_embeds_equal_input_ids(model):
    batch = make_batch()
    rows = model.get_input_embeddings()(batch["input_ids"])
    by_rows = {**{k: v for k, v in batch.items() if k != "input_ids"}, "inputs_embeds": rows}
    torch.testing.assert_close(embed(model, by_rows), embed(model, batch), **TOLERANCE)


def test_the_models_own_loss_is_the_cross_entropy_of_the_pairs():
    model, batch = make_model(), make_batch()
    text = torch.randn(4, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = model(**batch, text_embeds=text, return_loss=True)
    scores = out.sensor_embeds @ out.text_embeds.T / 0.07
    by_hand = -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(out.loss, by_hand)
    torch.testing.assert_close(out.logits_per_sensor, out.logits_per_text.T)


def test_checkpointed_layers_give_the_same_gradients(model):
    batch = make_batch()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.sensor_model.activation_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.attention_dropout = 0.0
        model.zero_grad()
        model.get_sensor_features(**batch).pooler_output.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.sensor_model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match="asks for coordinates"):
        make_model("image", use_coordinates=True)(input_ids=torch.tensor([[3]]))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        make_model()()
    with pytest.raises(ValueError, match="width 5, the model was aligned with width 12"):
        make_model().get_text_features(torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pooling", "max", "cls, mean, cls_mean"),
        ("hidden_dropout", 1.5, "between 0 and 1"),
        ("hidden_size", 30, "multiple of num_attention_heads"),
        ("vocab_size", 3, "must exceed 3"),
        ("projection_dim", 0, "greater than 0"),
    ],
)
def test_a_bad_config_value_is_refused_with_its_key(key, value, message):
    with pytest.raises(Exception, match=message) as error:
        CasitaConfig(**{**SMALL, key: value})
    assert key in str(error.value)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="none of tiny, small, base, large"):
        CasitaConfig.from_preset("huge")


def test_the_tower_alone_gives_the_same_base_embedding():
    model, batch = make_model(), make_batch()
    tower = CasitaSensorModel(model.config).eval()
    tower.load_state_dict(model.sensor_model.state_dict())
    with torch.no_grad():
        assert torch.equal(tower(**batch).pooler_output, model(**batch).sensor_model_output.pooler_output)
