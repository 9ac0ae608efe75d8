"""The tree of a model repository: the files that `AutoModel` loads, results, plots and card.

README.md  floor_plan.png  results.json  plots/  report.html  .eval_results/casita.yaml
config.json  model.safetensors  processor_config.json  sensor_embeddings.safetensors  training.json  *.py
"""

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from casita.datasets_scripts.schema import HomeFolder
from casita.files import hash_file, hash_json, read_json, slug, write_json
from casita.model_cards.homes import (
    data_of_run,
    home_facts,
    is_open,
    paths_in,
    refuse_local_model,
    released_homes,
    without_paths,
)
from casita.model_cards.metadata import Release, check_results, evaluation_entries
from casita.model_cards.render import render_model_card
from casita.model_cards.tree_files import written_tree
from casita.results import Results

NEEDED = ("config.json", "model.safetensors", "processor_config.json", "training.json")
EVALUATION_KEYS = ("settings", "data", "headline", "protocols")  # of results.json: what depends on weights and data
# Plots that show sums over windows; others may show somebody's day.
PLOTS_OF_SUMS = (
    "calibration",
    "classes",
    "confusion",
    "few_shot",
    "loss",
    "per_class",
    "reliability",
    "retrieval",
    "training",
)


def write_model_tree(
    run: Path,
    out: Path,
    repo_id: str,
    *,
    home: Path | None = None,
    dataset: str | None = None,
    permission: bool = False,
    watts: float | None = None,
) -> Path:
    """Write the tree of a model repository into `out`.

    Args:
        run: an evaluated run folder: `model/`, `config.yaml`, `results.json`, `plots/`.
        repo_id: `ORG/NAME` on the Hub, for what the card shows.
        home: the home folder that it was trained on, or the folder of several; by default what `config.yaml` names.
        dataset: that home's dataset repository, if it has one, `ORG/NAME` or `ORG/NAME@COMMIT`: for the card and
            `.eval_results/`; by default what `config.yaml` names, if it was trained on one.
        permission: whoever may allow it has allowed that the recording is passed on. Without it, of a home that is not
            open, plots and pages that show single windows are left out.
        watts: what each device is assumed to have drawn, for an estimate of the energy; None gives none.

    Raises:
        FileNotFoundError: the run is not evaluated, or a file is missing.
        ValueError: results of other weights, a leak audit that is not zero, a text or vision model that only this
            machine has, homes that are not the model's.
    """
    run = Path(run)
    config, processor, training = read_model(run)
    results = read_results(run)
    data = data_of_run(run)
    if data is None:
        raise FileNotFoundError(f"{run / 'config.yaml'}: no such file, so {run} is no complete run. See: casita train")
    homes = trained_homes(run, Path(home or data), processor)
    dataset = dataset or (data if "@" in data and not Path(data).exists() else None)  # training pins a commit
    may_show_windows = permission or all(is_open(each) for each in homes)
    with written_tree(out) as tree:
        copy_model(run / "model", tree)
        public_results = write_results(tree, training, results, dataset)
        release: Release = {
            "repo_id": repo_id,
            "dataset": dataset,
            "homes": [home_facts(each) for each in homes],
            "plans": copy_plans(homes, tree, permission),
            "plots": copy_plots(run, tree, results, may_show_windows),
            "report": may_show_windows and copy_report(run / "report.html", tree, results),
            "watts": watts,
        }
        card = render_model_card(config, processor, training, public_results, release)
        (tree / "README.md").write_text(card, encoding="utf-8")
    return Path(out)


