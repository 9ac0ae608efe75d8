"""Many made-up homes in one command: resumable, in any number of processes, and never mixed with a single home."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from casita.cli import main
from casita.datasets_scripts.schema import EVENTS, HomeFolder, home_folders, read_table
from casita.datasets_scripts.stages import BuildSettings
from casita.datasets_scripts.synthetic.dataset import SyntheticHomes, build_synthetic_home, build_synthetic_homes
from casita.datasets_scripts.synthetic.home import write_synthetic_home

EARLY = BuildSettings(stages=("read", "windows"))


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two homes of three days, made by two processes."""
    root = tmp_path_factory.mktemp("made_up")
    return root, build_synthetic_homes(root, SyntheticHomes(homes=2, days=3), EARLY, workers=2)


def test_two_processes_make_the_same_bytes_as_one_and_every_home_is_a_home_folder(built, tmp_path):
    root, events = built
    alone = {
        f"synthetic_{n:03d}": build_synthetic_home(tmp_path, n, SyntheticHomes(homes=9, days=3), EARLY) for n in (1, 2)
    }
    assert events == alone
    assert content(root) == content(tmp_path)
    assert [folder.name for folder in home_folders(root)] == ["synthetic_001", "synthetic_002"]
    for folder in home_folders(root):
        assert set(read_table(folder.events, EVENTS)["home"].unique().to_pylist()) == {folder.name}
        assert sum(folder.summary("windows")["leak_audit"].values()) == 0


def test_homes_that_are_done_are_not_made_again(built, tmp_path):
    root, _ = built
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != "home.json" and path.is_file()}
    assert build_synthetic_home(root, 1, SyntheticHomes(homes=2, days=3), EARLY) > 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_log_is_made_again_when_it_was_touched_or_asked_for_otherwise(tmp_path):
    folder = HomeFolder(tmp_path / "a")
    write_synthetic_home(folder, 1, 1, 0, progress=False)
    log = folder.root / "synthetic.txt"
    whole = log.read_bytes()
    log.write_bytes(whole[:100])
    write_synthetic_home(folder, 1, 1, 0, progress=False)
    assert log.read_bytes() == whole
    write_synthetic_home(folder, 1, 2, 0, progress=False)
    assert log.read_bytes().startswith(whole[:100])
    assert len(log.read_bytes()) > 1.5 * len(whole)


def test_a_single_home_and_a_data_set_do_not_share_a_folder(built, tmp_path, capsys):
    root, _ = built
    assert main(["build", "--synthetic", "days=1", "--out", str(root), "--stages", "read"]) == 2
    assert "is a data set of several homes (synthetic_001, ...)" in capsys.readouterr().err
    assert main(["build", "--synthetic", "days=1", "--out", str(tmp_path / "one"), "--stages", "read"]) == 0
    capsys.readouterr()
    assert main(["build", "--synthetic", "homes=2,days=1", "--out", str(tmp_path / "one")]) == 2
    assert "is a home folder already" in capsys.readouterr().err
    assert not (tmp_path / "one" / "windows.parquet").exists()


@pytest.mark.parametrize(
    "given, message", [("homes=0", "homes=0"), ("homes=2,days=0", "days=0"), ("houses=2", "homes=N")]
)
def test_a_senseless_number_is_named(given, message, tmp_path, capsys):
    words = ["build", "--synthetic", given, "--out", str(tmp_path / "x")]
    if given == "houses=2":
        with pytest.raises(SystemExit):
            main(words)
    else:
        assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(
    "CASITA_FAULT_ROUNDS" not in os.environ, reason="one of make fault-tests: each round takes seconds"
)
def test_a_build_killed_with_its_workers_at_work_goes_on_to_the_same_bytes(built, tmp_path):
    root, _ = built
    words = ["build", "--synthetic", "homes=2,days=3", "--stages", "read", "windows", "--workers", "2"]
    command = [sys.executable, "-m", "casita.cli", *words, "--out", str(tmp_path)]
    for kill_after_s in (8, 9, 10, 11):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert content(root) == content(tmp_path)
