"""Windows, prompts and untrained encoders as vectors, against slow versions."""

import copy

import numpy as np
import pytest
import torch
from evaluation_home import LAYOUT, make_home
from evaluation_run import load_all, make_run

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.train.inference.embedding import LAST_LAYERS, embed_windows, label_prototypes, untrained


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("small"))
    return load_all(make_run(tmp_path_factory.mktemp("runs") / "first", home), home)


def test_embeddings_do_not_depend_on_batches_or_padding(loaded):
    rows = np.random.default_rng(0).permutation(len(loaded.data.captions))[:40]
    some = {name: array[rows] for name, array in loaded.arrays.items()}
    base, projected, layers = embed_windows(loaded.model, some, layers=LAST_LAYERS, batch_size=7, progress=False)
    left = {name: np.pad(array, ((0, 0), (9, 4))) for name, array in some.items()}
    other_base, other_projected, other_layers = embed_windows(
        loaded.model, left, layers=LAST_LAYERS, batch_size=40, progress=False
    )
    np.testing.assert_allclose(other_base, base, atol=1e-5)  # float32 sums in another order
    np.testing.assert_allclose(other_projected, projected, atol=1e-5)
    np.testing.assert_allclose(other_layers, layers, atol=1e-5)
    without = embed_windows(loaded.model, some, batch_size=7, progress=False)
    np.testing.assert_array_equal(without.base, base)
    np.testing.assert_array_equal(without.sensor, projected)
    assert without.layers.shape == (40, 0)
    for i in (0, 17, 39):
        length = int(some["attention_mask"][i].sum())
        alone = {name: torch.from_numpy(array[i : i + 1, :length]) for name, array in some.items()}
        with torch.inference_mode():
            found = loaded.model(**alone).sensor_embeds[0].numpy()
            states = loaded.model.sensor_model(**alone, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(projected[i], found, atol=1e-5)
        events = [state[0, 1:] for state in states][-LAST_LAYERS:]  # the CLS token is the first
        pooled = [*(e.mean(dim=0).numpy() for e in events), *(e.amax(dim=0).numpy() for e in events)]
        np.testing.assert_allclose(layers[i], np.concatenate(pooled), atol=1e-5)


def test_a_probe_of_layers_reads_the_input_too_and_of_a_deep_model_the_last_four(loaded):
    some = {name: array[:3] for name, array in loaded.arrays.items()}
    for depth in (1, 2, 3, 6):
        config = copy.deepcopy(loaded.model.config)
        config.num_hidden_layers = depth
        model = CasitaModel(config).eval()
        model.load_state_dict(dict(loaded.model.named_buffers()), strict=False)
        layers = embed_windows(model, some, layers=LAST_LAYERS, progress=False).layers
        assert layers.shape == (3, 2 * config.hidden_size * min(depth + 1, LAST_LAYERS))
        own = {name: torch.from_numpy(array) for name, array in some.items()}
        times, places = own.get("time_deltas"), own.get("coordinates")
        entering = model.sensor_model.embeddings(own["input_ids"], None, times, places)[:1, 1:]
        length = int(some["attention_mask"][0].sum())
        first = entering[0, :length].mean(dim=0).detach().numpy()
        assert np.allclose(layers[0, : config.hidden_size], first, atol=1e-5) == (depth < LAST_LAYERS)


def test_an_untrained_encoder_has_the_same_table_other_weights_and_leaves_the_random_state_alone(loaded):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (untrained(loaded.model, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    table = loaded.model.get_input_embeddings().weight
    weights = [m.sensor_model.layers[0].state_dict() for m in (first, same, other, loaded.model)]
    matrix = next(name for name, tensor in weights[0].items() if tensor.ndim == 2)
    assert all(torch.equal(m.get_input_embeddings().weight, table) for m in (first, other))
    assert torch.equal(weights[0][matrix], weights[1][matrix])
    assert not torch.equal(weights[0][matrix], weights[2][matrix])
    assert not torch.equal(weights[0][matrix], weights[3][matrix])


def test_an_untrained_learned_encoder_knows_the_same_sensors():
    config = CasitaConfig.from_preset(
        "tiny", embedding_source="learned", vocab_size=6, num_sensors=2, num_states=2, num_rooms=2, num_hidden_layers=1
    )
    torch.manual_seed(9)
    model = CasitaModel(config)
    model.set_sensor_vocabulary(["A_ON", "A_OFF", "B_ON"], ["hall", "hall", "bath"])
    table, fresh = (m.get_input_embeddings() for m in (model, untrained(model, 0)))
    assert torch.equal(table.parts, fresh.parts)
    assert not torch.equal(table.sensor.weight, fresh.sensor.weight)


def test_a_prototype_is_the_mean_direction_of_its_prompts(loaded):
    labels = ["Sleep", "Cook"]
    prompts = label_prompts(LAYOUT, labels)
    text_model = load_text_model("minilm", device="cpu")
    vectors = embed_texts(text_model, [text for sentences in prompts.values() for text in sentences], progress=False)
    prototypes = label_prototypes(loaded.model, prompts, vectors)
    for label, prototype in zip(labels, prototypes, strict=True):
        text = torch.from_numpy(embed_texts(text_model, prompts[label], progress=False))
        with torch.inference_mode():
            rows = torch.nn.functional.normalize(loaded.model.get_text_features(text).pooler_output, dim=-1)
        mean = rows.mean(dim=0)
        np.testing.assert_allclose(prototype, (mean / mean.norm()).numpy(), atol=1e-6)
