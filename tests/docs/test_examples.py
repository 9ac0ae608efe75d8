"""The scripts of docs/examples run as they stand, and say what is true."""

import io
import json
import runpy
import sys

import pytest
from snippets import ROOT
from space_home import make_space_home

from casita.datasets_scripts.captions.text_embeddings import minilm_directory
from casita.datasets_scripts.schema import EVENTS, read_table
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.inference.model_directory import load_published

EXAMPLES = ROOT / "docs" / "examples"
OWN = {"home": "mine", "size": [90, 60], "sensors": {"A1": {"x": 9, "y": 9, "room": "kitchen", "type": "motion"}}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_space_home(tmp_path_factory.mktemp("examples"), days=1)


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """Run an example in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def lines(made):
    """The home's first 60 events as CSV."""
    events = read_table(made[0].events, EVENTS).slice(0, 60).to_pylist()
    return "".join(f"{event['timestamp']},{event['sensor']},{event['state']}\n" for event in events)


def windows(made, lines):
    """The bounds of the windows that the processor makes of CSV lines."""
    _, processor = load_published(made[1])
    stream = processor.stream([tuple(line.split(",")) for line in lines.splitlines()], unknown="skip")
    return [f"{start} to {end}".replace("T", " ") for start, end in zip(stream.start, stream.end, strict=True)]


def test_every_example_is_tested_and_explains_itself():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    tested = (ROOT / "tests" / "docs" / "test_examples.py").read_text()
    for name in names:
        assert f'example("{name}"' in tested
        assert (EXAMPLES / name).read_text().startswith('"""')
        assert f"examples/{name}" in (ROOT / "README.md").read_text()


def test_an_own_home_is_read_without_training(example, made, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    log = [f"2031-03-01 08:00:{second:02d} A1 {('ON', 'OFF')[second % 2]}" for second in range(30)]
    (tmp_path / "mine.txt").write_text("\n".join(log) + "\n")
    output = example("own_home.py", made[1] / "model", "mine.txt", "mine.json")
    assert "30 events of mine: 2 windows, a vector of 16 numbers each" in output


def test_a_stream_gives_every_window_of_the_recording(example, made, lines):
    output_lines = example("embed_stream.py", made[1] / "model", stdin=lines).splitlines()
    assert [line.split(": ")[0] for line in output_lines] == windows(made, lines)


def test_activities_of_ones_own_are_scored(example, made, lines):
    output_lines = example("zero_shot.py", made[1] / "model", minilm_directory(), stdin=lines).splitlines()
    assert [line.split(": ")[0] for line in output_lines] == windows(made, lines)
    shares = [float(part.split()[-1]) for part in output_lines[0].split(": ")[1].split(", ")]
    assert sum(shares) == pytest.approx(1, abs=0.02)


def test_a_home_is_swapped_and_no_weight_moves(example, made, tmp_path):
    table = SensorEmbeddingTable.load(made[1] / "model")
    other = SensorEmbeddingTable.build(
        ["Z1_ON", "Z1_OFF"],
        table.embeddings[:2],
        home="other",
        vision_model=table.vision_model,
        output=table.output,
        normalization=table.normalization,
        image_size=table.image_size,
    )
    other.save(tmp_path / "other.safetensors")
    output = example("swap_home.py", made[1] / "model", "other.safetensors")
    assert "from synthetic to other: 2 states, Z1 ON" in output
