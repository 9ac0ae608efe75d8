"""Evaluate a run on windows that it was not fitted to, beside the baselines; report and plots.

`casita evaluate runs/demo` reads `model/` and `config.yaml` of the run and the home folder it was trained on, and
writes `results.json`, `report.html`, `report.md` and `plots/`. Several runs that differ in their seed alone are one
method with a mean and a deviation. How windows are divided is a protocol's matter (`protocols.py`); measuring is
`scoring.py`'s.
"""

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casita import __version__
from casita.files import read_json, write_json
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.processing.table_files import FILE_NAME
from casita.results import MethodScores, ModelSummary, ProtocolResults, Results, Scores
from casita.train.configs.train_config import TrainConfig
from casita.train.evaluation import probes
from casita.train.evaluation.bootstrap import LEVEL, RESAMPLES
from casita.train.evaluation.encoders import TRAINED, EmbeddingCache, Encoder, load_encoders
from casita.train.evaluation.home_loader import HomeLoader
from casita.train.evaluation.inputs import describe_data, other_styles
from casita.train.evaluation.probes import Task
from casita.train.evaluation.protocol_split import FEW_SHOT, EvaluationHome
from casita.train.evaluation.protocols import PROTOCOLS, check_protocols
from casita.train.evaluation.report_inputs import ReportInputs, read_metrics
from casita.train.evaluation.scoring import Scoring, Texts
from casita.train.inference.model_directory import write_card
from casita.train.inference.swap_home import table_by
from casita.train.report.write import headline_text, write_results


def evaluate_run(
    run: Path | Sequence[Path],
    data: Path | None = None,
    out: Path | None = None,
    *,
    protocol: str | Sequence[str] = "chronological",
    learned: Sequence[Path] = (),
    target: Path | None = None,
    caption_styles: Sequence[str] | None = None,
    seeds: int = 3,
    max_windows: int = 20_000,
    batch_size: int = 256,
    device: str | None = None,
    progress: bool = True,
) -> Results:
    """Evaluate a run and write `results.json`, the report and `plots/` into `out` (the run itself), all or nothing.

    Args:
        run: folder with `model/` and `config.yaml`, as `casita train` leaves it; or several that differ in their seed
            alone, the first of which gets the report.
        data: home folder instead of the one in `config.yaml`; a home that the run does not know is read by its own
            pictures' table.
        protocol: one or several of `PROTOCOLS`; the first is the headline.
        learned: runs of the same settings whose table is learned, as a row of their own.
        target: the home of `leave_home_out`; without it `data`.
        caption_styles: styles that the run was not aligned with, for retrieval; None: all that the home has.
        seeds: random initialisations of the untrained encoder, and draws of a few labels.
        max_windows: train (and validation) windows that a probe is fitted on at most, evenly spaced.
        batch_size: windows encoded at once.
        device: torch device; the first GPU where there is one, else the CPU.

    Returns:
        The content of `results.json`.

    Raises:
        FileNotFoundError: the run or the home folder lacks a file; the message names it.
        ValueError: no labelled windows to evaluate, splits that share events, windows split by another protocol,
            captions or embeddings that belong to other windows or to another text model, runs that differ in more
            than their seed.
    """
    if seeds < 1 or max_windows < 1:
        raise ValueError(f"seeds={seeds} and max_windows={max_windows} must be at least 1.")
    runs = [Path(run)] if isinstance(run, str | Path) else [Path(path) for path in run]
    names = [protocol] if isinstance(protocol, str) else list(protocol)
    check_protocols(names)
    out = Path(out or runs[0])
    config, encoders = load_encoders(runs, [Path(path) for path in learned], seeds, device)
    loader = HomeLoader(config, encoders, data, target, names)
    draws = range(max(seeds, len(runs)))
    splits = [loader.split(name, max_windows, draws) for name in names]
    styles = other_styles(splits[0].home.folder, config, caption_styles)
    cache = EmbeddingCache(encoders, splits, loader.homes, batch_size=batch_size, progress=progress)

    by_name = {encoder.name: encoder for encoder in encoders}
    texts = Texts(config.text_model)
    protocols: dict[str, ProtocolResults] = {}
    scorings: list[Scoring] = []
    took = {f"encode, {name}": seconds for name, seconds in cache.seconds.items()}
    for split in splits:
        scoring = Scoring(split, config, by_name, cache.of_split(split), texts, progress)
        protocols[split.name] = scoring.run(styles if split is splits[0] else None)
        took |= scoring.seconds
        scorings.append(scoring)
    home = splits[0].home
    data_summary = describe_data(home.folder, home.inputs.windows, splits[0].about["leak_audit"])
    data_summary["splits"] = splits[0].about["splits"]
    results: Results = {
        "casita_version": __version__,
        "run": runs[0].resolve().name,
        "home": home.name,
        "model": describe_model(encoders[0].model, config),
        "settings": {
            "protocol": names[0],
            "protocols": names,
            "runs": [str(path) for path in runs],
            "learned": [str(path) for path in learned],
            "seeds": seeds,
            "max_windows": max_windows,
            "c_grid": list(probes.C_GRID),
            "few_shot": list(FEW_SHOT),
            "intervals": {"level": LEVEL, "resamples": RESAMPLES, "over": "whole days or sessions"},
            "command": command(runs, data, names, learned, target, caption_styles, seeds, max_windows),
        },
        "data": data_summary,
        "timing_s": {name: round(seconds, 1) for name, seconds in took.items()},
        "headline": headline(protocols[names[0]]["classification"]["labelled"]),
        "protocols": protocols,
    }
    write_results(out, results, report_inputs_of(scorings[0], runs[0]), progress)
    keep_with_the_models(runs, out, data, results, scorings[0])
    return results


