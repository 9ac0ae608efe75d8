"""The training configuration: every mistake is named with its place and its remedy."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from casita import cli
from casita.datasets_scripts import build
from casita.datasets_scripts.layouts.layout import load_layout
from casita.train import align
from casita.train.configs.train_config import CONFIGS, TrainConfig, load_config, save_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def commands_in(path: Path) -> list[list[str]]:
    """The commands in a config's comment, as words."""
    comment = "".join(line[1:] for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    lines = comment.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("   ")]


def parsed(module: Any, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    module.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_its_bare_name_and_its_comment_says_how_to_make_its_data_and_run_it(path):
    config = load_config(path.stem)
    assert config == load_config(path)
    assert Path(config.out).name == path.stem
    made, trained = commands_in(path)
    assert made[:2] == ["casita", "build"]
    data = parsed(build, made[2:])
    assert str(data.out) == config.data
    assert data.text_model == config.text_model
    if config.embedding_source == "image":
        assert data.vision_model == config.vision_model
    if data.layout:
        load_layout(data.layout)
    settings = vars(parsed(align, trained[trained.index("--config") :]))
    assert settings.pop("config") == path.stem
    assert load_config(path.stem, settings) == config


def test_the_reference_systems_experiments_are_there():
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    kinds = ("image_clip", "image_dinov2", "image_siglip", "sequence")
    assert names >= {f"{home}_{kind}" for home in ("milan", "aruba", "cairo", "kyoto") for kind in kinds}
    base = load_config("milan_image_clip").as_dict()
    for variant, changed in {
        "masked": {"masked_weight": 0.5},
        "sigmoid": {"loss": "sigmoid"},
        "focal": {"loss": "focal_sigmoid", "focal_gamma": 2.0},
        "queue": {"queue_size": 4096},
        "mlp_projection": {"projection_type": "mlp"},
    }.items():
        assert load_config(f"milan_{variant}").as_dict() == base | changed | {"out": f"runs/milan_{variant}"}


def test_temperature_and_bias_start_where_the_losss_paper_starts_unless_given():
    starts = {loss: TrainConfig(data="a", out="b", loss=loss) for loss in ("info_nce", "sigmoid", "focal_sigmoid")}
    first_values = {loss: (config.first_temperature, config.first_logit_bias) for loss, config in starts.items()}
    assert first_values == {"info_nce": (0.07, 0.0), "sigmoid": (0.1, -10.0), "focal_sigmoid": (0.1, -10.0)}
    given = TrainConfig(data="a", out="b", loss="sigmoid", temperature=0.5, logit_bias_init=0.0)
    assert (given.first_temperature, given.first_logit_bias) == (0.5, 0.0)


def test_a_saved_config_reads_back_equal(tmp_path):
    config = TrainConfig(
        data="a: b", out="null", learning_rate=1e-5, max_steps=3, tracker=None, bf16=False, dropout=0.0
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_flags_come_on_top_of_the_file_and_are_read_as_their_types(tmp_path):
    path = written(tmp_path, "data: a\nout: b\nbatch_size: 8\nlearning_rate: 3e-4\ntracker: none\n")
    config = load_config(path, {"batch_size": "16", "max_steps": "none", "bf16": "true", "data": "c: d"})
    assert (config.batch_size, config.max_steps, config.bf16, config.data) == (16, None, True, "c: d")
    assert (config.learning_rate, config.tracker) == (3e-4, None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("data: a\nout: b\nlearning_rte: 0.1\n", r"run\.yaml:3: .*'learning_rte'; did you mean learning_rate\?"),
        ("data: a\nout: b\nbatch_size: 3.5\n", r"run\.yaml:3: batch_size should be int, found 3\.5"),
        ("data: a\nout: b\nbatch_size: true\n", r"run\.yaml:3: batch_size should be int, found True"),
        ("data: a\nout: b\nbf16: 1\n", r"run\.yaml:3: bf16 should be true \| false \| auto, found 1"),
        (
            "data: a\nout: b\npreset: huge\n",
            r"run\.yaml:3: preset should be tiny \| small \| base \| large, found 'huge'",
        ),
        ("data: a\ndata: b\n", r"run\.yaml:2: data is already set in line 1"),
        ("data: a\n", r"run\.yaml: no value for out\. .*--out"),
        ("- a\n", r"run\.yaml: expected lines of `key: value`, found a list"),
        ("a: [\n", r"run\.yaml: expected YAML"),
        ("data: a\nout: b\nbatch_size: 1\n", r"batch_size=1: expected at least 2"),
        ("data: a\nout: b\nqueue_size: -1\n", r"queue_size=-1: expected 0 or more"),
        ("data: a\nout: b\nfocal_gamma: 1.5\n", r"focal_gamma=1\.5: expected only with loss=focal_sigmoid"),
        ("data: a\nout: b\nloss: sigmoid\nfocal_alpha: 0.5\n", r"focal_alpha=0\.5: expected only with loss=focal"),
        ("data: a\nout: b\nlogit_bias_init: -5\n", r"logit_bias_init=-5\.0: expected only with loss=sigmoid or"),
        (
            "data: a\nout: b\nmask_probability: 0.2\n",
            r"mask_probability=0\.2: expected only with masked_weight above 0",
        ),
        (
            "data: a\nout: b\nmasked_weight: 1\nmask_probability: 0\n",
            r"mask_probability=0\.0: expected in \(0, 1\]",
        ),
        ("data: a\nout: b\ncontrast_weight: 0\n", r"contrast_weight=0 and masked_weight=0: nothing to learn"),
        (
            "data: a\nout: b\ncontrast_weight: 0\nmasked_weight: 1\nqueue_size: 64\n",
            r"queue_size=64: expected only with contrast_weight above 0",
        ),
        (
            "data: a\nout: b\ncontrast_weight: 0\nmasked_weight: 1\nmicro_batch_size: 64\n",
            r"micro_batch_size=64: expected only with contrast_weight above 0",
        ),
        ("data: a\nout: b\nmicro_batch_size: 48\n", r"micro_batch_size=48: expected a divisor of batch_size=128"),
        ("data: a\nout: b\nloss: sigmod\n", r"loss should be info_nce \| sigmoid \| focal_sigmoid, found 'sigmod'"),
        ("data: a\nout: b\nque_size: 8\n", r"no setting 'que_size'; did you mean queue_size\?"),
        ("data: a\nout: b\ntemperature: 0.001\n", r"max_logit_scale=100\.0: expected at least 1 / temperature = 1000"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(written(tmp_path, text))


def test_a_config_that_is_not_there_lists_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"no such config; .*demo, .*milan_sequence"):
        load_config("domo")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--learning-rte", "1"], "there is no argument '--learning-rte'; did you mean --learning-rate?"),
        (["--learning_rte=1"], "there is no argument '--learning_rte=1'; did you mean --learning-rate?"),
        (["--batch_sise", "8"], "there is no argument '--batch_sise'; did you mean --batch-size?"),
        (["--batch-size", "many"], "--batch-size should be int, found 'many'."),
        (["--batch_size", "many"], "--batch-size should be int, found 'many'."),
        (["--batch-size", "1"], "--batch-size=1: expected at least 2: one window has no other to differ from."),
    ],
)
def test_a_mistaken_flag_ends_the_command_with_one_line_and_code_2(capsys, flags, message):
    assert cli.main(["train", "--config", "demo", *flags]) == 2
    assert capsys.readouterr().err == f"casita train: error: {message}\n"
