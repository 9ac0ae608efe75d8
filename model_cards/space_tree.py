"""The tree of a Space on the Hub: a page over one home, with its code, its data and the name of its model.

README.md          the Space's card, with the Hub's YAML
app.py             what the Hub starts
requirements.txt   what it installs
space.json         which model, at which revision
home/              home.json and events.parquet of the home that every visitor sees
casita/            the code, so that a Space needs no release of it and does not change with one
"""

import shutil
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from casita.files import write_beside, write_json
from casita.model_cards.homes import ReleasedHome, refuse_restricted

ROOMS = ("datasets_scripts", "model_cards", "modeling", "processing", "train")
CODE = (".py", ".json", ".yaml", ".jinja", ".js", ".css", ".html", ".md", ".txt")


def write_space_tree(
    out: Path,
    *,
    repo_id: str,
    model_id: str,
    home: Path,
    model_revision: str | None = None,
    permitted: bool = False,
) -> Path:
    """Write the tree of a Space into `out`, whole or not at all; what `out` held before is replaced.

    Args:
        repo_id: of the Space, `ORG/NAME`.
        model_id: of the model that it loads, and `model_revision`, a commit or tag to pin.
        home: a home folder, read (`casita read`, `casita build`); its events are shown to everybody.
        permitted: the recording's owner allows that, though its layout does not say `"redistribution": "open"`.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `home` is no home folder, or has no events. PermissionError: they may not be shown.
        ValueError: no layout, or one with a floor plan of its own.
    """
    shown = _checked(home, permitted)
    events = shown.require("events.parquet", "read")
    with write_beside(out) as temporary:
        temporary.mkdir()
        for inside, source in code_files():
            (temporary / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary / inside)
        space = temporary / "casita" / "model_cards" / "space"
        for name in ("app.py", "requirements.txt"):
            shutil.copyfile(space / name, temporary / name)
        (temporary / "home").mkdir()
        shutil.copyfile(events, temporary / "home" / "events.parquet")
        # Neither the stages' settings nor their hashes: they name folders of the machine that built the home.
        kept = {key: shown.description[key] for key in ("schema_version", "home", "layout")}
        write_json(temporary / "home" / "home.json", kept)
        write_json(temporary / "space.json", {"model": model_id, "revision": model_revision})
        told = {"home": shown.facts, "open": shown.is_open, "gradio": gradio_version()}
        card = _card(repo_id=repo_id, model_id=model_id, **told)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return out


def code_files() -> Iterator[tuple[Path, Path]]:
    """(path in the tree, file) of the installed package's code."""
    top = Path(str(resources.files("casita")))
    folders = {"casita": top} | {f"casita/{room}": Path(str(resources.files(f"casita.{room}"))) for room in ROOMS}
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            nested = name == "casita" and inside.parts[0] in ROOMS  # in a wheel the rooms lie within
            if path.is_file() and path.suffix in CODE and not nested:
                yield Path(name) / inside, path


def gradio_version() -> str:
    """The installed gradio's, which is the one that the page was tried with."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise ValueError(
            "a Space names its version of gradio, which is not installed: pip install 'casita[space]'"
        ) from None


def _checked(root: Path, permitted: bool) -> ReleasedHome:
    """The home, if it may be shown and a Space can carry it."""
    home = ReleasedHome(root)
    if "floor_plan" in home.layout:
        raise ValueError(
            f"{root}: its layout names a floor_plan, a picture that a Space does not carry. Leave it out."
        )
    if not permitted:
        refuse_restricted([home], "events, which a Space shows to everybody,")
    return home


def _card(**told: Any) -> str:
    folder = Path(__file__).parent / "space"
    environment = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False)
    return environment.get_template("README.md.jinja").render(**told)