def report_inputs_of(scoring: Scoring, run: Path) -> ReportInputs:
    """Collect what the report draws of the headline protocol: its test windows, as the first run sees them."""
    split = scoring.split
    test = split.test
    embeddings = next(iter(scoring.encoded.values())).take(test)
    nothing = np.zeros(0, dtype=np.int64)
    return ReportInputs(
        windows=split.windows.take(test),
        captions=[split.captions[i] for i in test],
        base=embeddings.base,
        sensor=embeddings.sensor,
        text=embeddings.text,
        layout=split.home.folder.layout_or_empty,
        table=table_of(next(iter(scoring.encoders.values())), split.home),
        answers=scoring.answers,
        tasks={
            name: Task(task.y[test], nothing, nothing, np.searchsorted(test, task.test))
            for name, task in split.tasks.items()
        },
        metrics=read_metrics(run / "metrics.jsonl"),
        queries=scoring.queries,
    )


def table_of(encoder: Encoder, home: EvaluationHome) -> SensorEmbeddingTable | None:
    """Find the picture embeddings by which the encoder reads the home; None where it learned its own."""
    if not encoder.can_move():
        return None
    stored = (encoder.run or home.folder.root) / "model" / FILE_NAME
    if encoder.processor.home == home.name and stored.is_file():
        return SensorEmbeddingTable.load(stored)
    try:
        return table_by(home.folder, encoder.processor.vision_model)
    except FileNotFoundError:  # the folder was moved without its pictures
        return None


def keep_with_the_models(
    runs: Sequence[Path], out: Path, data: Path | None, results: Results, scoring: Scoring
) -> None:
    """Store each run's zero-shot temperature with its model, and the numbers on the first one's card.

    What another home's windows gave, or another division of them, is no matter of a card nor of a calibration.
    """
    about = scoring.split.about
    as_trained = data is None and not about["seen_share"] and not about["leaky"] and about["split_by"] != "home"
    if not as_trained or out.resolve() != runs[0].resolve():
        return
    if not (runs[0] / "model" / "training.json").is_file():
        return
    zero_shot = scoring.answers["labelled"]["zero_shot"]
    for encoder in scoring.encoders.values():
        if encoder.kind == TRAINED:
            # Stored in the model's config, where pipeline and `casita ask` look.
            config_file = (encoder.run or runs[0]) / "model" / "config.json"
            temperature = zero_shot[encoder.seed].settings["temperature"]
            write_json(config_file, {**read_json(config_file), "zero_shot_temperature": temperature})
    write_card(runs[0] / "model", dict(results))


