"""Task and data of a run: nothing that they give depends on what was called before."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_home import make_labelled_home
from safetensors.torch import load_file, save_file
from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.train.align import AlignmentData, AlignmentTask, train
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.dataset import Batch
from casita.train.finetune import ClassificationData, ClassificationTask, embed_windows, starting_point
from casita.train.training.checkpoint import checkpoints
from casita.train.training.loop import TrainingData, TrainingTask, make_accelerator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    return make_labelled_home(tmp_path_factory.mktemp("toy") / "home")


@pytest.fixture(scope="module")
def aligned(home, tmp_path_factory) -> Path:
    return train(tiny(home, tmp_path_factory.mktemp("runs") / "aligned", epochs=1))


Made = tuple[TrainingTask, TrainingData]


def alignment(home: HomeFolder, out: Path, **settings: Any) -> Made:
    config = tiny(home, out, **({"masked_weight": 0.5, "context_weight": 0.5, "queue_size": 8} | settings))
    data = AlignmentData(config)
    return AlignmentTask(config, data.processor, data.table, data.train.text_width), data


def classification(home: HomeFolder, out: Path, model: Path, **settings: Any) -> Made:
    config = FinetuneConfig(
        model=str(model), data=str(home.root), out=str(out), batch_size=10, tracker=None, cpu=True, **settings
    )
    encoder, processor, table = starting_point(config)
    data = ClassificationData(config, processor, table)
    return ClassificationTask(config, encoder, data.classes, data.class_counts, processor.vocab), data


@pytest.fixture(params=["captions", "captions, streamed", "activities", "activities from scratch"])
def make(request, home, aligned, tmp_path) -> Callable[[], Made]:
    if request.param == "captions":
        return lambda: alignment(home, tmp_path / "run")
    if request.param == "captions, streamed":
        return lambda: alignment(home, tmp_path / "run", stream=True, context_weight=0.0)
    return lambda: classification(home, tmp_path / "run", aligned, from_scratch="scratch" in request.param)


def assert_equal_batches(ones: list[Batch], others: list[Batch]) -> None:
    assert len(ones) == len(others) > 1
    for one, other in zip(ones, others, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        assert torch.equal(one.texts, other.texts)


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in one.state_dict().items())


def test_the_order_of_calls_does_not_matter(make):
    task, data = make()
    batches = list(data.loader(CPU, 0, 1).epoch(0))
    model = task.model(fresh=True)
    fingerprint = data.fingerprint()
    facts = data.card_facts()
    descriptions = (data.describe(), task.describe())

    task, data = make()
    assert (task.describe(), data.card_facts(), data.describe()) == (descriptions[1], facts, descriptions[0])
    torch.manual_seed(7)  # weights follow from the run's seed, not from what was drawn before
    other = task.model(fresh=False)
    objective = task.objective(make_accelerator(task.config), other)
    objective.validate(data.validation)
    task.parameter_groups(other)
    assert_equal_batches(list(data.loader(CPU, 0, 1).epoch(0)), batches)
    assert data.fingerprint() == fingerprint
    assert_equal_weights(other, model)


def test_a_second_model_is_the_first_ones_equal_and_shares_no_weight_with_it(make):
    task, _ = make()
    first = task.model(fresh=True)
    second = task.model(fresh=True)
    assert_equal_weights(first, second)
    with torch.no_grad():
        for weight in first.parameters():
            weight += 1.0
    assert_equal_weights(task.model(fresh=True), second)


def test_windows_embedded_before_or_after_the_loader_is_made_are_the_same(home, aligned, tmp_path):
    def embedded(embed_first: bool) -> list[Batch]:
        task, data = classification(home, tmp_path / "run", aligned, mode="frozen")
        loader = None if embed_first else data.loader(CPU, 0, 1)
        if not embed_first:
            task.model(fresh=True)
        embed_windows(task.encoder, data, CPU)
        return list((loader or data.loader(CPU, 0, 1)).epoch(0))

    batches = embedded(embed_first=True)
    assert batches[0].texts.shape[1] == 32
    assert_equal_batches(embedded(embed_first=False), batches)


def test_a_checkpoint_with_the_former_names_of_queue_and_neighbour_heads_resumes(home, tmp_path):
    settings = {"queue_size": 8, "context_weight": 0.5, "epochs": 2, "save_every": 4}
    run = train(tiny(home, tmp_path / "run", **settings))
    expected = load_file(checkpoints(run)[-1] / "model.safetensors")
    shutil.rmtree(checkpoints(run)[-1])
    path = checkpoints(run)[-1] / "model.safetensors"
    weights = load_file(path)
    former = {"queue.caption_ids": "queue.groups"}
    former |= {name: name.replace("neighbour_heads.", "around.") for name in weights if "neighbour_heads." in name}
    assert len(former) > 2
    save_file({former.get(name, name): tensor for name, tensor in weights.items()}, path)
    resumed = load_file(checkpoints(train(tiny(home, run, **settings)))[-1] / "model.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
