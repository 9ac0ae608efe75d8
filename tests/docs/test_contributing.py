"""What CONTRIBUTING.md names exists: files, folders, and the functions that it says are in them."""

import ast
import re
from pathlib import PurePosixPath

from paths import ROOT

from tests.packages import ORDER

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCES = re.compile(r"^```.*?^```$", flags=re.M | re.S)
PROSE = FENCES.sub("", TEXT)
FILES = {".cff", ".lock", ".md", ".py", ".toml", ".yml"}  # suffixes of what the repository holds; others are outputs


def paths():
    """Code spans that look like paths of the repository."""
    spans = re.findall(r"`([^`\s]+)`", PROSE)
    plain = [span for span in spans if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span)]
    return [span for span in plain if ("/" in span or PurePosixPath(span).suffix in FILES) and span[:2] != ".."]


def definitions(path):
    """The names that a module defines at its top, and the fields and methods of its classes."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    body += [node for outer in body if isinstance(outer, ast.ClassDef) for node in outer.body]
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_the_paths_that_it_names_exist():
    assert len(paths()) > 40
    assert [span for span in paths() if not (ROOT / span).exists()] == []


def test_the_names_that_it_says_are_in_a_file_are_there():
    named = re.findall(r"`(\w+)`\s+in\s+`([\w./-]+\.py)`", PROSE)
    assert len(named) >= 10
    assert [(name, path) for name, path in named if name not in definitions(path)] == []


def test_it_places_every_package():
    folders = [entry.replace(".", "/") for entry in ORDER if (ROOT / entry.replace(".", "/")).is_dir()]
    assert len(folders) > 20
    section = TEXT.partition("## Where things are")[2].partition("\n## ")[0]
    assert [folder for folder in folders if not re.search(rf"\b{folder}\b", section)] == []


def test_the_folders_of_the_picture_of_data_exist():
    (picture,) = [block for block in FENCES.findall(TEXT) if "raw log" in block]
    folders = re.findall(r"^  (\S+)", picture, flags=re.M)
    assert len(folders) >= 9
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
