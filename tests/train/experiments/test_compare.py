"""A grid of real runs: the table is what the runs' own results say, and one that fails leaves the others alone."""

import json
import re
import statistics
from pathlib import Path

import pytest
from evaluation_home import SENSORS, make_home
from train_home import tiny, write_pictures

from casita import cli
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.train.configs.train_config import CONFIGS, save_config
from casita.train.experiments import comparison_table as comparison
from casita.train.experiments.compare import _why
from casita.train.experiments.grid import GRIDS, load_grid, make_jobs


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    home = make_home(tmp_path_factory.mktemp("small") / "home")
    write_pictures(home, "small", sorted(f"{sensor}_{state}" for sensor in SENSORS for state in ("ON", "OFF")))
    return home


@pytest.fixture(scope="module")
def base(home, tmp_path_factory) -> Path:
    """A configuration of two steps."""
    path = tmp_path_factory.mktemp("configs") / "base.yaml"
    save_config(tiny(home, path.parent / "unused", batch_size=64, max_steps=2), path)
    return path


def grid_file(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def words(base, tmp_path_factory) -> list[str]:
    """The command: a row with two seeds, and one whose pictures nobody has embedded."""
    out = tmp_path_factory.mktemp("compared")
    rows = "rows:\n  pictures: {finetune: {mode: frozen, few_shot: 5, epochs: 2}}\n  lost: {vision_model: lost}\n"
    return ["compare", "--grid", str(grid_file(out, f"base: {base}\n{rows}")), "--out", str(out), "--seeds", "0", "1"]


@pytest.fixture(scope="module")
def compared(words) -> tuple[Path, dict]:
    assert cli.main(words) == 1  # one row failed
    out = Path(words[4])
    return out, json.loads((out / "compare.json").read_text(encoding="utf-8"))


def runs_of(out: Path) -> list[Path]:
    return sorted(out.glob("runs/pictures-*/seed_?"))


def test_the_table_is_what_the_runs_say(compared):
    out, results = compared
    row = next(row for row in results["rows"] if row["name"] == "pictures")
    expected: dict[str, list[float]] = {"probe": [], "zero": [], "recall": [], "tuned": []}
    for run in runs_of(out):
        scores = json.loads((run / "results.json").read_text())["protocols"]["chronological"]
        expected["probe"].append(scores["classification"]["labelled"]["linear_probe"]["macro_f1"])
        expected["zero"].append(scores["classification"]["labelled"]["zero_shot"]["accuracy"])
        expected["recall"].append(scores["retrieval"]["casita"]["text_to_sensor"]["recall_at_1"])
        (tuned,) = out.glob(f"runs/*/{run.name}_finetune_*/results.json")
        expected["tuned"].append(json.loads(tuned.read_text())["scores"]["test"]["finetuned"]["accuracy"])
    names = ("probe_macro_f1", "zero_shot_accuracy", "recall_at_1_text_to_sensor", "finetuned_accuracy")
    for name, values in zip(names, expected.values(), strict=True):
        assert len(values) == 2
        assert row[name] == pytest.approx(statistics.mean(values))
        assert row[f"{name}_sd"] == pytest.approx(statistics.stdev(values))
        assert [row["seeds"][seed][name] for seed in "01"] == values
    mean, sd = 100 * row["probe_macro_f1"], 100 * row["probe_macro_f1_sd"]
    (line,) = [line for line in (out / "compare.md").read_text(encoding="utf-8").splitlines() if "| pictures" in line]
    assert f"| {mean:.1f} ± {sd:.1f} |" in line
    assert (out / "compare.png").stat().st_size > 10_000


def test_baselines_are_there_once_and_seeds_differ(compared):
    out, results = compared
    assert [row["name"] for row in results["baselines"]] == [*comparison.BASELINES, "chance"]
    first = json.loads((runs_of(out)[0] / "results.json").read_text())["protocols"]["chronological"]["classification"]
    majority = next(row for row in results["baselines"] if row["name"] == "majority")
    assert majority["probe_accuracy"] == first["labelled"]["majority"]["accuracy"]
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in runs_of(out)]
    assert weights[0] != weights[1]


def test_a_row_that_fails_says_why_and_stops_no_other(compared):
    out, results = compared
    row = next(row for row in results["rows"] if row["name"] == "lost")
    for seed in "01":
        assert re.search(r"lost\.safetensors: not there yet\. Run: casita embed-images", row["seeds"][seed]["failed"])
    assert "probe_accuracy" not in row
    assert (out / "compare.md").read_text(encoding="utf-8").count("- lost, seed") == 2
    assert all("failed" not in found for found in results["rows"][0]["seeds"].values())


def test_the_same_command_again_trains_nothing_that_is_finished(compared, words, capsys):
    out, results = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/pictures-*/**/*") if path.is_file()}
    assert cli.main(words) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed: ") == 4  # twice while running, twice in the table
    assert "pictures, seed" not in printed
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("runs/pictures-*/**/*") if path.is_file()}
    assert json.loads((out / "compare.json").read_text(encoding="utf-8")) == results


