"""The model card: a view of the facts that it is given, without holes."""

import ast
import copy
import re

import pytest
import yaml

from casita.model_cards.render import render_model_card
from casita.modeling.configuration_casita import CasitaConfig
from casita.processing.processing_casita import CasitaProcessor
from casita.results import METHODS, OWN_METHODS

TRAINING = {
    "home": "nest",
    "windows": {"train": 700, "validation": 100, "test": 200},
    "config": {
        "preset": "tiny",
        "batch_size": 128,
        "epochs": 5,
        "learning_rate": 3e-4,
        "weight_decay": 0.01,
        "temperature": 0.07,
        "dropout": 0.1,
        "seed": 42,
        "caption_style": "narrative",
    },
    "step": 250,
    "validation": {"loss": 2.34567},
    "processes": 1,
    "device": "cpu",
    "precision": "float32",
    "versions": {"casita": "0.1.0", "torch": "2.13.0"},
}
ROW = {"accuracy": 0.5, "balanced_accuracy": 0.25, "macro_f1": 0.125, "weighted_f1": 0.4567, "ece": 0.1}
RESULTS = {
    "settings": {"protocol": "chronological"},
    "headline": [{"method": "linear_probe", **ROW}, {"method": "bag_of_sensors", **ROW, "accuracy": 0.61}],
}


@pytest.fixture
def tools():
    """Configuration and processor of a small model on pixel pictures."""
    keys = ["M_1_ON", "M_1_OFF", "T1_LOW", "D1_OPEN"]
    return {
        "config": CasitaConfig.from_preset("tiny", vocab_size=7),
        "processor": CasitaProcessor(vocab=keys, home="nest", text_model="org/sentences", vision_model="pixels"),
    }


@pytest.fixture
def facts(tools):
    """The arguments of `render_model_card`."""
    as_files = {name: tool.to_dict() for name, tool in tools.items()}
    return as_files | {"training": copy.deepcopy(TRAINING), "results": None}


def test_the_front_matter_is_what_the_hub_reads(facts):
    _, front, _ = render_model_card(**facts).split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "feature-extraction"
    assert "casita" in front["tags"]


def test_pixels_are_called_a_control_and_a_learned_vision_model_is_not(facts):
    assert "has learned nothing" in render_model_card(**facts)
    facts["processor"]["vision_model"] = "openai/clip-vit-base-patch32"
    card = render_model_card(**facts)
    assert "has learned nothing" not in card
    assert "openai/clip-vit-base-patch32" in card


def test_a_learned_table_is_not_said_to_come_from_pictures(facts):
    facts["config"] |= {"embedding_source": "learned"}
    card = render_model_card(**facts)
    assert "sequence baseline" in card
    assert "floor plan" not in card


def test_the_card_names_the_text_model_that_the_pipeline_will_load(facts):
    assert "| text model | `org/sentences`, frozen |" in render_model_card(**facts)


def test_the_loss_is_named_as_it_was(facts):
    assert "Loss: symmetric InfoNCE." in render_model_card(**facts)
    facts["training"]["config"] |= {"loss": "sigmoid", "contrast_weight": 1.0, "masked_weight": 0.5}
    card = render_model_card(**facts)
    assert "Loss: sigmoid loss over all pairs (weight 1.0) and prediction of masked events (weight 0.5)." in card
    facts["training"]["config"] |= {"contrast_weight": 0.0}
    assert "the shared space with sentences was not trained" in render_model_card(**facts)


def test_a_baseline_above_the_model_is_stated_in_words(facts):
    results = copy.deepcopy(RESULTS)
    assert "is not above the best of the others, Bag of sensors with 12.5" in render_model_card(
        **facts | {"results": results}
    )
    results["headline"][0]["macro_f1"] = 0.2
    assert "Linear probe with 20.0, is above" in render_model_card(**facts | {"results": results})


def test_results_stand_beside_their_baselines(facts):
    assert "Not evaluated yet" in render_model_card(**facts)
    card = render_model_card(**facts | {"results": RESULTS})
    assert "Not evaluated yet" not in card
    assert "| Linear probe | 50.0 | 25.0 | 12.5 | 45.7 |" in card
    assert "| Bag of sensors | 61.0 |" in card
    assert "protocol `chronological`" in card


