"""What a release reads of home folders: stages whose files are as recorded, facts for cards, terms of use."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml

from casita.datasets_scripts.schema import HomeFolder, StageRecord, home_folders
from casita.files import hash_file, slug

_PATH = re.compile(r"(--?[\w-]+=)?['\"]?/.")  # also after a flag, or quoted because the whole has a space
RECORDINGS = "events, windows, captions and text embeddings"


class HomeFacts(TypedDict):
    """A home as every card describes it: counts of its layout, and what the layout says in words."""

    name: str
    slug: str  # its folder's name in a repository
    sensors: int
    types: dict[str, int]
    rooms: int
    approximate: int
    redistribution: str
    terms: str | None
    residents: str | None
    citation: str | None
    source: str | None


def home_facts(home: HomeFolder) -> HomeFacts:
    """Return the facts of a home with a layout."""
    layout = home.layout
    sensors = layout["sensors"].values()
    return {
        "name": home.name,
        "slug": slug(home.name),
        "sensors": len(sensors),
        "types": dict(sorted(Counter(sensor["type"] for sensor in sensors).items())),
        "rooms": len({sensor["room"] for sensor in sensors}),
        "approximate": sum(bool(sensor.get("approximate")) for sensor in sensors),
        "redistribution": layout.get("redistribution", "not stated"),
        "terms": layout.get("terms"),
        "residents": layout.get("residents"),
        "citation": layout.get("citation"),
        "source": layout.get("source"),
    }


def released_homes(root: Path) -> list[HomeFolder]:
    """Return the home folder `root`, or those in it, by name.

    Raises:
        FileNotFoundError: `root` is neither. ValueError: two homes whose names give one folder of a repository.
    """
    homes = home_folders(root)
    last_of_slug = {slug(home.name): home for home in homes}
    for home in homes:
        other = last_of_slug[slug(home.name)]
        if other is not home:
            raise ValueError(
                f"{home.root} and {other.root}: homes {home.name!r} and {other.name!r} would be one folder, "
                f"{slug(home.name)}. Build one of them under another name (--home)."
            )
    return homes


def data_of_run(run: Path) -> str | None:
    """Return what a run was trained on, as its `config.yaml` names it; None where there is no such file."""
    config = run / "config.yaml"
    return str(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]) if config.is_file() else None


def require_summary(home: HomeFolder, stage: str) -> dict[str, Any]:
    """Return the summary of a stage; `ValueError` when it has not run."""
    if stage not in home.description.get("stages", {}):
        raise ValueError(f"{home.root}/home.json: stage {stage!r} has not run. Run: casita {stage} {home.root}")
    return home.summary(stage)


def kept_stages(home: HomeFolder) -> dict[str, StageRecord]:
    """Return the records of the stages whose outputs are still there, each made from what the one before it left.

    Raises:
        ValueError: an output was changed by hand, or made from an input that has been made anew since.
    """
    stages = home.description.get("stages", {})
    kept = {
        stage: record
        for stage, record in stages.items()
        if all((home.root / name).exists() for name in record["outputs"])
    }
    hashes = {name: hash_file(home.root / name) for record in kept.values() for name in record["outputs"]}
    for stage, record in kept.items():
        inputs = {name: value for name, value in record["inputs"].items() if name in hashes}
        for name, value in {**inputs, **record["outputs"]}.items():
            if hashes[name] != value:
                raise ValueError(
                    f"{home.root / name}: another file than when stage {stage!r} ran. Run: casita "
                    f"{stage.partition(':')[0]} {home.root}, and the stages after it."
                )
    return kept


def is_open(home: HomeFolder) -> bool:
    """Return whether the layout says that the recording may be passed on."""
    return home.layout.get("redistribution") == "open"


def refuse_restricted(homes: Sequence[HomeFolder], content: str = RECORDINGS) -> None:
    """Raise `PermissionError` for a home whose recording may not be passed on, with its terms and the way out."""
    for home in homes:
        if is_open(home):
            continue
        if home.layout.get("redistribution") == "restricted":
            reason = f"restricted, by its terms: {home.layout['terms']}"
        else:
            reason = 'not stated: nobody wrote "redistribution" and "terms" into its layout.'
        raise PermissionError(
            f"home {home.name!r}: its {content} stay here; redistribution is {reason} If those who may have allowed "
            "it, say so with --i-have-permission. Image embeddings, pictures drawn from coordinates and the model may "
            "go."
        )


def refuse_local_model(model_id: str, source: Path) -> None:
    """Raise `ValueError` for vectors of a model in a folder of this machine: nobody else could make another row."""
    if Path(model_id).is_absolute() or model_id.startswith((".", "~")):
        raise ValueError(
            f"{source}: made with the model in the folder {model_id}, which nobody else has. Make it with the model's "
            "Hub id, so that others can."
        )


def without_paths(content: Any) -> Any:
    """Return JSON content with names for absolute paths, also those in a command: where files lie is private."""
    if isinstance(content, Mapping):
        return {without_paths(key): without_paths(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_paths(value) for value in content]
    if not isinstance(content, str):
        return content
    return " ".join(Path(word).name if _is_path(word) else word for word in content.split(" "))


def paths_in(content: Any) -> set[str]:
    """Return the absolute paths that `without_paths` would shorten."""
    if isinstance(content, Mapping):
        return paths_in([*content, *content.values()])
    if isinstance(content, list | tuple):
        return set().union(*map(paths_in, content))
    return {word for word in content.split(" ") if _is_path(word)} if isinstance(content, str) else set()


def _is_path(word: str) -> bool:
    return _PATH.match(word) is not None
