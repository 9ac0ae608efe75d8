"""The words of the code: names and docstrings that a newcomer of the field reads without a key (CONTRIBUTING.md)."""

import ast
import io
import re
import subprocess
import tokenize

import pytest
from paths import ROOT

# Say what it is: description, summary, record, text; say, name, describe.
DIALECT = {"told", "tell", "tells", "telling"}
RIDDLES = {"what", "how", "whether", "where", "of", "which"}  # a docstring begins with a verb or a noun
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules(tests=False):
    """The tracked Python files outside tests, or those of the tests."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and name.startswith("tests/") == tests]
    return [name for name in sorted(names) if (ROOT / name).is_file()]


def places(names, check):
    """`file:line: name or docstring` of what `check` finds in files."""
    return [f"{name}:{line}" for name in names for line in check((ROOT / name).read_text(encoding="utf-8"))]


def words(text):
    """The words of a text or of a name, in lower case: `_run_of` and `RunOf` have `run` and `of` in them."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)}


def bad_names(source):
    """`line: name` of each name that holds a word of `DIALECT`."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        f"{token.start[0]}: {token.string}"
        for token in tokens
        if token.type == tokenize.NAME and words(token.string) & DIALECT
    ]


def docstrings(source):
    """(node, its docstring) of modules, classes and functions."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    return [(node, text) for node in nodes if (text := ast.get_docstring(node))]


def line_of(node):
    return getattr(node, "lineno", 1)


def bad_docstrings(source):
    """`line: first line` of each docstring with a word of `DIALECT`."""
    bad = [(line_of(node), text) for node, text in docstrings(source) if words(text) & DIALECT]
    return [f"{line}: {text.splitlines()[0]}" for line, text in bad]


def riddles(source):
    """`line: first line` of each public docstring that begins as a riddle."""
    public = [
        (node, text)
        for node, text in docstrings(source)
        if not isinstance(node, ast.Module) and not node.name.startswith("_")
    ]
    begun = [(line_of(node), text) for node, text in public if text.split()[0].strip("`,.:").lower() in RIDDLES]
    return [f"{line}: {text.splitlines()[0]}" for line, text in begun]


@pytest.mark.parametrize(
    "source, names, texts, begun",
    [
        ("told = 1\ndef _tell(told_run): return retold\n", ["1: told", "2: _tell", "2: told_run"], [], []),
        ('def f():\n    """Return what the run tells."""\n', [], ["1: Return what the run tells."], []),
        ('class A:\n    """What it is."""\n', [], [], ["1: What it is."]),
        ('def _f():\n    """What it is."""\n', [], [], []),
        ('def f():\n    """Return how many."""\n    x = "told"  # told\n', [], [], []),
        ("class TellTale: pass\n", ["1: TellTale"], [], []),
    ],
)
def test_the_words_are_found(source, names, texts, begun):
    assert (bad_names(source), bad_docstrings(source), riddles(source)) == (names, texts, begun)


@pytest.mark.parametrize("check", [bad_names, bad_docstrings, riddles])
def test_no_module_has_such_words(check):
    assert len(modules()) > 150
    bad = places(modules(), check)
    assert not bad, f"{len(bad)} places:\n" + "\n".join(bad)


@pytest.mark.parametrize("check", [bad_names, bad_docstrings])
def test_no_test_has_such_words(check):
    names = modules(tests=True)
    assert len(names) > 100
    assert "tests/test_words.py" in names  # its data stand in strings: no names, no docstrings
    bad = places(names, check)
    assert not bad, f"{len(bad)} places:\n" + "\n".join(bad)
