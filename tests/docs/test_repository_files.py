"""The files around the code agree with each other: workflows, hooks, forms, Makefile, lock and pyproject.toml."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.M))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def made(text):
    """The make targets that a script calls."""
    return set(re.findall(r"^\s*make ([\w-]+)", text, flags=re.M))


def steps(workflow):
    return [step for job in read_yaml(workflow)["jobs"].values() for step in job["steps"]]


def scripts(workflow):
    return "\n".join(step["run"] for step in steps(workflow) if "run" in step)


def pythons(workflow):
    """The Python versions of a workflow's matrix."""
    (matrix,) = [job["strategy"]["matrix"] for job in read_yaml(workflow)["jobs"].values() if "strategy" in job]
    return matrix["python-version"]


def classified():
    """The Python versions of the classifiers, in order."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    return [match[1] for match in found if match]


def lock():
    """Package -> its pinned version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines) if pin}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_make_targets_that_exist_and_may_only_read(path):
    assert made(scripts(path)), "it makes nothing"
    assert made(scripts(path)) <= TARGETS
    workflow = read_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step)


def test_the_workflow_of_every_change_makes_what_ci_run_makes():
    assert made((ROOT / ".ci" / "run").read_text()) == made(scripts(ROOT / ".github/workflows/ci.yml")) != set()


def test_the_weekly_workflow_installs_without_the_lock_and_then_tests():
    path = ROOT / ".github/workflows/latest-dependencies.yml"
    assert made(scripts(path)) == {"latest", "test"}
    recipe = re.search(r"^latest:.*?(?=^\S)", MAKEFILE, flags=re.M | re.S)[0]
    assert "--upgrade-strategy eager" in recipe
    assert "requirements.lock" not in recipe
    assert {"schedule", "workflow_dispatch"} == set(read_yaml(path)[True])  # `on` is YAML's word for true


def test_the_pythons_that_are_tested_are_those_that_the_package_names():
    oldest = classified()[0]
    assert pythons(ROOT / ".github/workflows/ci.yml") == classified()
    assert pythons(ROOT / ".github/workflows/latest-dependencies.yml") == [oldest, classified()[-1]]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert all(f"{version}.0" in SpecifierSet(PROJECT["requires-python"]) for version in classified())
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_the_lock_holds_a_tested_version_of_everything_that_the_tests_need():
    chosen = re.search(r"^EXTRAS\s*=\s*(\S+)", MAKEFILE, flags=re.M)[1].split(",")
    extras = PROJECT["optional-dependencies"]
    pins = lock()
    for line in [*PROJECT["dependencies"], *(line for extra in chosen for line in extras[extra])]:
        wanted = Requirement(line)
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier, line
    assert not [pin for pin in pins.values() if "+" in pin], "a build for one kind of machine binds all others"


def test_torch_is_a_range_and_only_the_lock_pins_it():
    (torch,) = [line for line in PROJECT["dependencies"] if line.startswith("torch")]
    assert torch == "torch>=2.13,<3"


def test_the_hooks_run_the_pinned_ruff_and_make_targets_that_exist():
    repositories = {repository["repo"]: repository for repository in read_yaml(".pre-commit-config.yaml")["repos"]}
    assert repositories["https://github.com/astral-sh/ruff-pre-commit"]["rev"] == f"v{lock()['ruff']}"
    (hook,) = repositories["local"]["hooks"]
    assert made(hook["entry"]) <= TARGETS
    assert made(hook["entry"])


def test_no_tracked_file_is_too_large_for_the_hook():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    limit = 1024 * int(re.search(r"--maxkb=(\d+)", text)[1])
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in listed.split("\0") if name and (ROOT / name).lstat().st_size > limit]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_is_whole_and_asks_for_no_recording(path):
    form = read_yaml(path)
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    names = [part["id"] for part in fields]
    assert len(set(names)) == len(names) > 0
    assert all(part["attributes"]["label"] for part in fields)
    if path.name != "feature.yml":
        notice = next(part for part in form["body"] if part["type"] == "markdown")["attributes"]["value"]
        assert re.search(r"\*\*(Never|Do not) attach .*made-up", notice, flags=re.S)


def test_the_address_of_the_repository_is_the_same_everywhere():
    home = PROJECT["urls"]["Homepage"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    pages = [ROOT / "SECURITY.md", ROOT / ".github/ISSUE_TEMPLATE/config.yml", ROOT / "CITATION.cff"]
    for page in pages:
        found = re.findall(r"https://github\.com/[\w-]+/casita\b", page.read_text())
        assert set(found) == {home}, page


def test_authors_and_keywords_are_those_of_the_citation():
    cited = read_yaml("CITATION.cff")
    assert PROJECT["authors"] == [{"name": author["name"]} for author in cited["authors"]]
    assert PROJECT["keywords"] == cited["keywords"]


def test_the_package_ships_its_types():
    assert (ROOT / "casita" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]
