"""Time the data stages on one core: `python -m casita.datasets_scripts.benchmarks.stages read` (or another one)."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from casita.datasets_scripts.benchmarks import scale as scale_benchmark
from casita.datasets_scripts.benchmarks.scale import Figures, peak_memory_mib
from casita.datasets_scripts.captions.caption import STYLES, caption_windows
from casita.datasets_scripts.layouts.layout import Layout, Sensor, load_layout
from casita.datasets_scripts.pictures.draw import draw_pictures, picture_keys
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.schema import EVENTS, WINDOWS, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows

Result = TypeVar("Result")

DAY_ZERO = np.datetime64("2010-01-04T00:00:00", "us")
ACTIVITIES = ("Sleep", "Cook", "Watch_TV", "Work", "Bed_to_Toilet", "Wash_Dishes")


def write_casas_log(path: Path, lines: int, seed: int = 0) -> None:
    """Write a CASAS log of `lines` lines: 40 sensors, marks on one line in 60, some noise, some lines out of order."""
    random = np.random.default_rng(seed)
    seconds = np.cumsum(random.exponential(6.0, lines)) + random.normal(0, 0.05, lines)
    times = (DAY_ZERO + (seconds * 1e6).astype("timedelta64[us]")).astype(str)
    sensor = random.integers(0, 40, lines)
    state = random.choice(["ON", "OFF", "OFF`", "ON0"], lines, p=[0.5, 0.499, 0.0005, 0.0005])
    marks = np.full(lines, "", dtype=object)
    begins = np.arange(0, lines - 30, 60)
    labels = random.choice(ACTIVITIES, len(begins))
    marks[begins] = np.char.add(np.char.add("\t", labels), " begin")
    marks[begins + random.integers(5, 30, len(begins))] = np.char.add(np.char.add("\t", labels), " end")
    with path.open("w", encoding="ascii") as file:
        for start in tqdm(range(0, lines, 100_000), desc="make a log", unit="x100k lines", leave=False):
            part = slice(start, start + 100_000)
            rows = zip(times[part], sensor[part].tolist(), state[part], marks[part], strict=True)
            file.writelines(f"{t.replace('T', ' ')}\tM{m:03d}\t{s}{mark}\n" for t, m, s, mark in rows)


def best_of(repeats: int, work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Run `work` `repeats` times; return its last result, and the least seconds and processor seconds.

    Processor seconds are what a machine shared with others would need alone.
    """
    seconds = []
    cpu_seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        cpu_start = time.process_time()
        result = work()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return result, min(seconds), min(cpu_seconds)