def headline(rows: MethodScores) -> list[Scores]:
    """List the labelled variant's rows in the order of the report."""
    return [{"method": name, **{k: v for k, v in row.items() if k != "seeds"}} for name, row in rows.items()]


def describe_model(model: CasitaModel, config: TrainConfig) -> ModelSummary:
    """Describe what was evaluated: the settings that name the run, and its size."""
    return {
        "preset": config.preset,
        "embedding_source": config.embedding_source,
        "vision_model": config.vision_model,
        "text_model": config.text_model,
        "caption_style": config.caption_style,
        "pooling": config.pooling,
        "seed": config.seed,
        "parameters": model.num_parameters(),
    }


def command(
    runs: Sequence[Path],
    data: Path | None,
    names: Sequence[str],
    learned: Sequence[Path],
    target: Path | None,
    styles: Sequence[str] | None,
    seeds: int,
    max_windows: int,
) -> str:
    """Compose the command that gives the same numbers again."""
    words = ["casita", "evaluate", *map(str, runs)]
    words += ["--data", str(data)] if data else []
    words += ["--target", str(target)] if target else []
    words += ["--learned", *map(str, learned)] if learned else []
    words += ["--caption-style", *styles] if styles else []
    words += ["--protocol", *names, "--seeds", str(seeds), "--max-windows", str(max_windows)]
    return shlex.join(words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita evaluate`."""
    lines = (
        textwrap.fill(f"  {name:<18} {text}", 112, subsequent_indent=21 * " ") for name, text in PROTOCOLS.items()
    )
    protocols = "\n".join(lines)
    parser.description = (
        "Evaluate a run on windows that it was not fitted to, beside the baselines: results.json, report.html.\n"
        "Several runs that differ in their seed alone give means, deviations and intervals over all of them."
    )
    parser.epilog = (
        f"protocols:\n{protocols}\n\n"
        "The encoder is as the training left it: it saw the train windows of the home's own split, without activity\n"
        "labels. A protocol that divides the windows otherwise fits all classifiers anew, and results.json says of\n"
        "which share of its test windows the encoder has seen events (seen_share).\n\n"
        "examples:\n  casita evaluate runs/demo\n"
        "  casita evaluate runs/s0 runs/s1 runs/s2 --learned runs/l0 runs/l1 runs/l2\n"
        "  casita evaluate runs/a --protocol chronological random_days shuffled_segments\n"
        "  casita evaluate runs/a --protocol leave_home_out --target homes/ordonez_a"
    )
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN", help="run folder, as casita train leaves it; or one for each seed")
    add("--data", type=Path, metavar="DIR", help="home folder or ORG/NAME@REVISION (default: RUN's)")
    add("--out", type=Path, metavar="DIR", help="where to write (default: the first RUN)")
    add("--protocol", nargs="+", default=["chronological"], metavar="NAME", help="see below (chronological)")
    add("--learned", type=Path, nargs="+", default=[], metavar="RUN", help="the same settings with a learned table")
    add("--target", type=Path, metavar="DIR", help="home of leave_home_out (default: --data)")
    add(
        "--caption-style",
        nargs="+",
        metavar="STYLE",
        help="captions of the home in other styles than the run's, to retrieve by (default: all that are embedded)",
    )
    add("--seeds", type=int, default=3, help="random initialisations of the untrained encoder; draws of few labels")
    add("--max-windows", type=int, default=20_000, help="train windows that a probe is fitted on at most")
    add("--batch-size", type=int, default=256, help="windows encoded at once")
    add("--device", help="torch device (default: the first GPU, else the CPU)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, then print the headline and where the report is."""
    results = evaluate_run(
        args.run,
        args.data,
        args.out,
        protocol=args.protocol,
        learned=args.learned,
        target=args.target,
        caption_styles=args.caption_style,
        seeds=args.seeds,
        max_windows=args.max_windows,
        batch_size=args.batch_size,
        device=args.device,
    )
    out = args.out or args.run[0]
    print(headline_text(results["headline"]))
    print(f"page: {out / 'report.html'}   as Markdown: {out / 'report.md'}   numbers: {out / 'results.json'}")
