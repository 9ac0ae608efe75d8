"""Published model directory, which AutoModel and AutoProcessor load: written and read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from torch import nn
from transformers.utils import logging as progress_bar

from casita.files import read_json, write_beside, write_json
from casita.model_cards.model_tree import evaluation_record
from casita.model_cards.render import render_model_card
from casita.modeling.modeling_casita import (
    CasitaForMaskedEventModeling,
    CasitaForSequenceClassification,
    CasitaModel,
)
from casita.modeling.pipeline_casita import add_pipelines
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.results import Results

# What a published directory can be loaded as; a class whose head was not trained gets a new one, with a warning.
AUTO_CLASSES = {
    "AutoModel": CasitaModel,
    "AutoModelForMaskedLM": CasitaForMaskedEventModeling,
    "AutoModelForSequenceClassification": CasitaForSequenceClassification,
}


def publish(
    model: nn.Module,
    processor: CasitaProcessor,
    table: SensorEmbeddingTable | None,
    out: Path,
    training: dict[str, Any],
) -> Path:
    """Write `out/model`, which `AutoModel` and `AutoProcessor` load without casita. Call on every rank; rank 0 writes.

    `model` is the unwrapped one (not wrapped for distribution), `training` what the card says of the run.
    """
    assert isinstance(model, CasitaModel)
    folder = out / "model"
    if PartialState().is_main_process:
        # A save names the saved class only; the others read the same weights.
        model.config.auto_map = {auto: f"modeling_casita.{cls.__name__}" for auto, cls in AUTO_CLASSES.items()}
        with code_travels(model, processor), write_beside(folder) as temporary:
            add_pipelines(model.config, temporary)
            progress_bar.disable_progress_bar()  # a second one amid that of the training
            model.save_pretrained(temporary)
            progress_bar.enable_progress_bar()
            processor.save_pretrained(temporary)
            if table is not None:
                table.save(temporary / "sensor_embeddings.safetensors")
            write_json(temporary / "training.json", training)
            write_card(temporary, results=None)
    PartialState().wait_for_everyone()
    return folder


@contextmanager
def code_travels(model: CasitaModel, processor: CasitaProcessor) -> Iterator[None]:
    """Copy the code beside the weights in any save within: transformers keeps that wish on the classes themselves."""
    auto_class_of: dict[Any, str] = {type(model.config): "AutoConfig", type(processor): "AutoProcessor"}
    auto_class_of |= {cls: auto_class for auto_class, cls in AUTO_CLASSES.items()}
    for cls, auto_class in auto_class_of.items():
        cls.register_for_auto_class(auto_class)
    try:
        yield
    finally:
        for cls in auto_class_of:
            cls._auto_class = None


def load_published(run: Path | str, **changed: Any) -> tuple[CasitaModel, CasitaProcessor]:
    """Load model and processor of a run folder, a model directory, or a Hub id, ready for inference on the CPU.

    `changed` are settings of the model's configuration, dropout say.
    """
    source = model_directory_of(run)
    return CasitaModel.from_pretrained(source, **changed).eval(), CasitaProcessor.from_pretrained(source)


def model_directory_of(run: Path | str) -> str:
    """Return the model directory of a run folder; a model directory or a Hub id as it is."""
    inside = Path(run) / "model"
    source = str(inside if inside.is_dir() else run)
    if Path(run).is_dir() and not (Path(source) / "config.json").is_file():
        raise FileNotFoundError(
            f"{source}/config.json: no such file, so {run} is neither a run nor a model directory."
        )
    return source


def note_wall_time(run: Path, wall_s: float) -> None:
    """Note beside the published model how long the whole run took. Call on every rank; rank 0 writes."""
    facts = run / "model" / "training.json"
    if PartialState().is_main_process and facts.is_file():
        write_json(facts, {**read_json(facts), "wall_s": round(wall_s, 1)})


def write_card(model_directory: Path, results: dict[str, Any] | None) -> None:
    """Write the README.md of a published model from the files beside it and, once there are any, its results."""
    config, processor, training = (
        read_json(model_directory / name) for name in ("config.json", "processor_config.json", "training.json")
    )
    with write_beside(model_directory / "README.md") as temporary:
        temporary.write_text(
            render_model_card(config, processor, training, cast("Results | None", results)), encoding="utf-8"
        )
    if results is not None:  # a release asks for the evaluation of these very weights
        write_json(model_directory / "evaluation.json", evaluation_record(model_directory, results))
