"""Runs that are killed, stopped, spoilt or short of room: real processes, real signals, nothing lost."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from train_home import make_home, tiny

from casita import cli
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table, text_embeddings_schema, write_table
from casita.train.align import train
from casita.train.configs.train_config import save_config
from casita.train.training.checkpoint import checkpoints, read_progress

ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    return make_home(tmp_path_factory.mktemp("toy") / "home")


def command(home: HomeFolder, out: Path, **settings: Any) -> list[str]:
    """`train ...` for a run of 40 steps, 5 an epoch, that logs each step and saves every fourth."""
    defaults = {"epochs": 8, "eval_every": 1, "log_every": 3, "save_every": 4, "queue_size": 16, "masked_weight": 0.5}
    config = tiny(home, out, **(defaults | {"learning_rate": 3e-3} | settings))
    path = out.parent / f"{out.name}.yaml"
    save_config(config, path)
    return ["train", "--config", str(path)]


def start(arguments: list[str]) -> subprocess.Popen:
    line = [sys.executable, "-m", "casita.cli", *arguments]
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step}:"):
            return
    raise AssertionError(process.communicate()[1][-3000:])


def logged_lines(run: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "windows_per_s"} for line in lines]


def assert_equal_tensors(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), one.name


def test_killed_and_stopped_and_started_again_a_run_ends_as_an_undisturbed_one(home, tmp_path, capsys):
    run, calm = tmp_path / "run", tmp_path / "calm"
    arguments = command(home, run)
    killed = start(arguments)
    wait_for_step(killed, random.Random(0).randrange(6, 18))
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    at = read_progress(checkpoints(run)[-1]).step
    assert at < 40

    stopped = start(arguments)
    wait_for_step(stopped, at + 6)
    stopped.terminate()
    out, err = stopped.communicate()
    assert stopped.returncode == 0, err
    last = out.splitlines()[-1]
    saved = read_progress(checkpoints(run)[-1])
    assert at + 6 <= saved.step < 40
    assert last.startswith(f"interrupted: {run} stands at step {saved.step} of 40, and is saved.")
    assert "the same command with --resume-from-checkpoint last" in last

    assert cli.main(arguments) == 0
    assert cli.main(command(home, calm)) == 0
    assert logged_lines(run) == logged_lines(calm)
    for name in ("model.safetensors", "rng.safetensors"):
        assert_equal_tensors(checkpoints(run)[-1] / name, checkpoints(calm)[-1] / name)
    assert_equal_tensors(run / "model" / "model.safetensors", calm / "model" / "model.safetensors")
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in calm.iterdir())  # no leftovers
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "this run is finished, all 40 steps" in capsys.readouterr().out


def test_two_runs_do_not_write_one_folder_and_ctrl_c_saves_as_the_shell_expects(home, tmp_path, capsys):
    run = tmp_path / "run"
    process = start(command(home, run, save_every=1000, epochs=80))
    wait_for_step(process, 1)
    assert cli.main(command(home, run, save_every=1000, epochs=80)) == 2
    assert f"being written by process {process.pid}" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "casita train: interrupted; run the same command again to go on" in err
    assert 1 <= read_progress(checkpoints(run)[-1]).step < 400


def spoil(home: HomeFolder, window: str) -> None:
    """A caption's embedding that is no number any more."""
    path = home.text_embeddings("narrative", "minilm")
    table = pq.read_table(path)
    width = table.schema.field("embedding").type.list_size
    matrix = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width).copy()
    matrix[table["window_id"].to_pylist().index(window)] = float("inf")
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), width)
    write_table(
        path, table.drop_columns("embedding").append_column("embedding", column), text_embeddings_schema(width)
    )


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_batchs_windows(tmp_path):
    home = make_home(tmp_path / "home")
    split = read_table(home.windows, WINDOWS).to_pandas()
    # A window whose caption is its own alone, so that one batch of the first epoch meets it.
    window = split[split["split"] == "train"]["window_id"].iloc[6]
    spoil(home, window)
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"^step \d: the loss is nan, .*nonfinite_step_\d\.json; ") as error:
        train(tiny(home, run, log_every=100, eval_every=100, save_every=1, learning_rate=1e-3))
    (path,) = run.glob("nonfinite_step_*.json")
    report = json.loads(path.read_text())
    assert report["step"] > 1
    assert path.name == f"nonfinite_step_{report['step']}.json"
    (batch,) = report["windows"]
    assert len(batch) == 12
    assert window in batch
    assert report["loss"] == "nan"
    assert 0 < report["lr"] <= 1e-3
    # Every step before it was saved, itself it was not, and nothing in what is saved is spoilt.
    assert read_progress(checkpoints(run)[-1]).step == report["step"] - 1
    assert checkpoints(run)[-1].name in str(error.value)
    assert all(t.isfinite().all() for t in load_file(checkpoints(run)[-1] / "model.safetensors").values())
    assert not (run / "model").exists()


def test_the_first_bad_step_is_found_though_many_follow_before_anybody_looks(tmp_path):
    home = make_home(tmp_path / "home")
    window = read_table(home.windows, WINDOWS)["window_id"][6].as_py()
    spoil(home, window)
    steps = []
    for log_every in (1, 100):
        with pytest.raises(ValueError, match="the loss is nan"):
            train(tiny(home, tmp_path / f"run{log_every}", log_every=log_every, eval_every=100, save_every=100))
        (path,) = (tmp_path / f"run{log_every}").glob("nonfinite_step_*.json")
        steps.append(json.loads(path.read_text()))
    assert steps[0]["windows"] == steps[1]["windows"]
    assert steps[0]["step"] == steps[1]["step"] < 5


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within it no file can grow beyond `size` bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_finds_no_room_is_one_line_and_the_last_one_stays(home, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = command(home, run, eval_every=1000, epochs=2)
    assert cli.main(arguments) == 0
    shutil.rmtree(checkpoints(run)[-1])
    (last,) = checkpoints(run)
    before = {path.name: path.read_bytes() for path in last.iterdir()}
    capsys.readouterr()
    with files_of_at_most((last / "optimizer.safetensors").stat().st_size * 3 // 4):  # more than the model needs
        assert cli.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "step_00000010: could not be written" in line
    assert checkpoints(run) == [last]
    assert {path.name: path.read_bytes() for path in last.iterdir()} == before
    assert not list(run.rglob("*.partial*"))
    assert cli.main(arguments) == 0  # there is room again
    assert read_progress(checkpoints(run)[-1]).finished
