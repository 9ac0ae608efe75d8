"""`casita demo`: the whole way on the built-in synthetic home, with no network."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from casita.datasets_scripts.captions.text_embeddings import minilm_directory
from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_table
from casita.datasets_scripts.stages import BuildSettings, build_home
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.files import write_json
from casita.train.align import train
from casita.train.configs.train_config import load_config
from casita.train.evaluate_run import evaluate_run
from casita.train.inference.model_directory import load_published

# Both are named as what they are: `pixels` is the average-pooled picture, a control and no learned model; `minilm` the
# official all-MiniLM-L6-v2, which comes with a pip package.
OFFLINE = BuildSettings(layout="synthetic", vision_model="pixels", text_model="minilm")
SENTENCES = {  # for windows of these activities, one each
    "Sleep": "Somebody is asleep in bed.",
    "Bathing": "Somebody is washing in the bathroom.",
    "Cook": "Somebody is cooking a meal.",
    "Eat": "Somebody is eating at the table.",
    "Wash_Dishes": "Somebody is doing the dishes.",
    "Watch_TV": "Somebody is watching television.",
    "Work_at_Desk": "Somebody is working at the desk.",
    "Leave_Home": "Somebody is going out.",
}
DAYS = 30  # of synthetic life
RELOAD_EXAMPLE = Path(__file__).with_name("reload_example.py")


class LabelledEvents(TypedDict):
    """The events of a window, `[timestamp, sensor, state]` each, and the label of most of them."""

    activity: str
    events: list[list[str]]


def build_and_train(out: Path, days: int = DAYS, steps: int = 2) -> tuple[HomeFolder, Path]:
    """Make the home folder and the run folder of the demo, as far as they are not there yet, and return them.

    `steps` is the number of steps to count up to in what is printed.
    """
    minilm_directory()  # what is missing is said before minutes of work
    home = HomeFolder(out / "home")
    run = out / "run"
    with _step(f"1/{steps}  raw log -> home folder"):
        log = write_synthetic_log(out / "home" / "synthetic.txt", days=days)
        build_home(home, [log], OFFLINE)
    with _step(f"2/{steps}  alignment training (preset tiny)"):
        train(load_config("demo", {"data": str(home.root), "out": str(run)}))
    return home, run


@contextmanager
def _step(title: str) -> Iterator[None]:
    """Print the title of a step and how long it took."""
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    yield
    print(f"   ({time.monotonic() - began:.0f} s)", flush=True)


def reload(home: HomeFolder, model_directory: Path, out: Path) -> None:
    """Answer for a few test windows in a fresh process, and compare its embeddings with this process's own.

    Raises:
        RuntimeError: the fresh process failed, or its embeddings differ by more than 1e-6.
    """
    windows = few_windows(home)
    model, processor = load_published(model_directory)
    with torch.inference_mode():
        inputs = processor([w["events"] for w in windows], text_kwargs={"return_tensors": "pt"})
        expected = model(**inputs).sensor_embeds.numpy()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "windows.json", {"windows": windows, "sentences": list(SENTENCES.values())})
    arguments = (RELOAD_EXAMPLE, model_directory, out, minilm_directory())
    # Resolved, for it runs in another directory.
    command = [sys.executable, "-I", *(str(path.resolve()) for path in arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{RELOAD_EXAMPLE.name} failed:\n{done.stderr}")
    print(done.stdout, end="")
    difference = np.abs(np.array(json.loads((out / "embeds.json").read_text())) - expected).max()
    if difference > 1e-6:
        raise RuntimeError(f"the reloaded model's embeddings differ by {difference:.1e}; expected at most 1e-6.")
    print(f"   largest difference of the embeddings to this process's own: {difference:.1e}")


def few_windows(home: HomeFolder) -> list[LabelledEvents]:
    """Return a test window of each activity in `SENTENCES`."""
    windows = read_table(home.windows, WINDOWS)
    windows = windows.filter(pc.and_(pc.equal(windows["split"], "test"), pc.greater(windows["activity_share"], 0.9)))
    events = read_table(home.events, EVENTS)
    chosen: list[LabelledEvents] = []
    for activity in SENTENCES:
        of_activity = windows.filter(pc.equal(windows["activity"], activity))
        for window in of_activity.slice(len(of_activity) // 2, 1).to_pylist():  # one from the middle of the test days
            sensors = {key.rpartition("_")[0] for key in window["sensor_keys"]}
            is_after_start = pc.greater_equal(events["timestamp"], window["start"])
            is_before_end = pc.less_equal(events["timestamp"], window["end"])
            is_of_window = pc.and_(pc.is_in(events["sensor"], pa.array(sorted(sensors))), is_after_start)
            inside = events.filter(pc.and_(is_of_window, is_before_end))
            rows = [[str(event["timestamp"]), event["sensor"], event["state"]] for event in inside.to_pylist()]
            chosen.append({"activity": activity, "events": rows})
    return chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita demo`."""
    parser.description = (
        "The whole way on the built-in synthetic home, offline; run again, it goes on where it stopped."
    )
    parser.epilog = "example: casita demo --out demo"
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--days", type=int, default=DAYS, help="of synthetic life (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Run `casita demo`: build, train, evaluate, reload; print the outcome of each step and, last, where to look."""
    began = time.monotonic()
    home, run = build_and_train(args.out, args.days, steps=4)
    with _step("3/4  evaluation on the test days"):
        evaluate_run(run)
    with _step("4/4  the model directory, loaded by a process that cannot import casita"):
        reload(home, run / "model", args.out / "reload")
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at:")
    for title, path in (
        ("report, for a browser", run / "report.html"),
        ("plots", run / "plots"),
        ("pictures of the home", home.root / "contact_sheet.png"),
        ("model directory", run / "model"),
    ):
        print(f"  {title:<21} {path}")