def test_a_dry_run_prints_steps_and_time_and_trains_nothing(compared, words, home, base, tmp_path, capsys):
    rows = "rows:\n  long: {max_steps: none, epochs: 3}\n"
    fresh = ["compare", "--grid", str(grid_file(tmp_path, f"base: {base}\n{rows}")), "--out", str(tmp_path / "out")]
    assert cli.main([*fresh, "--seeds", "5", "--dry-run"]) == 0
    windows = read_table(home.windows, WINDOWS)["split"].to_pylist().count("train")
    steps = 3 * (windows // 64)
    assert f"long, seed 5: {steps} steps, {64 * steps:,} windows\n" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "pictures, seed 0: done\n" in printed
    assert "lost, seed 1: 2 steps, 128 windows\n" in printed
    assert re.search(r"256 windows to train on: \d+ min at the [\d,]+ windows/s of .*pictures-\w+/seed_0", printed)


def test_a_run_on_other_windows_is_not_put_beside_the_others(compared, words, capsys):
    out, _ = compared
    path = runs_of(out)[1] / "results.json"
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    content["data"]["splits"]["test"]["windows"] += 1
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        assert cli.main(words) == 1
        assert "- pictures, seed 1: failed: evaluated on other windows" in capsys.readouterr().out
    finally:
        path.write_text(text, encoding="utf-8")


def test_cells_that_train_the_same_are_one_row_and_contradictions_are_left_out(base, tmp_path):
    text = f"base: {base}\ngrid:\n  embedding_source: [image, learned]\n  vision_model: [pixels, clip]\n"
    grid = load_grid(grid_file(tmp_path, text))
    assert [row.name for row in grid.rows] == ["image, vision_model pixels", "image, vision_model clip", "learned"]
    (left_out,) = grid.left_out
    assert "learned, vision_model clip: trains the same as learned, vision_model pixels" in left_out
    text = f"base: {base}\ngrid:\n  loss: [info_nce, focal_sigmoid]\n  focal_gamma: [1.0, 2.0]\n"
    grid = load_grid(grid_file(tmp_path, text))
    assert [row.settings["loss"] for row in grid.rows] == ["focal_sigmoid"] * 2
    assert [line.split(":")[0] for line in grid.left_out] == [
        f"loss info_nce, focal_gamma {g}" for g in ("1.0", "2.0")
    ]


def test_rows_that_differ_in_their_fine_tuning_alone_share_a_training(base, tmp_path):
    rows = "  all: {}\n  few: {finetune: {few_shot: 3}}\n  scratch: {finetune: {from_scratch: true, data: more}}\n"
    grid = load_grid(grid_file(tmp_path, f"base: {base}\nfinetune: {{mode: full}}\nrows:\n{rows}"))
    jobs = make_jobs(grid, tmp_path / "out", [0, 1])
    assert [(job.seed, job.rows) for job in jobs] == [(seed, ["all", "few", "scratch"]) for seed in (0, 1)]
    finetunes = jobs[1].finetunes
    assert [finetunes[name].few_shot for name in ("all", "few", "scratch")] == [1.0, 3, 1.0]
    assert [finetunes[name].data for name in ("all", "few", "scratch")] == [jobs[1].config.data] * 2 + ["more"]
    assert {config.seed for config in finetunes.values()} == {1} == {jobs[1].config.seed}
    assert len({config.out for job in jobs for config in job.finetunes.values()}) == 6


@pytest.mark.parametrize(
    "text, message",
    [
        ("grid: {}\n", "no value for base"),
        ("base: BASE\ngird: {}\n", r"grid.yaml:2: there is no key 'gird'; did you mean grid\?"),
        ("base: BASE\n", "no rows"),
        ("base: BASE\ngrid: {loss: info_nce}\n", "expected lists of values by setting"),
        ("base: BASE\nrows: {a: {los: sigmoid}}\n", r"a: there is no setting 'los'; did you mean loss\?"),
        ("base: BASE\nrows: {a: {focal_gamma: 1}}\n", "a: setting focal_gamma=1.0: expected only with"),
        ("base: BASE\nrows: {a: {finetune: {mod: full}}}\n", r"no setting 'mod'; did you mean mode\?"),
        ("base: nowhere\n", "no such config"),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(base, tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_grid(grid_file(tmp_path, text.replace("BASE", str(base))))


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_grids_load_by_their_bare_names_over_shipped_configs(path):
    grid = load_grid(path.stem)
    assert len(grid.rows) * len(grid.seeds or [0]) >= 2  # one run needs no grid
    assert {row.base.parent for row in grid.rows} == {CONFIGS}


def test_a_killed_process_is_named_by_its_signal_and_an_error_by_its_line(tmp_path):
    log = tmp_path / "log"
    log.write_text("step 1\ncasita train: error: no room. Free some.\n", encoding="utf-8")
    assert _why(0, log) == ""
    assert _why(-9, log) == "killed by SIGKILL"
    assert _why(2, log) == "no room. Free some."
    assert _why(3, tmp_path / "none") == "exit code 3"