def parquet_seconds(table: pa.Table, schema: pa.Schema) -> float:
    """Measure how long it takes to write `table` as Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        return best_of(1, lambda: write_table(Path(folder) / "table.parquet", table, schema))[1]


def benchmark_read(log: Path | None = None, lines: int = 2_000_000, repeats: int = 3, seed: int = 0) -> Figures:
    """Measure the reading of `log`, or of a generated one of `lines` lines: lines/s of the best run, peak memory.

    Reading is parsing, sorting, labels and states, all but the Parquet file, which has its own figure.
    """
    if log is None:
        with tempfile.TemporaryDirectory() as folder:
            generated = Path(folder) / "generated.txt"
            write_casas_log(generated, lines, seed)
            return benchmark_read(generated, repeats=repeats)
    (table, summary), seconds, cpu_seconds = best_of(repeats, lambda: read_events([log], "benchmark"))
    parquet_s = parquet_seconds(table, EVENTS)
    return {
        "stage": "read",
        "log": log.name,
        "lines": summary.lines,
        "events": summary.events,
        "sessions": summary.sessions,
        "read_s": round(seconds, 3),
        "lines_per_s": round(summary.lines / seconds),
        "cpu_s": round(cpu_seconds, 3),
        "parquet_s": round(parquet_s, 3),
        "table_mib": round(table.nbytes / 2**20, 1),
        "peak_mib": peak_memory_mib(),
    }


def benchmark_encode(windows: int = 1000, length: int = 50, repeats: int = 3, seed: int = 0) -> Figures:
    """Measure a DataFrame of `windows * length` events to the model's tensors, with every optional one.

    The frame is as pandas makes it from Python strings; 40 sensors, windows do not overlap.
    """
    from casita.processing.processing_casita import CasitaProcessor  # brings transformers, which `read` does without

    random = np.random.default_rng(seed)
    sensors = [f"M{number:03d}" for number in range(40)]
    count = windows * length
    frame = pd.DataFrame(
        {
            "timestamp": DAY_ZERO + np.cumsum(random.integers(1, 9_000_000, count)).astype("timedelta64[us]"),
            "sensor": random.choice(sensors, count).tolist(),
            "state": random.choice(["ON", "OFF"], count).tolist(),
        }
    )
    processor = CasitaProcessor(
        [f"{sensor}_{state}" for sensor in sensors for state in ("OFF", "ON")],
        home="benchmark",
        coordinates={sensor: [0.5, 0.5] for sensor in sensors},
        length=length,
        overlap=0.0,
        use_time_deltas=True,
        use_coordinates=True,
        use_timestamps=True,
    )
    processor(frame)  # the first call warms pandas and Arrow up
    shape, seconds, cpu_seconds = best_of(repeats, lambda: processor(frame)["input_ids"].shape)
    return {
        "stage": "encode",
        "windows": shape[0],
        "length": shape[1],
        "strings": str(frame["sensor"].dtype),
        "encode_ms": round(1e3 * seconds, 2),
        "cpu_ms": round(1e3 * cpu_seconds, 2),
        "windows_per_s": round(shape[0] / seconds),
    }


def make_events(events: int, seed: int = 0) -> pa.Table:
    """Make an events table as the windows stage reads it: one home, 40 motion sensors, an event in 6 s on average."""
    random = np.random.default_rng(seed)
    t_us = DAY_ZERO + np.cumsum(random.integers(1, 12_000_000, events)).astype("timedelta64[us]")
    label = (np.arange(events) // 40) % (len(ACTIVITIES) + 1)
    texts = {
        "home": (np.zeros(events, dtype=np.int32), ["benchmark"]),
        "session": (np.zeros(events, dtype=np.int32), ["log"]),
        "sensor": (random.integers(0, 40, events, dtype=np.int32), [f"M{number:03d}" for number in range(40)]),
        "state": (random.integers(0, 2, events, dtype=np.int32), ["OFF", "ON"]),
        "activity": (pa.array(label, pa.int32(), mask=label == len(ACTIVITIES)), list(ACTIVITIES)),
    }
    columns = {name: pa.DictionaryArray.from_arrays(code, names) for name, (code, names) in texts.items()}
    return pa.table({**columns, "timestamp": pa.array(t_us), "value": pa.nulls(events, pa.float32())})


def benchmark_windows(
    events: int = 5_000_000, length: int = 20, repeats: int = 3, seed: int = 0, **settings: Any
) -> Figures:
    """Measure events to the windows table, with choice of events, splits, labels and leak audit: windows/s.

    `settings` go to `WindowSettings`. The Parquet file has its own figure.
    """
    table = make_events(events, seed)
    sensors: dict[str, Sensor] = {
        name: {"x": 1, "y": 1, "room": "hall", "type": "motion"} for name in table["sensor"].unique().to_pylist()
    }
    layout: Layout = {"home": "benchmark", "size": [2, 2], "sensors": sensors}
    window_settings = WindowSettings(length=length, **settings)
    (windows, _), seconds, cpu_seconds = best_of(repeats, lambda: build_windows(table, layout, window_settings))
    parquet_s = parquet_seconds(windows, WINDOWS)
    return {
        "stage": "windows",
        "events": events,
        "windows": len(windows),
        "build_s": round(seconds, 3),
        "windows_per_s": round(len(windows) / seconds),
        "cpu_s": round(cpu_seconds, 3),
        "windows_per_cpu_s": round(len(windows) / cpu_seconds),
        "parquet_s": round(parquet_s, 3),
        "peak_mib": peak_memory_mib(),
    }


def make_windows(count: int, length: int = 20, seed: int = 0) -> pa.Table:
    """Make windows of the shipped Kyoto home as the caption stage reads them: a walk that stays at sensors a while."""
    random = np.random.default_rng(seed)
    placed = load_layout("kyoto")["sensors"]
    sensors = [name for name, sensor in placed.items() if sensor["type"] in ("motion", "door")]
    keys = [f"{name}_{state}" for name in sensors for state in ("ON", "OFF")]
    moves = np.where(random.random(count * length) < 0.2, random.integers(0, len(sensors), count * length), 0)
    codes = 2 * (np.cumsum(moves) % len(sensors)) + random.integers(0, 2, count * length)
    seconds = np.cumsum(random.integers(0, 20, (count, length)), axis=1).astype(np.float32)
    seconds -= seconds[:, :1]
    start = DAY_ZERO + np.cumsum(random.integers(1, 600_000_000, count)).astype("timedelta64[us]")
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    sensor_keys = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), keys).cast(pa.string())
    return pa.table(
        {
            "window_id": [f"kyoto/s/fixed_length/{i}" for i in range(count)],
            "start": start,
            "end": start + (seconds[:, -1] * 1e6).astype("timedelta64[us]"),
            "sensor_keys": pa.ListArray.from_arrays(offsets, sensor_keys),
            "seconds": pa.ListArray.from_arrays(offsets, pa.array(seconds.reshape(-1))),
        }
    )


def benchmark_captions(windows: int = 50_000, repeats: int = 3, seed: int = 0) -> Figures:
    """Measure windows of 20 events to captions, one or four a window: captions a CPU second, by style."""
    table = make_windows(windows, seed=seed)
    layout = load_layout("kyoto")
    figures: Figures = {"stage": "captions", "windows": windows}
    for style, captions in [*((style, 1) for style in STYLES), ("narrative", 4)]:
        work = partial(caption_windows, table, layout, style, captions=captions, seed=seed)
        captions_of, _, cpu_seconds = best_of(repeats, work)
        figures[f"{style}_x{captions}_per_cpu_s"] = round(sum(map(len, captions_of)) / cpu_seconds)
    return {**figures, "peak_mib": peak_memory_mib()}


def benchmark_draw(size: int = 224, repeats: int = 3) -> Figures:
    """Measure the drawing of the shipped Kyoto home's pictures, `size` pixels a side, as PNG files."""
    layout = load_layout("kyoto")
    keys = picture_keys(layout, [])
    with tempfile.TemporaryDirectory() as folder:
        names = (Path(folder) / str(i) for i in range(repeats))  # each run into an empty folder
        _, seconds, cpu_seconds = best_of(
            repeats, lambda: draw_pictures(layout, keys, next(names), size, progress=False)
        )
    return {
        "stage": "draw",
        "pictures": len(keys),
        "size": size,
        "draw_s": round(seconds, 3),
        "cpu_s": round(cpu_seconds, 3),
        "pictures_per_s": round(len(keys) / seconds),
    }


