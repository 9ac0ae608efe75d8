"""What the pages for newcomers name exists, and they agree with each other and with the package."""

import re
import tomllib

import pytest
import yaml
from snippets import ROOT, snippets

from casita import __version__
from casita.cli import COMMANDS
from casita.model_cards.pages import render_page
from tests.packages import FOLDERS

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_links_commands_and_targets_of_a_page_exist(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if link.startswith(("http", "#")):
            continue
        assert (path.parent / target).exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors((path.parent / target).read_text(encoding="utf-8")), f"{page}: {link}"
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for block in snippets(page, "bash"):
        for words in map(str.split, block.splitlines()):
            if words[:1] == ["casita"]:
                assert words[1] in COMMANDS, f"{page}: {' '.join(words)}"
            if words[:1] == ["make"]:
                assert words[1] in targets, f"{page}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_the_modules_and_paths_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        assert path.split("/")[0] not in FOLDERS or (ROOT / path).exists(), f"{page}: {path}"
    for name in set(re.findall(r"(?<![/\w])casita(?:\.[a-z_]+)+(?:\.[A-Z]\w+)?(?![\w/])", text)):
        module, _, last = name.rpartition(".")
        path = ROOT / module.removeprefix("casita").lstrip(".").replace(".", "/")
        found = [path / f"{last}.py", path / last, ROOT / "casita" / f"{last}.py", ROOT / "casita" / last]
        if not any(place.exists() for place in found):
            source = path.with_suffix(".py")
            assert source.is_file(), f"{page}: {name}"
            assert re.search(rf"^(def|class) {last}\b", source.read_text(), flags=re.M), f"{page}: {name}"


def anchors(text):
    """The anchors of a page's headings, as its host makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings
    }


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_citation_is_whole_and_agrees_with_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])
    assert (cited["version"], cited["license"]) == (__version__, project["license"])
    (bibtex,) = snippets("README.md", "bibtex")
    fields = dict(re.findall(r"(\w+)\s*= \{+([^}]*)\}", bibtex))
    assert fields["title"] == cited["title"]
    assert fields["version"] == cited["version"]
    assert fields["author"] == cited["authors"][0]["name"]
    on_cards = dict(re.findall(r"(\w+)\s*= \{+([^}]*)\}", render_page("citation.md.jinja", homes=[])))
    assert fields.items() >= on_cards.items() >= {(name, fields[name]) for name in ("title", "version", "author")}


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert first[1] == __version__
