"""Every number of docs/RESULTS.md, from raw logs: build the homes, train the rows, score them, write the tables.

    python -m casita.train.experiments.results --data FOLDER_OF_RAW_LOGS --work results

What is done is not done again: homes and trainings know by themselves, scores by the hash of what they read. On the
page only the lines between `<!-- table NAME -->` and `<!-- end -->` are written; no number there is typed by hand.
"""

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from casita import cli
from casita.datasets_scripts.schema import HomeFolder
from casita.files import hash_file, hash_json, locked, read_json, write_json
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.configs.train_config import CONFIGS
from casita.train.experiments.compare import PRELOAD
from casita.train.experiments.grid import Grid, Job, has_results, load_grid, make_jobs
from casita.train.experiments.result_scores import FORMAT, baselines, finetuned_row, score_row, transfer
from casita.train.experiments.result_tables import fill_page
from casita.train.training.checkpoint import checkpoints, read_progress

PLAN = CONFIGS / "results" / "plan.yaml"
PAGE = Path("docs/RESULTS.md")


def make_results(
    data: Path, work: Path, page: Path, only: Sequence[str] | None = None, plan: Path = PLAN
) -> dict[str, Any]:
    """Do what `plan` asks for and is not done, write `work/results.json`, and fill the tables of `page`.

    Args:
        data: folder with the raw logs, as the plan names them.
        work: folder for homes, runs and scores.
        only: sections of the plan to do, None: all; the others' numbers are taken as they are.
        plan: YAML with `homes`, the commands that make each, and `sections`, each a grid and what is asked of it.

    Returns:
        The content of `results.json`: of each section its rows.

    Raises:
        RuntimeError: a command failed; the message has its words.
    """
    told = yaml.safe_load(plan.read_text(encoding="utf-8"))
    if unknown := set(only or ()) - set(told["sections"]):
        raise ValueError(f"sections {sorted(unknown)} are unknown; there are: {', '.join(told['sections'])}.")
    with locked(work, "casita results"):
        for name, section in told["sections"].items():
            if only is not None and name not in only:
                continue
            for home in section["homes"]:
                build(home, told["homes"], data, work)
            DOERS[section["kind"]](name, section, work)
        found = {name: scores for name in told["sections"] if (scores := _read(work, name))}
        write_json(work / "results.json", found)
    if page.is_file():
        fill_page(page, found)
    return found


def build(name: str, homes: Mapping[str, Any], data: Path, work: Path) -> Path:
    """The home folder of that name, by its commands in the plan; a `copy_of` another home begins with its files."""
    told, folder = homes[name], work / "homes" / name
    if source := told.get("copy_of"):
        build(source, homes, data, work)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(work / "homes" / source, folder, ignore=shutil.ignore_patterns("tensors"))
    for words in told["commands"]:
        casita(*(word.format(data=data, home=folder) for word in words.split()))
    return folder


def casita(*words: str) -> float:
    """Run a command of Casita in a process of its own; the seconds it took."""
    began = time.monotonic()
    print("casita", *words, flush=True)
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=(list(words),))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}: casita {' '.join(words)}")
    return time.monotonic() - began


def _run(words: list[str]) -> None:
    sys.exit(cli.main(words))


# ------------------------------------------------------------------------------------------------ kinds of sections
def compare_rows(name: str, section: Mapping[str, Any], work: Path) -> None:
    """A grid: each row trained with each seed, fine-tuned where it says so, and scored over its seeds together.

    `scored_in`: another home folder with the same windows otherwise labelled, to score the rows in.
    What is finished of the section is written after each row.
    """
    grid = with_data(load_grid(section["grid"]), work)
    seeds = section.get("seeds") or grid.seeds or [0, 1, 2]
    jobs = make_jobs(grid, work, seeds)
    told: dict[str, Any] = {"seeds": seeds, "rows": {}, "baselines": {}}
    for row in grid.rows:
        mine = [job for job in jobs if row.name in job.rows]
        for job in mine:
            train(job)
        found = _scored(name, row.name, section, work, mine) if section.get("score", True) else {}
        tuned = [job.finetunes[row.name] for job in mine if row.name in job.finetunes]
        told["rows"][row.name] = {**found, **_finetuned(name, row.name, work, tuned), **cost(mine)}
        if section.get("baselines", False) and not told["baselines"]:
            told["baselines"] = _beside(name, section, work, mine[0])
        write_json(work / "scores" / f"{name}.json", told)