def use_one_core() -> None:
    """Keep this process and Arrow to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


class Benchmark(NamedTuple):
    """A benchmark of one stage: what it measures, its function, and the options of that function with their help."""

    description: str
    run: Callable[..., Figures]
    options: dict[str, tuple[int, str]]  # name -> default and help


SEED = {"seed": (0, "of what is generated")}
BENCHMARKS: dict[str, Benchmark] = {
    "read": Benchmark(
        "raw CASAS text to the events table",
        benchmark_read,
        {"lines": (2_000_000, "lines of the generated log"), **SEED},
    ),
    "captions": Benchmark(
        "the windows table to captions of each style",
        benchmark_captions,
        {"windows": (50_000, "windows of the generated table"), **SEED},
    ),
    "draw": Benchmark(
        "a layout to a picture file for each sensor state",
        benchmark_draw,
        {"size": (224, "side of a picture in pixels")},
    ),
    "encode": Benchmark(
        "a DataFrame of events to the model's tensors",
        benchmark_encode,
        {"windows": (1000, "windows of the generated stream"), "length": (50, "events a window"), **SEED},
    ),
    "windows": Benchmark(
        "the events table to the windows table",
        benchmark_windows,
        {"events": (5_000_000, "events of the generated table"), "length": (20, "events a window"), **SEED},
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark and print its figures; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m casita.datasets_scripts.benchmarks.stages",
        description=__doc__,
        epilog="example: python -m casita.datasets_scripts.benchmarks.stages read --lines 500000 --json",
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, benchmark in BENCHMARKS.items():
        stage = stages.add_parser(name, help=benchmark.description)
        stage.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts (default 3)")
        for option, (default, text) in benchmark.options.items():
            stage.add_argument(f"--{option}", type=int, default=default, help=f"{text} (default %(default)s)")
        stage.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
        if name == "read":
            stage.add_argument("--log", type=Path, metavar="PATH", help="a real log or folder of logs instead")
    scale = stages.add_parser("scale", help="all data stages at growing numbers of events: time and peak memory")
    scale_benchmark.add_arguments(scale)
    args = parser.parse_args(argv)
    use_one_core()
    try:
        if args.stage == "scale":
            scale_benchmark.run(args)
            return 0
        options = {name: value for name, value in vars(args).items() if name not in ("stage", "json")}
        figures = BENCHMARKS[args.stage].run(**options)
    except (ValueError, OSError) as error:
        print(f"benchmark {args.stage}: error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>12}  {value if isinstance(value, str) else format(value, ',')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