def read_model(run: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read configuration, processor and training of a run's model, the last without paths."""
    model = run / "model"
    for name in NEEDED:
        if not (model / name).is_file():
            raise FileNotFoundError(f"{model / name}: no such file, so {run} is no complete run. See: casita train")
    processor = read_json(model / "processor_config.json")
    for name in ("text_model", "vision_model"):
        refuse_local_model(processor[name] or "", model / "processor_config.json")
    return read_json(model / "config.json"), processor, without_paths(read_json(model / "training.json"))


def copy_model(model: Path, tree: Path) -> None:
    """Copy what `AutoModel` and `AutoProcessor` load, but for what a release writes anew."""
    for path in sorted(model.iterdir()):
        if path.is_file() and path.name not in ("README.md", "training.json", "evaluation.json"):
            shutil.copyfile(path, tree / path.name)


def write_results(tree: Path, training: Mapping[str, Any], results: Results, dataset: str | None) -> Results:
    """Write training.json, results.json and, with a `dataset`, `.eval_results/`; return the results without paths."""
    public_results: Results = without_paths(results)
    write_json(tree / "training.json", training)
    write_json(tree / "results.json", public_results)
    if dataset:
        (tree / ".eval_results").mkdir()
        entries = evaluation_entries(public_results, dataset)
        (tree / ".eval_results" / "casita.yaml").write_text(entries, encoding="utf-8")
    return public_results


def read_results(run: Path) -> Results:
    """Read the run's results, if they are those of its weights; see `train.inference.model_directory.write_card`."""
    path = run / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, and no card is released without. Run: casita evaluate {run}")
    results: Results = read_json(path)
    check_results(results)
    recorded = run / "model" / "evaluation.json"
    if not recorded.is_file() or read_json(recorded) != evaluation_record(run / "model", results):
        raise ValueError(f"{path}: not what these weights gave on their own home. Run: casita evaluate {run}")
    for scores in results.get("protocols", {}).values():
        about: Any = scores.get("about", {})
        if "told" in about:  # its name in release 0.1; only now, for the record has the hash of what the file says
            about["description"] = about.pop("told")
    return results


def evaluation_record(model_directory: Path, results: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of the weights that were evaluated, and of the result: equal as long as neither changed."""
    evaluation = {name: results[name] for name in EVALUATION_KEYS if name in results}
    return {"weights": hash_file(model_directory / "model.safetensors"), "results": hash_json(evaluation)}


def trained_homes(run: Path, home: Path, processor: Mapping[str, Any]) -> list[HomeFolder]:
    """Return the homes of the model, in the order of its processor."""
    if not home.is_dir():
        raise FileNotFoundError(f"{home}: no such folder, on which {run} was trained. Name the home folder.")
    homes = {each.name: each for each in released_homes(home)}
    names = processor.get("homes") or [processor["home"]]
    if missing := [name for name in names if name not in homes]:
        raise ValueError(f"{home}: holds {', '.join(homes)}, the model was trained on {', '.join(missing)} too.")
    return [homes[name] for name in names]


def copy_plans(homes: Sequence[HomeFolder], tree: Path, permission: bool) -> list[tuple[str, str]]:
    """Copy the drawn floor plans of the first homes, and return names and files.

    A picture of somebody's plan needs permission.
    """
    plans = []
    for home in homes[:4]:
        if is_open(home) or permission or "floor_plan" not in home.layout:
            name = "floor_plan.png" if len(homes) == 1 else f"floor_plan_{slug(home.name)}.png"
            shutil.copyfile(home.require(home.root / "contact_sheet.png", "draw"), tree / name)
            plans.append((home.name, name))
    return plans


def copy_plots(run: Path, tree: Path, results: Results, may_show_windows: bool) -> list[str]:
    """Copy the plots that results.json names and that are there, and return their names."""
    copied = []
    for name in results.get("plots", []):
        is_public = may_show_windows or Path(name).name.startswith(PLOTS_OF_SUMS)
        if is_public and (run / name).is_file():
            (tree / "plots").mkdir(exist_ok=True)
            shutil.copyfile(run / name, tree / "plots" / Path(name).name)
            copied.append(name)
    return copied


def copy_report(path: Path, tree: Path, results: Results) -> bool:
    """Copy the report, in which the paths of its results become names, and return whether there is one."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    for word in sorted(paths_in(results), key=len, reverse=True):
        text = text.replace(escape(word), escape(Path(word).name))
    (tree / path.name).write_text(text, encoding="utf-8")
    return True
