"""Whole files or none, one writer a folder: with real processes that hold, die and come second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from casita.cli import main
from casita.files import locked, remove_leftovers, write_beside

HOLD = "import sys, time\nfrom pathlib import Path\nfrom casita.files import locked, write_beside\n"
HOLD += "folder = Path(sys.argv[1])\nwith locked(folder, 'test'), write_beside(folder / 'a.txt') as file:\n"
HOLD += "    file.write_text('half')\n    print('holding', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def holder(tmp_path):
    """Another process in the middle of writing `a.txt` under the lock of `tmp_path / "home"`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "home")], text=True, **pipes)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_the_second_writer_reads_who_the_first_is_and_touches_nothing(holder, tmp_path):
    home = tmp_path / "home"
    before = sorted(home.iterdir())
    message = (
        rf"casita x: .*home is being written by process {holder.pid} on \S+ since {time.strftime('%Y')}-.*Wait until"
    )
    with pytest.raises(BlockingIOError, match=message), locked(home, "casita x"):
        raise AssertionError("two writers at once")
    assert sorted(home.iterdir()) == before
    holder.communicate("")
    assert (home / "a.txt").read_text() == "half"
    with locked(home, "casita x"):
        assert sorted(path.name for path in home.iterdir()) == [".lock", "a.txt"]
    assert [path.name for path in home.iterdir()] == ["a.txt"]


def test_a_command_refuses_a_home_that_another_process_writes(holder, tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_text("2020-01-01 00:00:00 M001 ON\n")
    assert main(["read", str(tmp_path / "home"), "--log", str(log)]) == 2
    error = capsys.readouterr().err
    assert f"by process {holder.pid} " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "home" / "events.parquet").exists()


def test_the_lock_and_the_half_written_file_of_a_dead_process_are_cleared_away(holder, tmp_path):
    home = tmp_path / "home"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert {path.name for path in home.iterdir()} == {".lock", f".a.{holder.pid}.partial.txt"}
    with locked(home, "casita x"):
        assert [path.name for path in home.iterdir()] == [".lock"]


def test_what_a_live_process_is_writing_is_left_alone(holder, tmp_path):
    assert remove_leftovers(tmp_path / "home") == []
    assert (tmp_path / "home" / f".a.{holder.pid}.partial.txt").read_text() == "half"


def test_the_same_thread_may_lock_again_and_a_folder_made_for_nothing_goes(tmp_path):
    with locked(tmp_path / "a" / "b", "outer"):
        with locked(tmp_path / "a" / "b", "inner"):
            pass
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert not (tmp_path / "a" / "b").exists()
    with pytest.raises(KeyError), locked(tmp_path / "a", "x"):  # noqa: PT012  # the body is what is interrupted
        (tmp_path / "a" / "kept").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_moved_aside_comes_back_if_the_new_one_never_came(tmp_path):
    pid = dead_pid()
    aside = tmp_path / f".pictures.{pid}.old"
    aside.mkdir()
    (aside / "old.png").touch()
    half = tmp_path / f".pictures.{pid}.partial"
    half.mkdir()
    (half / "new.png").touch()
    assert remove_leftovers(tmp_path) == [half]
    assert (tmp_path / "pictures" / "old.png").exists()
    aside.mkdir()
    assert remove_leftovers(tmp_path) == [aside]
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_files_of_other_names_are_no_leftovers(tmp_path):
    pid = dead_pid()
    for name in (f"a.{pid}.partial", ".hidden", f".a.{pid}.txt", ".a.partial", ".a.x1.partial"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == []


def test_an_error_of_the_body_leaves_the_older_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), write_beside(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_device_is_named_once_with_the_file_of_the_user(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def write() -> None:
        with write_beside(tmp_path / "outer") as outer:
            outer.mkdir()
            with write_beside(outer / "inner.txt"), open("/dev/full", "w") as full:
                full.write("x" * 100_000)

    with pytest.raises(OSError, match=r"inner\.txt: could not be written \(No space") as caught:
        write()
    assert str(caught.value).count("could not be written") == 1
    assert list(tmp_path.iterdir()) == []
