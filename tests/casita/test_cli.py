"""The command line: flags are written with hyphens and taken with underscores too."""

import dataclasses
import re

import pytest

from casita import cli
from casita.train import align, finetune
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.configs.train_config import TrainConfig


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_command_has_a_flag_with_an_underscore(command, capsys):
    subcommands = [[], ["list"], ["check"]] if command == "layout" else [[]]
    for subcommand in subcommands:
        with pytest.raises(SystemExit):
            cli.main([command, *subcommand, "--help"])
        text = capsys.readouterr().out
        assert re.findall(r"--[a-z]", text)
        assert not re.findall(r"(?<![\w-])--[\w-]*_[\w-]*", text)


@pytest.mark.parametrize("module, config_class", [(align, TrainConfig), (finetune, FinetuneConfig)])
def test_every_setting_is_taken_with_hyphens_and_with_underscores(module, config_class, monkeypatch):
    parsed = []
    monkeypatch.setattr(module, "run", parsed.append)
    start = ["train", "--config", "demo"] if module is align else ["finetune", "runs/x"]
    names = [item.name for item in dataclasses.fields(config_class) if item.name != "model"]
    assert sum("_" in name for name in names) > 10
    for name in names:
        hyphens = name.replace("_", "-")
        for words in ([f"--{hyphens}", "a_b"], [f"--{hyphens}=a_b"], [f"--{name}", "a_b"], [f"--{name}=a_b"]):
            assert cli.main([*start, *words]) == 0
            assert vars(parsed.pop())[name] == "a_b"


def test_flags_of_every_command_are_taken_with_underscores_and_a_near_one_is_suggested(capsys, tmp_path):
    missing = tmp_path / "no.log"
    answers = []
    for words in (["--vision-model", "clip"], ["--vision_model=clip"], ["--vision_model", "clip"]):
        assert cli.main(["embed-images", str(missing), *words]) == 2
        answers.append(capsys.readouterr().err)
    assert len(set(answers)) == 1
    assert "no argument" not in answers[0]
    assert cli.main(["layout", "check", str(missing), "milan", "--colums", "x"]) == 2
    assert "there is no argument '--colums'; did you mean --columns?" in capsys.readouterr().err


def test_only_the_name_of_a_known_flag_is_spelled_anew():
    words = ["a_b", "--batch_size", "c_d", "--out_dir=e_f", "--batch_size=g_h"]
    assert cli.use_hyphens(words, ["--batch-size"]) == [
        "a_b",
        "--batch-size",
        "c_d",
        "--out_dir=e_f",
        "--batch-size=g_h",
    ]
