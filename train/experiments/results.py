"""Every number of docs/RESULTS.md, from raw logs: build the homes, train the rows, score them, write the tables.

    python -m casita.train.experiments.results --data FOLDER_OF_RAW_LOGS --work results

What is done is not done again: homes and trainings know by themselves, scores by the hash of what they read. On the
page only the lines between `<!-- table NAME -->` and `<!-- end -->` are written; no number there is typed by hand.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from casita import cli
from casita.datasets_scripts.schema import HomeFolder
from casita.files import hash_file, hash_json, locked, read_json, write_json
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.configs.train_config import CONFIGS
from casita.train.experiments.compare import process_context
from casita.train.experiments.grid import Grid, Job, has_results, load_grid, make_jobs
from casita.train.experiments.result_scores import (
    FORMAT,
    PageRow,
    score_baselines,
    score_finetuned,
    score_row,
    score_transfer,
)
from casita.train.experiments.result_tables import Section, fill_page

PLAN = CONFIGS / "results" / "plan.yaml"
PAGE = Path("docs/RESULTS.md")


def make_results(
    data: Path, work: Path, page: Path, only: Sequence[str] | None = None, plan: Path = PLAN
) -> dict[str, Section]:
    """Do what `plan` asks for and is not done, write `work/results.json`, and fill the tables of `page`.

    Args:
        data: folder with the raw logs, as the plan names them.
        work: folder for homes, runs and scores.
        only: sections of the plan to do, None: all; the others' numbers are taken as they are.
        plan: YAML with `homes`, the commands that make each, and `sections`, each a grid and what to score.

    Returns:
        The content of `results.json`: of each section its rows.

    Raises:
        RuntimeError: a command failed; the message has its words.
    """
    planned = yaml.safe_load(plan.read_text(encoding="utf-8"))
    if unknown := set(only or ()) - set(planned["sections"]):
        raise ValueError(f"sections {sorted(unknown)} are unknown; there are: {', '.join(planned['sections'])}.")
    with locked(work, "casita results"):
        for name, section in planned["sections"].items():
            if only is not None and name not in only:
                continue
            for home in section["homes"]:
                build(home, planned["homes"], data, work)
            KINDS[section["kind"]](name, section, work)
        sections = {name: scores for name in planned["sections"] if (scores := _read_section(work, name))}
        write_json(work / "results.json", sections)
    if page.is_file():
        fill_page(page, sections)
    return sections


def build(name: str, homes: Mapping[str, Any], data: Path, work: Path) -> Path:
    """Make the home folder of that name by its commands in the plan; a `copy_of` another begins with its files."""
    planned = homes[name]
    folder = work / "homes" / name
    if source := planned.get("copy_of"):
        build(source, homes, data, work)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(work / "homes" / source, folder, ignore=shutil.ignore_patterns("tensors"))
    for words in planned["commands"]:
        casita(*(word.format(data=data, home=folder) for word in words.split()))
    return folder


def casita(*words: str) -> float:
    """Run a command of Casita in a process of its own; return the seconds it took."""
    began = time.monotonic()
    print("casita", *words, flush=True)
    process = process_context().Process(target=_run, args=(list(words),))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}: casita {' '.join(words)}")
    return time.monotonic() - began


def _run(words: list[str]) -> None:
    sys.exit(cli.main(words))


# ------------------------------------------------------------------------------------------------ kinds of sections
def compare_rows(name: str, section: Mapping[str, Any], work: Path) -> None:
    """Do a grid: each row trained with each seed, fine-tuned where it says so, and scored over its seeds together.

    `scored_in`: another home folder with the same windows otherwise labelled, to score the rows in.
    What is finished of the section is written after each row.
    """
    grid = with_data(load_grid(section["grid"]), work)
    seeds = section.get("seeds") or grid.seeds or [0, 1, 2]
    jobs = make_jobs(grid, work, seeds)
    rows: dict[str, PageRow] = {}
    baselines: PageRow = {}
    for row in grid.rows:
        row_jobs = [job for job in jobs if row.name in job.rows]
        for job in row_jobs:
            train(job)
        scores: PageRow = {}
        if section.get("score", True):
            scores |= _score(name, row.name, section, work, row_jobs)
        if configs := [job.finetunes[row.name] for job in row_jobs if row.name in job.finetunes]:
            scores |= _score_finetuned(name, row.name, work, configs)
        # Seconds of each seed's training, on whatever else the machine was doing.
        walls = [job.run.with_suffix(".wall.json") for job in row_jobs]
        rows[row.name] = {**scores, "training": [read_json(wall) for wall in walls if wall.is_file()]}
        if section.get("baselines", False) and not baselines:
            baselines = _score_baselines(name, section, work, row_jobs[0], seeds)
        _write_section(work, name, {"rows": rows, "baselines": baselines})


def _score(name: str, row: str, section: Mapping[str, Any], work: Path, jobs: Sequence[Job]) -> PageRow:
    options = {key: section[key] for key in ("context", "baselines", "analysis") if key in section} | _places(section)
    home = _home(section, work, jobs[0])
    runs = [job.run for job in jobs]
    return _once(
        work / "scores" / name / f"{hash_json(row)[:12]}.json",
        [options, hash_file(home.windows), *_weights(runs)],
        lambda: score_row(home, runs, **options),
    )


def _home(section: Mapping[str, Any], work: Path, job: Job) -> HomeFolder:
    if "scored_in" in section:
        return HomeFolder(work / "homes" / section["scored_in"])
    return HomeFolder(Path(job.config.data))


def _score_baselines(name: str, section: Mapping[str, Any], work: Path, job: Job, draws: Sequence[int]) -> PageRow:
    home = _home(section, work, job)
    options = {key: section.get(key, False) for key in ("context", "analysis")}
    options |= {"untrained": section.get("untrained", 3), "draws": list(draws), **_places(section)}
    return _once(
        work / "scores" / name / "baselines.json",
        [options, hash_file(home.windows), hash_file(home.captions(job.config.caption_style))],
        lambda: score_baselines(home, job.run, **options),
    )


def _places(section: Mapping[str, Any]) -> dict[str, Any]:
    if "place_prompts" not in section:
        return {}
    return {"places": yaml.safe_load((PLAN.parent / section["place_prompts"]).read_text(encoding="utf-8"))}


def with_data(grid: Grid, work: Path) -> Grid:
    """Put the `data` of the grid's rows below `work`."""
    rows = []
    for row in grid.rows:
        tuned = row.finetune
        if tuned and "data" in tuned:
            tuned = {**tuned, "data": str(work / tuned["data"])}
        rows.append(replace(row, settings={**row.settings, "data": str(work / row.config().data)}, finetune=tuned))
    return replace(grid, rows=rows)