def _scored(name: str, row: str, section: Mapping[str, Any], work: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    how = {key: section[key] for key in ("context", "baselines", "analysis") if key in section} | _places(section)
    home = _home(section, work, jobs[0])
    return _once(
        work / "scores" / name / f"{hash_json(row)[:12]}.json",
        [how, hash_file(home.windows), *(hash_file(job.run / "model" / "model.safetensors") for job in jobs)],
        lambda: score_row(home, [job.run for job in jobs], **how),
    )


def _home(section: Mapping[str, Any], work: Path, job: Job) -> HomeFolder:
    if "scored_in" in section:
        return HomeFolder(work / "homes" / section["scored_in"])
    return HomeFolder(Path(job.config.data))


def _beside(name: str, section: Mapping[str, Any], work: Path, job: Job) -> dict[str, Any]:
    home, style = _home(section, work, job), job.config.caption_style
    how = {key: section.get(key, False) for key in ("context", "analysis")}
    seeds = section.get("untrained", 3)
    return _once(
        work / "scores" / name / "baselines.json",
        [how, seeds, hash_file(home.windows), hash_file(home.captions(style)), _places(section)],
        lambda: baselines(
            home,
            style,
            job.config.text_model,
            job.run,
            seeds=seeds,
            **how,
            **_places(section),
        ),
    )


def _places(section: Mapping[str, Any]) -> dict[str, Any]:
    if "place_prompts" not in section:
        return {}
    return {"places": yaml.safe_load((PLAN.parent / section["place_prompts"]).read_text(encoding="utf-8"))}


def with_data(grid: Grid, work: Path) -> Grid:
    """The grid with its rows' `data` below `work`."""
    rows = []
    for row in grid.rows:
        tuned = row.finetune
        if tuned and "data" in tuned:
            tuned = {**tuned, "data": str(work / tuned["data"])}
        rows.append(replace(row, settings={**row.settings, "data": str(work / row.config().data)}, finetune=tuned))
    return replace(grid, rows=rows)


def train(job: Job) -> None:
    """The job's training and fine-tunings; not the evaluation of `casita compare`, for rows are scored together."""
    for words in job.commands("chronological", 1):
        if (words[0] == "train" and not _trained(job)) or (words[0] == "finetune" and not _tuned(job, words)):
            took = casita(*words)
            if words[0] == "train":
                wall = job.run.with_name(f"{job.run.name}.wall.json")
                before = read_json(wall)["seconds"] if wall.is_file() else 0.0
                write_json(wall, {"seconds": before + took})


def _trained(job: Job) -> bool:
    """Whether the training is finished and its model there; its checkpoints may be of an older version."""
    found = checkpoints(job.run)
    return bool(found) and (job.run / "model" / "model.safetensors").is_file() and read_progress(found[-1]).finished


def _tuned(job: Job, words: Sequence[str]) -> bool:
    return any(has_results(c) for c in job.finetunes.values() if str(Path(c.out).with_suffix(".yaml")) == words[-1])


def _finetuned(name: str, row: str, work: Path, configs: Sequence[FinetuneConfig]) -> dict[str, Any]:
    if not configs:
        return {}
    home = HomeFolder(Path(configs[0].data))
    weights = [hash_file(Path(config.out) / "model" / "model.safetensors") for config in configs]
    path = work / "scores" / name / f"{hash_json(row)[:12]}-finetuned.json"
    return {"finetuned": _once(path, [hash_file(home.windows), *weights], lambda: finetuned_row(home, configs))}


def cost(jobs: Sequence[Job]) -> dict[str, Any]:
    """Seconds of each seed's training, on whatever else the machine was doing."""
    walls = [job.run.with_name(f"{job.run.name}.wall.json") for job in jobs]
    return {"training": [read_json(wall) for wall in walls if wall.is_file()]}


def move_rows(name: str, section: Mapping[str, Any], work: Path) -> None:
    """A grid trained on some homes, evaluated in another by its pictures."""
    grid = with_data(load_grid(section["grid"]), work)
    jobs = make_jobs(grid, work, section.get("seeds") or [0, 1, 2])
    for job in jobs:
        train(job)
    target, rows = work / "homes" / section["target"], {}
    for row in grid.rows:
        runs = [job.run for job in jobs if row.name in job.rows]
        weights = [hash_file(run / "model" / "model.safetensors") for run in runs]
        path = work / "scores" / name / f"{hash_json(row.name)[:12]}.json"
        rows[row.name] = _once(path, weights, lambda runs=runs: transfer(runs, target, work / "evaluated" / name))
    write_json(work / "scores" / f"{name}.json", {"rows": rows})


DOERS = {"rows": compare_rows, "transfer": move_rows}


def _once(path: Path, reads: Sequence[Any], make: Any) -> dict[str, Any]:
    """What `make` gives, kept in a file with a hash of what it was made from."""
    key = hash_json([FORMAT, *reads])
    if path.is_file() and (kept := read_json(path))["key"] == key:
        return kept["found"]
    found = make()
    write_json(path, {"key": key, "found": found})
    return found


def _read(work: Path, name: str) -> dict[str, Any] | None:
    path = work / "scores" / f"{name}.json"
    return read_json(path) if path.is_file() else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the raw logs (CASITA_DATA)")
    parser.add_argument("--work", type=Path, default=Path("results"), metavar="DIR", help="homes, runs and scores")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"whose tables to fill (default: {PAGE})")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help=f"sections of {PLAN.name}; none: only the tables")


def main() -> None:
    """`python -m casita.train.experiments.results`."""
    parser = argparse.ArgumentParser(
        prog="python -m casita.train.experiments.results", description=__doc__.splitlines()[0]
    )
    add_arguments(parser)
    args = parser.parse_args()
    try:
        make_results(args.data, args.work, args.page, args.only)
    except (ValueError, OSError, RuntimeError) as error:  # what failed within a command has told its own line
        parser.error(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
