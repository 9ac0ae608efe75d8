"""The training configuration: every mistake is told with its place and its remedy."""

from pathlib import Path

import pytest

from casita import cli
from casita.train.config import CONFIGS, TrainConfig, load_config, save_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_its_bare_name_and_says_how_its_data_is_made(path):
    config = load_config(path.stem)
    assert config == load_config(path)
    assert Path(config.out).name == path.stem
    assert "casita build" in path.read_text(encoding="utf-8")


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
    "text, told",
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
        ("data: a\nout: b\ntemperature: 0.001\n", r"max_logit_scale=100\.0: expected at least 1 / temperature = 1000"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        load_config(written(tmp_path, text))


def test_a_config_that_is_not_there_lists_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"no such config; .*demo, .*milan_sequence"):
        load_config("domo")


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--learning_rte", "1"], "there is no argument '--learning_rte'; did you mean --learning_rate?"),
        (["--batch-size", "8"], "there is no argument '--batch-size'; did you mean --batch_size?"),
        (["--batch_size", "many"], "--batch_size: batch_size should be int, found 'many'."),
    ],
)
def test_a_mistaken_flag_ends_the_command_with_one_line_and_code_2(capsys, flags, told):
    assert cli.main(["train", "--config", "demo", *flags]) == 2
    assert capsys.readouterr().err == f"casita train: error: {told}\n"