def train(job: Job) -> None:
    """Do the job's training and fine-tunings; not the evaluation of `casita compare`: rows are scored together."""
    # Not by `has_results`: the checkpoints may be of an older version.
    is_trained = (job.run / "model" / "model.safetensors").is_file() and job.is_trained()
    untuned = {str(Path(c.out).with_suffix(".yaml")) for c in job.finetunes.values() if not has_results(c)}
    for words in job.commands("chronological", 1):
        if words[0] == "train" and not is_trained:
            took = casita(*words)
            wall = job.run.with_suffix(".wall.json")
            before = read_json(wall)["seconds"] if wall.is_file() else 0.0
            write_json(wall, {"seconds": before + took})
        elif words[0] == "finetune" and words[-1] in untuned:
            casita(*words)


def _score_finetuned(name: str, row: str, work: Path, configs: Sequence[FinetuneConfig]) -> PageRow:
    home = HomeFolder(Path(configs[0].data))
    return _once(
        work / "scores" / name / f"{hash_json(row)[:12]}-finetuned.json",
        [hash_file(home.windows), *_weights([Path(config.out) for config in configs])],
        lambda: {"finetuned": score_finetuned(home, configs)},
    )


def _weights(runs: Sequence[Path]) -> list[str]:
    """Hash the weights of each run."""
    return [hash_file(run / "model" / "model.safetensors") for run in runs]


def transfer_rows(name: str, section: Mapping[str, Any], work: Path) -> None:
    """Train a grid on some homes, and evaluate it in another by its pictures."""
    grid = with_data(load_grid(section["grid"]), work)
    jobs = make_jobs(grid, work, section.get("seeds") or [0, 1, 2])
    for job in jobs:
        train(job)
    target = work / "homes" / section["target"]
    rows: dict[str, PageRow] = {}
    for row in grid.rows:
        runs = [job.run for job in jobs if row.name in job.rows]
        path = work / "scores" / name / f"{hash_json(row.name)[:12]}.json"
        rows[row.name] = _once(path, _weights(runs), partial(score_transfer, runs, target, work / "evaluated" / name))
    _write_section(work, name, {"rows": rows})


KINDS = {"rows": compare_rows, "transfer": transfer_rows}


def _once(path: Path, reads: Sequence[Any], make: Callable[[], PageRow]) -> PageRow:
    """Make a row's scores, or read those made before: a file keeps them with a hash of what they read."""
    key = hash_json([FORMAT, *reads])
    if path.is_file() and (kept := read_json(path))["key"] == key:
        return kept["scores"]
    scores = make()
    write_json(path, {"key": key, "scores": scores})
    return scores


def _write_section(work: Path, name: str, section: Section) -> None:
    write_json(work / "scores" / f"{name}.json", {"format": FORMAT, "section": section})


def _read_section(work: Path, name: str) -> Section | None:
    """Read the section's numbers; None where there are none, or those of an older version."""
    path = work / "scores" / f"{name}.json"
    stored = read_json(path) if path.is_file() else {}
    return stored["section"] if stored.get("format") == FORMAT else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command line."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the raw logs (CASITA_DATA)")
    parser.add_argument("--work", type=Path, default=Path("results"), metavar="DIR", help="homes, runs and scores")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"whose tables to fill (default: {PAGE})")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help=f"sections of {PLAN.name}; none: only the tables")


def main() -> None:
    """Run `python -m casita.train.experiments.results`."""
    parser = argparse.ArgumentParser(
        prog="python -m casita.train.experiments.results", description=__doc__.splitlines()[0]
    )
    add_arguments(parser)
    args = parser.parse_args()
    try:
        make_results(args.data, args.work, args.page, args.only)
    except (ValueError, OSError, RuntimeError) as error:  # a command that failed has printed its own line
        parser.error(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
