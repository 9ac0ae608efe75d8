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

from casita.datasets_scripts.schema import HomeFolder
from casita.files import write_beside, write_json
from casita.model_cards.homes import home_facts, is_open, refuse_restricted
from casita.model_cards.pages import render_page

PACKAGES = ("datasets_scripts", "model_cards", "modeling", "processing", "train")
CODE_SUFFIXES = (".py", ".json", ".yaml", ".jinja", ".js", ".css", ".html", ".md", ".txt")


def write_space_tree(
    out: Path,
    *,
    repo_id: str,
    model_id: str,
    home: Path,
    model_revision: str | None = None,
    permission: bool = False,
) -> Path:
    """Write the tree of a Space into `out`, whole or not at all; what `out` held before is replaced.

    Args:
        repo_id: of the Space, `ORG/NAME`.
        model_id: of the model that it loads, and `model_revision`, a commit or tag to pin.
        home: a home folder, read (`casita read`, `casita build`); its events are shown to everybody.
        permission: whoever may allow that has allowed it, though its layout does not say `"redistribution": "open"`.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `home` is no home folder, or has no events. PermissionError: they may not be shown.
        ValueError: no layout, or one with a floor plan of its own.
    """
    folder = HomeFolder(home)
    if "floor_plan" in folder.layout:
        raise ValueError(
            f"{home}: its layout names a floor_plan, a picture that a Space does not carry. Leave it out."
        )
    if not permission:
        refuse_restricted([folder], "events, which a Space shows to everybody,")
    events = folder.require(folder.events, "read")
    card = render_page(
        "space_card.md.jinja",
        repo_id=repo_id,
        model_id=model_id,
        home=home_facts(folder),
        open=is_open(folder),
        gradio=gradio_version(),
    )
    with write_beside(out) as tree:
        tree.mkdir()
        for inside, source in code_files():
            (tree / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tree / inside)
        for name in ("app.py", "requirements.txt"):
            shutil.copyfile(tree / "casita" / "model_cards" / "space" / name, tree / name)
        (tree / "home").mkdir()
        shutil.copyfile(events, tree / "home" / "events.parquet")
        # Neither the stages' settings nor their hashes: they name folders of the machine that built the home.
        description = folder.description
        public = {key: description[key] for key in ("schema_version", "home", "layout")}
        write_json(tree / "home" / "home.json", public)
        write_json(tree / "space.json", {"model": model_id, "revision": model_revision})
        (tree / "README.md").write_text(card, encoding="utf-8")
    return out


def code_files() -> Iterator[tuple[Path, Path]]:
    """Yield (path in the tree, file) of the installed package's code.

    In a wheel the packages lie inside casita/, in a checkout beside it, linked into it: so casita/ itself is read
    without them, and each of them once.
    """
    for package in ("", *PACKAGES):
        folder = Path(str(resources.files(f"casita.{package}".rstrip("."))))
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            is_of_package_inside = not package and inside.parts[0] in PACKAGES
            if path.is_file() and path.suffix in CODE_SUFFIXES and not is_of_package_inside:
                yield Path("casita", package) / inside, path


def gradio_version() -> str:
    """Return the installed gradio's version, with which the page was tried."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise ValueError(
            "a Space names its version of gradio, which is not installed: pip install 'casita[space]'"
        ) from None