def test_a_method_has_the_name_that_the_report_gives_it_and_the_models_own_are_no_baselines(facts):
    results = copy.deepcopy(RESULTS)
    results["headline"] = [{"method": name, **ROW, "macro_f1": i / 100} for i, name in enumerate(METHODS)]
    card = render_model_card(**facts | {"results": results})
    assert re.findall(r"^\| (.+?) \| 50\.0 \|", card, flags=re.M) == [method.title for method in METHODS.values()]
    best = max([*OWN_METHODS, "finetuned"], key=list(METHODS).index)
    assert f"this model's best, {METHODS[best].title} with" in card
    assert "the best of the others, Chance with" in card


def test_intervals_written_queries_and_other_protocols_are_shown(facts):
    results = copy.deepcopy(RESULTS)
    results["settings"]["intervals"] = {"level": 0.95, "over": "whole days"}
    results["headline"][0] |= {"macro_f1_ci": [0.1, 0.1561], "accuracy_sd": 0.02}
    row = {"map": 0.3, "map_ci": [0.25, 0.35], "recall_at_1": 0.4, "recall_at_10": 0.9}
    results["protocols"] = {
        "chronological": {
            "about": {"description": "Later days.", "leaky": False},
            "paraphrases": {"casita": row, "per_label": {}},
        },
        "random_days": {
            "about": {"description": "Days at random.", "leaky": False, "seen_share": 0.7},
            "classification": {"labelled": {"linear_probe": ROW}},
        },
    }
    card = render_model_card(**facts | {"results": results})
    assert "| Linear probe | 50.0 ± 2.0 | 25.0 | 12.5 [10.0, 15.6] | 45.7 |" in card
    assert "intervals overlap" not in card
    results["headline"][1]["macro_f1_ci"] = [0.15, 0.2]
    assert "Bag of sensors with 12.5; their intervals overlap." in render_model_card(**facts | {"results": results})
    results["headline"][1]["macro_f1_ci"] = [0.16, 0.2]
    assert "intervals overlap" not in render_model_card(**facts | {"results": results})
    assert "In brackets: 95 % confidence intervals over whole days." in card
    assert "| This model | 30.0 [25.0, 35.0] | 40.0 | 90.0 |" in card
    assert "Per label" not in card
    assert "| `random_days` | 12.5 | Days at random. The encoder had seen 70.0 % of the windows in training" in card
    results["protocols"]["chronological"]["about"]["leaky"] = True
    assert "**Leaky, for comparison" in render_model_card(**facts | {"results": results})


def test_a_run_without_validation_says_so(facts):
    assert "best by validation loss (2.3457 on 100 windows)" in render_model_card(**facts)
    facts["training"]["validation"] = None
    assert "there were no validation windows" in render_model_card(**facts)


def test_objects_with_to_dict_give_the_same_card(facts, tools):
    assert render_model_card(**facts | tools) == render_model_card(**facts)


@pytest.mark.parametrize(
    "where, name", [("config", "pooling"), ("processor", "home"), ("training", "step"), ("training", "versions")]
)
def test_a_hole_is_an_error_that_names_it(facts, where, name):
    del facts[where][name]
    with pytest.raises(ValueError, match=name):
        render_model_card(**facts)


def test_the_code_of_the_card_is_python_with_sensors_that_the_model_knows(facts):
    blocks = re.findall(r"```python\n(.*?)```", render_model_card(**facts), flags=re.DOTALL)
    assert len(blocks) == 3
    events = next(
        ast.literal_eval(node.value)
        for node in ast.parse("\n".join(blocks)).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "events"
    )
    assert [(sensor, state) for _, sensor, state in events] == [("M_1", "ON"), ("M_1", "OFF"), ("D1", "OPEN")]


def test_the_card_has_no_stray_blank_lines_inside_its_tables(facts):
    lines = render_model_card(**facts | {"results": RESULTS}).split("\n")
    for i in range(1, len(lines) - 1):
        if lines[i - 1].startswith("|") and lines[i + 1].startswith("|"):
            assert lines[i].startswith("|"), lines[i - 1 : i + 2]
