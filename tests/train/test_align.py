"""Training runs, small and real: they learn, resume exactly, and are the same on one process and on two."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from ddp_step import VARIANTS, config_of, gradients
from paths import HELPERS
from safetensors.torch import load_file
from train_home import KEYS, make_home, tiny
from transformers import AutoModel, AutoProcessor

from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table, write_table
from casita.train.align import train
from casita.train.configs.train_config import TrainConfig, load_config
from casita.train.data.dataset import build_processor, load_split, load_table
from casita.train.evaluation.encoders import load_encoders
from casita.train.training.checkpoint import checkpoints, read_progress
from casita.train.training.loop import make_accelerator
from casita.train.training.model import TrainedModel, build_model, make_scheduler, parameter_groups
from casita.train.training.objectives import AlignmentObjective


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    return make_home(tmp_path_factory.mktemp("toy") / "home")


@pytest.fixture(scope="module")
def run(home, tmp_path_factory) -> Path:
    """A finished run of 20 steps (5 an epoch), checkpoints at 16 and 20, with dropout and the tracker."""
    out = tmp_path_factory.mktemp("run") / "run"
    return train(tiny(home, out, epochs=4, learning_rate=3e-3, save_every=8, eval_every=5, tracker="tensorboard"))


def journal(run: Path, split: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["split"] == split]


def model_of(home: HomeFolder, config: TrainConfig):
    table = load_table(config)
    processor = build_processor(config, table)
    return build_model(config, processor, table, load_split(config, "train", processor).text_width)


def test_a_run_learns_and_leaves_what_it_promises(run):
    losses = [line["loss"] for line in journal(run, "train")]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(line["windows_per_s"] > 0 and 0 < line["scale"] <= 100 for line in journal(run, "train"))
    assert [line["step"] for line in journal(run, "validation")] == [5, 10, 15, 20]
    assert load_config(run / "config.yaml").out == str(run)
    assert [path.name for path in checkpoints(run)] == ["step_00000016", "step_00000020"]
    assert list(run.glob("logs/casita/events.out.tfevents.*"))
    assert not list(run.rglob("*.partial*"))


def test_the_published_model_is_the_best_by_validation_and_loads_by_auto_classes(home, run):
    model = AutoModel.from_pretrained(run / "model", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(run / "model", trust_remote_code=True)
    config = load_config(run / "config.yaml")
    assert processor.vocab == KEYS
    accelerator = make_accelerator(config)
    objective = AlignmentObjective(config, accelerator, TrainedModel(config, model))
    validation = load_split(config, "validation", build_processor(config, load_table(config)))
    best = min(journal(run, "validation"), key=lambda line: line["loss"])
    assert objective.validate(validation)["loss"] == pytest.approx(best["loss"], abs=1e-6)
    last = read_progress(checkpoints(run)[-1])
    assert (last.best_step, last.best) == (best["step"], best["loss"])


def test_the_frozen_table_and_the_input_projection_stay_as_they_were(home, run):
    fresh = model_of(home, load_config(run / "config.yaml")).state_dict()
    trained = load_file(run / "model" / "model.safetensors")
    table = load_table(load_config(run / "config.yaml"))
    assert torch.equal(trained["sensor_model.embeddings.table.weight"][3:], torch.from_numpy(table.embeddings))
    untouched = {name for name, tensor in trained.items() if torch.equal(tensor, fresh[name])}
    frozen = {"sensor_model.embeddings.table.weight", "logit_bias"}
    assert untouched >= frozen
    moved = {name for name in trained if name not in untouched}
    assert {"logit_scale", "text_projection.out_proj.weight", "sensor_model.embeddings.cls_token"} <= moved


def test_resuming_changes_nothing(run, tmp_path):
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    shutil.rmtree(checkpoints(resumed)[-1])  # as if the machine had stopped after step 16, within epoch 4
    shutil.rmtree(resumed / "model")
    config = load_config(run / "config.yaml", {"out": str(resumed)})
    train(config)
    for name in ("model.safetensors", "rng.safetensors"):
        straight, again = (load_file(checkpoints(folder)[-1] / name) for folder in (run, resumed))
        assert straight.keys() == again.keys()
        assert all(torch.equal(straight[key], again[key]) for key in straight), name
    timeless = [{k: v for k, v in line.items() if k != "windows_per_s"} for line in journal(run, "train")]
    assert [{k: v for k, v in line.items() if k != "windows_per_s"} for line in journal(resumed, "train")] == timeless
    assert journal(resumed, "validation") == journal(run, "validation")


def test_a_run_resumed_from_anothers_checkpoint_ends_with_the_same_weights(run, tmp_path):
    config = load_config(run / "config.yaml", {"out": str(tmp_path / "other"), "tracker": "none"})
    other = train(
        load_config(run / "config.yaml", {**config.as_dict(), "resume_from_checkpoint": str(checkpoints(run)[0])})
    )
    straight, again = (load_file(checkpoints(folder)[-1] / "model.safetensors") for folder in (run, other))
    assert all(torch.equal(straight[key], again[key]) for key in straight)
    assert (other / "model" / "model.safetensors").is_file()


def test_a_finished_run_is_left_as_it_is(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert train(load_config(run / "config.yaml")) == run
    assert "this run is finished, all 20 steps" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_a_run_is_neither_overwritten_nor_continued_with_other_settings_or_data(run, home, tmp_path):
    with pytest.raises(
        ValueError, match=r"other settings or data: learning_rate 0\.003 -> 0\.01\. Give another --out"
    ):
        train(load_config(run / "config.yaml", {"learning_rate": 0.01}))
    with pytest.raises(ValueError, match=r"other settings or data: the content of windows\.parquet; "):
        train(load_config(run / "config.yaml", {"data": str(make_home(tmp_path / "home", seed=1).root)}))
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    shutil.rmtree(checkpoints(stopped)[-1])
    with pytest.raises(ValueError, match=r"stands at step 16 of 20\. Go on with --resume-from-checkpoint last"):
        train(load_config(run / "config.yaml", {"out": str(stopped), "resume_from_checkpoint": "none"}))


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_an_incomplete_checkpoint_is_refused(run, tmp_path, damage):
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    shutil.rmtree(checkpoints(stopped)[-1])
    file = checkpoints(stopped)[-1] / "optimizer.safetensors"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:1000])
    message = f"no whole checkpoint, {file.name} missing" if damage == "missing" else "damaged, or of another model"
    with pytest.raises(ValueError, match=message):
        train(load_config(run / "config.yaml", {"out": str(stopped)}))


def test_the_learned_source_trains_from_the_same_config_by_one_key(home, tmp_path):
    out = train(tiny(home, tmp_path / "learned", embedding_source="learned", learning_rate=3e-3))
    losses = [line["loss"] for line in journal(out, "train")]
    assert losses[-1] < losses[0]
    model = AutoModel.from_pretrained(out / "model", trust_remote_code=True)
    assert model.config.embedding_source == "learned"
    assert not (out / "model" / "sensor_embeddings.safetensors").exists()


def test_matrices_decay_and_nothing_else_does(home, tmp_path):
    config = tiny(home, tmp_path, embedding_source="learned", use_time_deltas=True, weight_decay=0.1)
    model = model_of(home, config)
    decayed, spared = parameter_groups(model, config.weight_decay)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    spared_names = {names[id(p)] for p in spared["params"]}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith(("proj.weight", "_proj.weight")) for name in decayed_names)
    kinds = ("bias", "norm.weight", "cls_token", "logit_scale", "sensor.weight", "state.weight", "room.weight")
    assert all(name.endswith((*kinds, "time_deltas.weight")) for name in spared_names)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert decayed_names | spared_names == trained == set(names.values()) - {"logit_bias"}


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_nothing(home, tmp_path):
    config = tiny(home, tmp_path, warmup_ratio=0.1, learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = make_scheduler(config, optimizer, 100)
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:11] == pytest.approx([0.05 * i for i in range(11)])
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_the_scale_stops_at_its_limit(home, tmp_path):
    # So fast that without a limit the scale would leave it within the run.
    out = train(
        tiny(home, tmp_path / "fast", temperature=0.05, max_logit_scale=20.5, learning_rate=0.1, warmup_ratio=0.0)
    )
    scales = [line["scale"] for line in journal(out, "train")]
    assert max(scales) <= 20.5 * (1 + 1e-6)


def test_a_run_whose_home_was_cut_again_since_is_not_evaluated(tmp_path):
    home = make_home(tmp_path / "home")
    out = train(tiny(home, tmp_path / "run", epochs=1))
    load_encoders([out], [], 1, "cpu")
    windows = read_table(home.windows, WINDOWS).to_pydict()
    windows["split"] = windows["split"][::-1]
    write_table(home.windows, pa.table(windows, schema=WINDOWS), WINDOWS)
    with pytest.raises(ValueError, match=r"windows\.parquet: other windows than .* was trained on"):
        load_encoders([out], [], 1, "cpu")


def test_trackio_gets_the_lines_of_metrics_jsonl(home, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage  # only now: it reads that name when it is imported

    out = train(tiny(home, tmp_path / "named", epochs=1, tracker="trackio"))
    lines = SQLiteStorage.get_logs("casita", "named")
    for split in ("train", "validation"):
        losses = [line[f"{split}/loss"] for line in lines if f"{split}/loss" in line]
        assert losses == [line["loss"] for line in journal(out, split)]
        assert losses


def test_three_processes_do_what_one_does(home, tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    script = HELPERS / "ddp_step.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    paths = os.pathsep.join([str(script.parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launch, str(script), str(home.root), str(three)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (settings, _) in VARIANTS.items():
        world, expected = gradients(config_of(home, one / "run", **settings), home)
        assert world == 1
        for rank in range(3):
            found = load_file(three / f"{name}_{rank}.safetensors")
            assert found.pop("world") == 3
            assert found.keys() == expected.keys()
            for weight, gradient in expected.items():
                # Sums in another order, seen through weights of size 1: float32 keeps 1e-7 of those.
                label = f"{name}, {weight}"
                torch.testing.assert_close(
                    found[weight], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, t=label: f"{t}: {text}"
                )
        length = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values()))
        assert length > 0.1, name  # there was something to compare
    masked = [load_file(three / f"masked_{rank}.safetensors") for rank in range(3)]
    assert all(torch.equal(masked[0][weight], other[weight]) for weight in masked[0] for other in masked[1:])
    assert masked[0]["head.dense.weight"].abs().max() > 1e-4
    for rank in range(3):  # a signal to one process stops both at the same step
        assert load_file(three / f"signal_{rank}.safetensors")["stop_requested"].tolist() == [False, True]
        # No wrapped model is left when the process group goes.
        assert load_file(three / f"end_{rank}.safetensors")["wrapped"].tolist() == [False]
    train(config_of(home, one / "run"))
    for split in ("train", "validation"):
        ours, theirs = journal(one / "run", split), journal(three / "run", split)
        assert [line["step"] for line in theirs] == [line["step"] for line in ours]
        assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in ours], rel=1e-3)
    assert read_progress(checkpoints(three / "run")[-1]).processes == 3
