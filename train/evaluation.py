"""What a run is worth: retrieval, zero-shot and probes on the test split, beside the baselines; report and plots.

`casita evaluate runs/demo` reads `model/` and `config.yaml` of the run and the home folder it was trained on, and
writes `results.json`, `report.html`, `report.md` and `plots/`. All numbers are of one protocol: how the windows were
split.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from casita import __version__
from casita.datasets_scripts.hub_data import data_folder
from casita.datasets_scripts.schema import HomeFolder
from casita.files import read_json, write_json
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train import probes
from casita.train.checkpoint import write_card
from casita.train.config import TrainConfig
from casita.train.encoding import Encoded, encode, label_prototypes, scale_of, untrained
from casita.train.evidence import Evidence, read_metrics
from casita.train.material import Material, checked_splits, chosen_tasks, describe_data, load_material, load_run
from casita.train.metrics import over_seeds, per_class, retrieval_chance, retrieval_metrics
from casita.train.probes import Prediction, Task
from casita.train.report import headline_text, write_results


def evaluate_run(
    run: Path,
    data: Path | None = None,
    out: Path | None = None,
    *,
    protocol: str = "chronological",
    seeds: int = 3,
    max_windows: int = 20_000,
    batch_size: int = 256,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a run and write `results.json`, the report and `plots/` into `out` (the run itself), all or nothing.

    Args:
        run: folder with `model/` and `config.yaml`, as `casita train` leaves it.
        data: home folder instead of the one in `config.yaml`.
        protocol: how the windows must have been split; refused when they were split otherwise.
        seeds: random initialisations of the untrained encoder, for mean and deviation.
        max_windows: train (and validation) windows that a probe is fitted on at most, evenly spaced.
        batch_size: windows encoded at once.
        device: torch device; the first GPU where there is one, else the CPU.

    Returns:
        The content of `results.json`.

    Raises:
        FileNotFoundError: the run or the home folder lacks a file; the message names it.
        ValueError: no labelled windows to evaluate, splits that share events, windows split by another protocol,
            captions or embeddings that belong to other windows or to another text model.
    """
    if seeds < 1 or max_windows < 1:
        raise ValueError(f"seeds={seeds} and max_windows={max_windows} must be at least 1.")
    run, out = Path(run), Path(out or run)
    config, model, processor = load_run(run)
    nn.Module.to(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    home = HomeFolder(data_folder(data or config.data))
    material = load_material(home, config, model)
    audit = checked_splits(home, material.windows, protocol)
    about_data = describe_data(home, material, audit)
    tasks, material = chosen_tasks(material, max_windows)

    named = home.name if processor.homes else None
    inputs = processor.encode_windows(material.windows["sensor_keys"], material.windows["seconds"], named)
    encoders = {"trained": model} | {f"untrained {seed}": untrained(model, seed) for seed in range(seeds)}
    encoded = {
        name: encode(encoder, inputs, material.text, batch_size=batch_size, told=name, progress=progress)
        for name, encoder in encoders.items()
    }
    labels = about_data["labels"]
    prototypes = label_prototypes(model, home.description.get("layout") or {}, labels, config.text_model)
    answers = {
        variant: predict(task, material, encoded, labels, prototypes, scale_of(model), config.seed, progress)
        for variant, task in tasks.items()
    }
    scores = {
        "retrieval": retrieval_rows(material, encoded, progress),
        "classification": {variant: classification_rows(answers[variant], tasks[variant]) for variant in tasks},
        "per_class": class_rows(answers["labelled"], tasks["labelled"]),
    }
    other_home = f" --data {data}" if data else ""
    results = {
        "casita_version": __version__,
        "run": run.resolve().name,
        "home": home.name,
        "model": describe_model(model, config),
        "settings": {
            "protocol": protocol,
            "seeds": seeds,
            "max_windows": max_windows,
            "c_grid": list(probes.C_GRID),
            "command": f"casita evaluate {run}{other_home} --protocol {protocol} --seeds {seeds} "
            f"--max-windows {max_windows}",
        },
        "data": about_data,
        "headline": headline(scores["classification"]["labelled"]),
        "protocols": {protocol: scores},
    }
    trained, test = encoded["trained"], np.flatnonzero(np.array(material.splits) == "test")
    evidence = Evidence(
        windows=material.windows.take(test),
        captions=[material.captions[i] for i in test],
        base=trained.base[test],
        sensor=trained.sensor[test],
        text=trained.text[test],
        layout=home.description.get("layout") or {},
        table=picture_table(home, config),
        answers=answers,
        tasks=tasks,
        metrics=read_metrics(run / "metrics.jsonl"),
    )
    write_results(out, results, evidence, progress)
    if out.resolve() == run.resolve() and data is None and (run / "model" / "training.json").is_file():
        # What another home's windows gave is no matter of this card, nor of this model's calibration.
        store_temperature(run / "model", answers["labelled"]["zero_shot"])
        write_card(run / "model", results)
    return results


def store_temperature(model_directory: Path, answers: Mapping[str, Prediction]) -> None:
    """Keep the temperature of the zero-shot answers in the model's config, where pipeline and `casita ask` look."""
    config = read_json(model_directory / "config.json")
    (answer,) = answers.values()
    write_json(model_directory / "config.json", {**config, "zero_shot_temperature": answer.settings["temperature"]})


# -------------------------------------------------------------------------------------------------------- scoring
def predict(
    task: Task,
    material: Material,
    encoded: Mapping[str, Encoded],
    labels: Sequence[str],
    prototypes: np.ndarray,
    scale: float,
    seed: int,
    progress: bool,
) -> dict[str, dict[str, Prediction]]:
    """Every method's answers by seed, in the report's order; "none" where nothing is random."""
    trained = encoded["trained"]
    keys = material.windows["sensor_keys"].to_pylist()
    return {
        "linear_probe": {str(seed): probes.linear_probe(trained.base, task, progress=progress)},
        "zero_shot": {str(seed): probes.zero_shot(trained.sensor, prototypes, labels, scale, task)},
        "random_encoder": {
            name.removeprefix("untrained "): probes.linear_probe(other.base, task, name, progress=progress)
            for name, other in encoded.items()
            if name != "trained"
        },
        "bag_of_sensors": {"none": probes.bag_of_sensors(keys, task, progress=progress)},
        "tfidf_captions": {"none": probes.tfidf_captions(material.captions, task, progress=progress)},
        "majority": {"none": probes.majority(task)},
    }


def classification_rows(answers: Mapping[str, Mapping[str, Prediction]], task: Task) -> dict[str, Any]:
    """Each method's metrics: mean over its seeds, `<metric>_sd`, and under `seeds` each seed's own and settings."""
    rows = {}
    for method, by_seed in answers.items():
        scores = {seed: prediction.metrics(task) for seed, prediction in by_seed.items()}
        each = {seed: {**scores[seed], "settings": dict(by_seed[seed].settings)} for seed in by_seed}
        rows[method] = {**over_seeds(scores), "seeds": each}
    return rows


def class_rows(answers: Mapping[str, Mapping[str, Prediction]], task: Task) -> dict[str, Any]:
    """Precision, recall, F1 and support of each activity, for the methods a reader compares."""
    y_true = task.y[task.test].tolist()
    methods = ("linear_probe", "zero_shot", "bag_of_sensors")
    return {method: per_class(y_true, next(iter(answers[method].values())).labels) for method in methods}


def retrieval_rows(material: Material, encoded: Mapping[str, Encoded], progress: bool) -> dict[str, Any]:
    """Retrieval over all test windows: the model, the untrained encoder (mean over seeds) and chance."""
    test = np.flatnonzero(np.array(material.splits) == "test")
    _, groups = np.unique(np.array(material.captions)[test], return_inverse=True)
    bar = tqdm(encoded.items(), desc="retrieval", unit="encoder", disable=not progress)
    found = {name: retrieval_metrics(e.sensor[test], e.text[test], groups) for name, e in bar}
    trained, chance = found.pop("trained"), retrieval_chance(groups)
    random = {way: over_seeds({seed: each[way] for seed, each in found.items()}) for way in chance}
    return {"casita": trained, "random_encoder": random, "chance": chance}


def headline(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The labelled variant as a list of rows, in the order of the report."""
    return [{"method": name, **{k: v for k, v in row.items() if k != "seeds"}} for name, row in rows.items()]


# -------------------------------------------------------------------------------------------------------- telling
def describe_model(model: CasitaModel, config: TrainConfig) -> dict[str, Any]:
    """What was evaluated: the settings that name the run, and its size."""
    names = ("preset", "embedding_source", "vision_model", "text_model", "caption_style", "pooling", "seed")
    return {name: getattr(config, name) for name in names} | {"parameters": model.num_parameters()}


def picture_table(home: HomeFolder, config: TrainConfig) -> SensorEmbeddingTable | None:
    """The frozen table of the home's pictures; None where the model learned its own embeddings, or it is not there."""
    path = home.image_embeddings(config.vision_model)
    return SensorEmbeddingTable.load(path) if config.embedding_source == "image" and path.is_file() else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `casita evaluate`."""
    parser.description = (
        "Evaluate a run on its test split, beside the baselines: results.json, report.html, report.md and plots/."
    )
    parser.epilog = "example:\n  casita evaluate runs/demo\n  casita evaluate runs/kyoto --data homes/kyoto --seeds 5"
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, as casita train leaves it")
    parser.add_argument("--data", type=Path, metavar="DIR", help="home folder or ORG/NAME@REVISION (default: RUN's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN)")
    parser.add_argument("--protocol", default="chronological", help="how the windows must have been split")
    parser.add_argument("--seeds", type=int, default=3, help="random initialisations of the untrained encoder")
    parser.add_argument(
        "--max-windows", type=int, default=20_000, help="train windows that a probe is fitted on at most"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="windows encoded at once")
    parser.add_argument("--device", help="torch device (default: the first GPU, else the CPU)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, then print the headline and where the report is."""
    results = evaluate_run(
        args.run,
        args.data,
        args.out,
        protocol=args.protocol,
        seeds=args.seeds,
        max_windows=args.max_windows,
        batch_size=args.batch_size,
        device=args.device,
    )
    out = args.out or args.run
    print(headline_text(results))
    print(f"page: {out / 'report.html'}   as Markdown: {out / 'report.md'}   numbers: {out / 'results.json'}")
