"""The rows of a comparison: a YAML file with a base configuration and what varies."""

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from casita.datasets_scripts.schema import slug
from casita.files import hash_json, read_json
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.configs.settings import ContradictingSettings, read_flat_yaml, read_settings
from casita.train.configs.train_config import CONFIGS, MAY_CHANGE, RunConfig, TrainConfig, find_config, save_config
from casita.train.training.checkpoint import checkpoints, read_progress

GRIDS = CONFIGS / "grids"
KEYS = ("base", "grid", "rows", "finetune", "seeds")


@dataclass(frozen=True)
class Row:
    """One line of the table: `settings` over the base configuration, and the settings of a fine-tuning after it."""

    name: str
    base: Path
    settings: Mapping[str, Any]
    finetune: Mapping[str, Any] | None = None

    def config(self, out: Path | str = "run", seed: int | None = None) -> TrainConfig:
        """Return the run's configuration with the folder and the seed given."""
        of_run = {"out": str(out)} | ({} if seed is None else {"seed": seed})
        return read_settings(TrainConfig, self.base, {**self.settings, **of_run})

    def finetune_config(self, run: Path | str, data: str, out: Path | str, seed: int) -> FinetuneConfig | None:
        """Return the fine-tuning of `run`, None where the row has none; on `data` unless the row names other."""
        if self.finetune is None:
            return None
        of_run = {"model": str(run), "out": str(out), "seed": seed}
        return read_settings(FinetuneConfig, None, {"tracker": None, "data": data, **self.finetune, **of_run})

    @property
    def trained(self) -> dict[str, Any]:
        """Return the settings that the training depends on: all but those that this row does not read."""
        settings = self.config().as_dict()
        unread = {"out", "seed"} | ({"vision_model"} if settings["embedding_source"] == "learned" else set())
        return {name: value for name, value in settings.items() if name not in unread}


@dataclass(frozen=True)
class Grid:
    """Rows, all different; `left_out` says which cells are no rows of their own and why."""

    rows: list[Row]
    left_out: list[str]
    seeds: list[int] | None

    @property
    def folders(self) -> list[str]:
        """Name a folder for each row's training; rows that differ in their fine-tuning alone share it."""
        first: dict[str, str] = {}
        for row in self.rows:
            first.setdefault(hash_json(row.trained), f"{slug(row.name)}-{hash_json(row.trained)[:6]}")
        return [first[hash_json(row.trained)] for row in self.rows]


def load_grid(path: str | Path) -> Grid:
    """Read the grid in a YAML file (or the shipped one of that name).

    `base`: a configuration; `grid`: lists of values by setting, of which all combinations are rows; `rows`: rows by
    name, with their settings; `finetune`: settings of `casita finetune`, for all rows, or as a setting of a row.

    Combinations that contradict themselves are left out, and those that train the same are one row.

    Raises:
        FileNotFoundError: no such grid or base. ValueError: an unknown key or setting, or no rows.
    """
    file = find_config(path, GRIDS)
    content: dict[str, Any] = {}
    for key, value, line in read_flat_yaml(file):
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}."
            raise ValueError(f"{file}:{line}: there is no key {key!r}; {hint}")
        content[key] = value
    if "base" not in content:
        raise ValueError(f"{file}: no value for base. Name a configuration there, such as demo.")
    base, finetune = find_config(content["base"]), content.get("finetune")
    left_out: list[str] = []
    rows = [*_named(file, base, content.get("rows") or {}, finetune)]
    rows += _combined(file, base, content.get("grid") or {}, finetune, left_out)
    if not rows:
        raise ValueError(f"{file}: no rows. Give grid: with lists of values, or rows: with settings by name.")
    return Grid(_distinct(rows, left_out), left_out, content.get("seeds"))


def _named(file: Path, base: Path, rows: Mapping[str, Any], finetune: Any) -> Iterator[Row]:
    if not isinstance(rows, dict) or not all(isinstance(settings or {}, dict) for settings in rows.values()):
        raise ValueError(f"{file}: rows: expected settings by name, as in `clip: {{vision_model: clip}}`.")
    for name, settings in rows.items():
        yield _checked(file, _row(str(name), base, settings or {}, finetune))


def _combined(file: Path, base: Path, grid: Mapping[str, Any], finetune: Any, left_out: list[str]) -> Iterator[Row]:
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"{file}: grid: expected lists of values by setting, as in `loss: [info_nce, sigmoid]`.")
    if not grid:
        return
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        varied = [_setting_text(key, value) for key, value in settings.items() if len(grid[key]) > 1]
        row = _row(", ".join(varied) or "base", base, settings, finetune)
        try:
            yield _checked(file, row)
        except ContradictingSettings as error:
            left_out.append(f"{row.name}: left out, {error}")


