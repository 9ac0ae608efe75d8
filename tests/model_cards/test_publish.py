"""What `casita push` refuses before it writes, and how the trees of one push name each other."""

import shutil

import pytest

from casita.cli import main
from casita.files import hash_file, read_json
from casita.model_cards.homes import without_paths


@pytest.fixture
def push(released, capsys):
    """The command with the run and home of the tests, or others; what it says when it refuses, or None."""

    def run(what, *arguments, run=released[1], home=released[0].root):
        given = [str(each) for flag, path in (("--run", run), ("--home", home)) if path for each in (flag, path)]
        code = main(["push", what, *given, *map(str, arguments)])
        return capsys.readouterr().err if code else None

    return run


@pytest.mark.parametrize(
    "names",
    [
        ("--namespace", "my lab"),
        ("--namespace", "../lab"),
        ("--namespace", "lab", "--name", "a/b"),
        ("--namespace", "lab", "--dataset", "flat"),
    ],
)
def test_a_name_that_the_hub_would_not_take_is_refused_before_a_tree_is_written(push, tmp_path, names):
    assert "no name of a repository, as in my-lab/casita-milan" in push("model", *names, "--dry-run", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_what_is_missing_is_asked_for(push):
    assert "give the run folder, --run RUN" in push("model", "--namespace", "lab", run=None)
    assert "give the home folder, --home DIR" in push("dataset", "--namespace", "lab", run=None, home=None)


def test_a_dry_run_never_takes_the_place_of_the_run(push, released, tmp_path):
    run = shutil.copytree(released[1], tmp_path / "run")
    before = hash_file(run)
    for folder in (run, run / "trees"):
        assert "Name another folder" in push("model", "--namespace", "lab", "--dry-run", folder, run=run)
    run.rename(tmp_path / "model")
    arguments = ("--namespace", "lab", "--dry-run", tmp_path)
    assert "Name another folder" in push("model", *arguments)
    assert hash_file(tmp_path / "model") == before


@pytest.mark.parametrize(
    ("arguments", "revision"),
    [
        ((), None),
        (("--tag", "v2"), "v2"),
        (("--revision", "dev"), "dev"),
        (("--revision", "dev", "--tag", "none"), "dev"),
    ],
)
def test_a_page_loads_the_model_of_its_own_push(push, tmp_path, arguments, revision):
    assert push("all", "--namespace", "lab", "--name", "d", "--dry-run", tmp_path, *arguments) is None
    assert read_json(tmp_path / "space" / "space.json") == {"model": "lab/d", "revision": revision}


def test_no_folder_of_this_machine_is_published_whatever_stands_before_it():
    command = "casita evaluate '/home/ana/my runs/flat' --data=/home/ana/flat /home/ana/x --protocol a/b"
    assert "ana" not in without_paths(command)
    assert without_paths(["train/validation", "a / b", "lab/flat"]) == ["train/validation", "a / b", "lab/flat"]
