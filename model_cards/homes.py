"""A home folder as a release sees it: its files, what each stage was told, and the terms of passing it on."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from casita.files import hash_file, read_json, slug

_PATH = re.compile(r"(--?[\w-]+=)?['\"]?/.")  # also after a flag, or quoted because the whole has a space
RECORDINGS = "events, windows, captions and text embeddings"


class ReleasedHome:
    """One home folder, read only: `casita.datasets_scripts` wrote it, and `home.json` tells how."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.description: dict[str, Any] = read_json(self.root / "home.json")
        self.name: str = self.description["home"]
        self.slug = slug(self.name)  # its folder's name in a repository

    @property
    def layout(self) -> dict[str, Any]:
        """The home's layout; `ValueError` when it has none."""
        layout = self.description.get("layout")
        if layout is None:
            raise ValueError(f"{self.root}: the home has no layout. Give one: casita read {self.root} --layout NAME")
        return layout

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What each stage recorded: settings, hashes of inputs and outputs, summary."""
        return self.description.get("stages", {})

    def summary(self, stage: str) -> dict[str, Any]:
        """What a stage told of its result; `ValueError` when it has not run."""
        if stage not in self.stages:
            raise ValueError(f"{self.root}/home.json: stage {stage!r} has not run. Run: casita {stage} {self.root}")
        return self.stages[stage]["summary"]

    def require(self, name: str, command: str) -> Path:
        """A file of the folder; `FileNotFoundError` names the command that makes it."""
        path = self.root / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there yet. Run: casita {command} {self.root}")
        return path

    def files(self, folder: str, suffix: str) -> list[Path]:
        """What lies in `captions/`, `text_embeddings/` or `image_embeddings/`, by name."""
        return sorted(path for path in (self.root / folder).glob(f"*{suffix}") if not path.name.startswith("."))

    def kept_stages(self) -> dict[str, dict[str, Any]]:
        """The stages whose outputs are still there, each made from what the one before it left.

        Raises:
            ValueError: an output was changed by hand, or made from an input that has been made anew since.
        """
        kept = {
            stage: told
            for stage, told in self.stages.items()
            if all((self.root / n).exists() for n in told["outputs"])
        }
        now = {name: hash_file(self.root / name) for told in kept.values() for name in told["outputs"]}
        for stage, told in kept.items():
            used = {name: value for name, value in told["inputs"].items() if name in now}
            for name, value in {**used, **told["outputs"]}.items():
                if now[name] != value:
                    raise ValueError(
                        f"{self.root / name}: another file than when stage {stage!r} ran. Run: casita "
                        f"{stage.partition(':')[0]} {self.root}, and the stages after it."
                    )
        return kept

    @property
    def is_open(self) -> bool:
        """Whether the layout says that the recording may be passed on."""
        return self.layout.get("redistribution") == "open"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What every card tells of a home."""
        layout = self.layout
        sensors = layout["sensors"]
        types: dict[str, int] = {}
        for sensor in sensors.values():
            types[sensor["type"]] = types.get(sensor["type"], 0) + 1
        return {
            "name": self.name,
            "slug": self.slug,
            "sensors": len(sensors),
            "types": dict(sorted(types.items())),
            "rooms": len({sensor["room"] for sensor in sensors.values()}),
            "approximate": sum(bool(sensor.get("approximate")) for sensor in sensors.values()),
            "redistribution": layout.get("redistribution", "not stated"),
            **{key: layout.get(key) for key in ("terms", "residents", "citation", "source")},
        }


def released_homes(root: Path) -> list[ReleasedHome]:
    """The home folder `root`, or those in it, by name.

    Raises:
        FileNotFoundError: `root` is neither. ValueError: two homes whose names give one folder.
    """
    root = Path(root)
    own = [root] if (root / "home.json").is_file() else [path.parent for path in sorted(root.glob("*/home.json"))]
    if not own:
        raise FileNotFoundError(
            f"{root}: holds no home.json and no folder that does. Name a home folder or a data set of several."
        )
    homes = [ReleasedHome(path) for path in own]
    twins = {home.slug: home for home in homes}
    for home in homes:
        if twins[home.slug] is not home:
            raise ValueError(
                f"{home.root} and {twins[home.slug].root}: homes {home.name!r} and {twins[home.slug].name!r} would be "
                f"one folder, {home.slug}. Build one of them under another name (--home)."
            )
    return homes


def refuse_restricted(homes: Sequence[ReleasedHome], what: str = RECORDINGS) -> None:
    """`PermissionError` for a home whose recording may not be passed on; it tells the terms and the way out."""
    for home in homes:
        if home.is_open:
            continue
        if home.layout.get("redistribution") == "restricted":
            why = f"restricted, by its terms: {home.layout['terms']}"
        else:
            why = 'not stated: nobody wrote "redistribution" and "terms" into its layout.'
        raise PermissionError(
            f"home {home.name!r}: its {what} stay here; redistribution is {why} If those who may have allowed it, say "
            "so with --i-have-permission. Image embeddings, pictures drawn from coordinates and the model may go."
        )


def refuse_local_model(model_id: str, where: Path) -> None:
    """`ValueError` for vectors of a model that is a folder on this machine: nobody else could make another row."""
    if Path(model_id).is_absolute() or model_id.startswith((".", "~")):
        raise ValueError(
            f"{where}: made with the model in the folder {model_id}, which nobody else has. Make it with the model's "
            "Hub id, so that others can."
        )


def without_paths(content: Any) -> Any:
    """JSON content in which absolute paths, and those in a command, are names only: where files lie is private."""
    if isinstance(content, Mapping):
        return {without_paths(key): without_paths(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_paths(value) for value in content]
    if not isinstance(content, str):
        return content
    return " ".join(Path(word).name if _is_path(word) else word for word in content.split(" "))


def paths_in(content: Any) -> set[str]:
    """The absolute paths that `without_paths` would shorten."""
    if isinstance(content, Mapping):
        return paths_in([*content, *content.values()])
    if isinstance(content, list | tuple):
        return set().union(*map(paths_in, content))
    return {word for word in content.split(" ") if _is_path(word)} if isinstance(content, str) else set()


def _is_path(word: str) -> bool:
    return _PATH.match(word) is not None