def _row(name: str, base: Path, given: Mapping[str, Any], finetune: Any) -> Row:
    settings = {key: value for key, value in given.items() if key != "finetune"}
    return Row(name, base, settings, given.get("finetune", finetune))


def _setting_text(key: str, value: Any) -> str:
    return f"{key} {yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}".replace("embedding_source ", "")


def _checked(file: Path, row: Row) -> Row:
    """Return the row, or raise a `ValueError` that names file and row if its settings make no configuration."""
    if row.finetune is not None and not isinstance(row.finetune, dict):
        raise ValueError(f"{file}: {row.name}: finetune: expected settings such as {{mode: full}}.")
    try:
        row.finetune_config("run", row.config().data, "out", 0)
    except ValueError as error:
        raise type(error)(f"{file}: {row.name}: {error}") from None
    return row


def _distinct(rows: list[Row], left_out: list[str]) -> list[Row]:
    """Keep one row for those that train and fine-tune the same, by what their names have in common."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(hash_json([row.trained, row.finetune]), []).append(row)
    kept = []
    for first, *others in alike.values():
        names = [row.name.split(", ") for row in (first, *others)]
        common = [part for part in names[0] if all(part in name for name in names)]
        kept.append(replace(first, name=", ".join(common) or first.name))
        left_out += [f"{row.name}: trains the same as {first.name}; one row, {kept[-1].name}" for row in others]
    called = [row.name for row in kept]
    if len(set(called)) < len(called):
        raise ValueError(f"row {max(called, key=called.count)!r} is there twice with other settings. Rename one.")
    return kept


# ----------------------------------------------------------------------------------------------------------- the runs
@dataclass(frozen=True)
class Job:
    """One training with its evaluation and its fine-tunings: `rows` are the names of those that it serves."""

    rows: list[str]
    seed: int
    config: TrainConfig
    finetunes: dict[str, FinetuneConfig]  # by row

    @property
    def run(self) -> Path:
        """Return the run folder."""
        return Path(self.config.out)

    @property
    def log(self) -> Path:
        """Return the file with what the job prints."""
        return self.run.with_suffix(".log")

    def is_trained(self) -> bool:
        """Return whether the newest checkpoint stands at the last step."""
        saved = checkpoints(self.run)
        return bool(saved) and read_progress(saved[-1]).finished

    def is_evaluated(self, protocol: str) -> bool:
        """Return whether the training is finished, by these settings, and was evaluated by `protocol`."""
        if not has_results(self.config) or protocol not in read_json(self.run / "results.json")["protocols"]:
            return False
        return self.is_trained()

    def is_done(self, protocol: str) -> bool:
        """Return whether nothing is left to do."""
        return self.is_evaluated(protocol) and all(map(has_results, self.finetunes.values()))

    def commands(self, protocol: str, seeds: int) -> list[list[str]]:
        """List the commands that a person would type, and write the configurations that they name."""
        file = self.run.with_suffix(".yaml")
        save_config(self.config, file)
        words = [["train", "--config", str(file)]]
        if not self.is_evaluated(protocol):
            words.append(["evaluate", str(self.run), "--protocol", protocol, "--seeds", str(seeds)])
        for config in self.finetunes.values():
            file = Path(config.out).with_suffix(".yaml")
            save_config(config, file)
            words.append(["finetune", config.model, "--config", str(file)])
        return words


def has_results(config: RunConfig) -> bool:
    """Return whether a run by this very configuration has its `results.json`."""
    out = Path(config.out)
    if not (out / "results.json").is_file() or not (out / "config.yaml").is_file():
        return False
    try:
        was = read_settings(type(config), out / "config.yaml").as_dict()
    except ValueError:  # of another kind or version: the run itself will say so
        return False
    return all(was[name] == value for name, value in config.as_dict().items() if name not in MAY_CHANGE)


def make_jobs(grid: Grid, out: Path, seeds: Sequence[int]) -> list[Job]:
    """List the runs of a grid, below `out/runs`; rows that differ in their fine-tuning alone share a training."""
    jobs: dict[Path, Job] = {}
    for seed in seeds:
        for row, folder in zip(grid.rows, grid.folders, strict=True):
            run = out / "runs" / folder / f"seed_{seed}"
            job = jobs.setdefault(run, Job([], seed, row.config(run, seed), {}))
            job.rows.append(row.name)
            tuned = run.with_name(f"seed_{seed}_finetune_{hash_json(row.finetune)[:6]}")
            if config := row.finetune_config(run, job.config.data, tuned, seed):
                job.finetunes[row.name] = config
    return list(jobs.values())
