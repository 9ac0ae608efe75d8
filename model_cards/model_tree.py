"""The tree of a model repository: what `AutoModel` loads, its results, plots and card.

README.md  floor_plan.png  results.json  plots/  report.html  .eval_results/casita.yaml
config.json  model.safetensors  processor_config.json  sensor_embeddings.safetensors  training.json  *.py
"""

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from casita.files import hash_file, hash_json, read_json, write_json
from casita.model_cards.homes import ReleasedHome, paths_in, refuse_local_model, released_homes, without_paths
from casita.model_cards.metadata import check_results, evaluation_entries
from casita.model_cards.render import render_model_card
from casita.model_cards.tree_files import written_tree

NEEDED = ("config.json", "model.safetensors", "processor_config.json", "training.json")
JUDGED = ("settings", "data", "headline", "protocols")  # of results.json: what the evaluation of these weights is
# Plots that show sums over windows; others may show somebody's day.
SUMS = ("calibration", "classes", "confusion", "few_shot", "loss", "per_class", "reliability", "retrieval", "training")


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
        watts: what each device is assumed to have drawn, for an estimate of the energy; None tells none.

    Raises:
        FileNotFoundError: the run is not evaluated, or a file is missing.
        ValueError: results of other weights, a leak audit that is not zero, a text or vision model that only this
            machine has, homes that are not the model's.
    """
    run = Path(run)
    config, processor, training = read_model(run)
    results = read_results(run)
    data = str(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"])
    homes = trained_homes(run, Path(home or data), processor)
    dataset = dataset or (data if "@" in data and not Path(data).exists() else None)  # training pins a commit
    shown = permission or all(each.is_open for each in homes)
    with written_tree(out) as tree:
        copy_model(run / "model", tree)
        plain = write_evidence(tree, training, results, dataset)
        release = {
            "repo_id": repo_id,
            "dataset": dataset,
            "homes": [each.facts for each in homes],
            "plans": copy_plans(homes, tree, permission),
            "plots": copy_plots(run, tree, results, shown),
            "report": shown and copy_report(run / "report.html", tree, results),
            "watts": watts,
        }
        card = render_model_card(config, processor, training, plain, release)
        (tree / "README.md").write_text(card, encoding="utf-8")
    return Path(out)


def read_model(run: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Configuration, processor and training of a run's model, the last without paths; what it lacks is named."""
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


def write_evidence(
    tree: Path, training: Mapping[str, Any], results: Mapping[str, Any], dataset: str | None
) -> dict[str, Any]:
    """Write training.json, results.json and, with a `dataset`, `.eval_results/`; the results, without paths."""
    plain = without_paths(results)
    write_json(tree / "training.json", training)
    write_json(tree / "results.json", plain)
    if dataset:
        (tree / ".eval_results").mkdir()
        (tree / ".eval_results" / "casita.yaml").write_text(evaluation_entries(plain, dataset), encoding="utf-8")
    return plain


def read_results(run: Path) -> dict[str, Any]:
    """The run's results, if they are those of its weights; see `casita.train.inference.model_directory.write_card`."""
    path, judged = run / "results.json", run / "model" / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, and no card is released without. Run: casita evaluate {run}")
    results = read_json(path)
    check_results(results)
    told = read_json(judged) if judged.is_file() else {}
    if told != evaluation_record(run / "model", results):
        raise ValueError(f"{path}: not what these weights gave on their own home. Run: casita evaluate {run}")
    return results


def evaluation_record(model_directory: Path, results: Mapping[str, Any]) -> dict[str, str]:
    """Which weights were evaluated, and with what result: equal as long as neither changed."""
    judged = {name: results[name] for name in JUDGED if name in results}
    return {"weights": hash_file(model_directory / "model.safetensors"), "results": hash_json(judged)}


def trained_homes(run: Path, home: Path, processor: Mapping[str, Any]) -> list[ReleasedHome]:
    """The homes of the model, in the order of its processor."""
    if not home.is_dir():
        raise FileNotFoundError(f"{home}: no such folder, on which {run} was trained. Name the home folder.")
    found = {each.name: each for each in released_homes(home)}
    names = processor.get("homes") or [processor["home"]]
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{home}: holds {', '.join(found)}, the model was trained on {', '.join(missing)} too.")
    return [found[name] for name in names]


def copy_plans(homes: Sequence[ReleasedHome], tree: Path, permission: bool) -> list[tuple[str, str]]:
    """Copy the drawn floor plans of the first homes; name and file. A picture of somebody's plan needs permission."""
    plans = []
    for home in homes[:4]:
        if home.is_open or permission or "floor_plan" not in home.layout:
            name = "floor_plan.png" if len(homes) == 1 else f"floor_plan_{home.slug}.png"
            shutil.copyfile(home.require("contact_sheet.png", "draw"), tree / name)
            plans.append((home.name, name))
    return plans


def copy_plots(run: Path, tree: Path, results: Mapping[str, Any], shown: bool) -> list[str]:
    """Copy the plots that results.json names; without `shown` only those of sums over windows."""
    names = [name for name in results.get("plots", []) if shown or Path(name).name.startswith(SUMS)]
    return [name for name in names if copy_if_there(run / name, tree / "plots")]


def copy_if_there(path: Path, folder: Path) -> bool:
    """Copy a file of the run into `folder`; whether it is there."""
    if path.is_file():
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.name)
    return path.is_file()


def copy_report(path: Path, tree: Path, results: Mapping[str, Any]) -> bool:
    """Copy the report, in which the paths that its results hold are names only; whether it is there."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    for word in sorted(paths_in(results), key=len, reverse=True):
        text = text.replace(escape(word), escape(Path(word).name))
    (tree / path.name).write_text(text, encoding="utf-8")
    return True
