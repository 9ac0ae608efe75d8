"""How fast the data stages are: `python -m casita.datasets_scripts.benchmark read` (or `encode`), on one core."""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from casita.datasets_scripts.read import read_events
from casita.datasets_scripts.schema import EVENTS, write_table

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


def benchmark_read(log: Path, repeats: int = 3) -> dict[str, Any]:
    """Read `log` `repeats` times and write it as Parquet: lines/s of the best run, seconds, and peak memory in MiB.

    Reading is parsing, sorting, labels and states, all but the Parquet file, which has its own figure.
    """
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        table, summary = read_events([log], "benchmark")
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)  # what a machine shared with others would need alone
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_table(Path(folder) / "events.parquet", table, EVENTS)
        parquet_s = time.perf_counter() - start
    return {
        "stage": "read",
        "log": log.name,
        "lines": summary.lines,
        "events": summary.events,
        "sessions": summary.sessions,
        "read_s": round(min(seconds), 3),
        "lines_per_s": round(summary.lines / min(seconds)),
        "cpu_s": round(min(cpu_seconds), 3),
        "parquet_s": round(parquet_s, 3),
        "table_mib": round(table.nbytes / 2**20, 1),
        "peak_mib": peak_memory_mib(),
    }


def benchmark_encode(windows: int = 1000, length: int = 50, repeats: int = 3, seed: int = 0) -> dict[str, Any]:
    """A DataFrame of `windows * length` events to the model's tensors, with every optional one: the best run's ms.

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
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        shape = processor(frame)["input_ids"].shape
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "stage": "encode",
        "windows": shape[0],
        "length": shape[1],
        "strings": str(frame["sensor"].dtype),
        "encode_ms": round(1e3 * min(seconds), 2),
        "cpu_ms": round(1e3 * min(cpu_seconds), 2),
        "windows_per_s": round(shape[0] / min(seconds)),
    }


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB here


def use_one_core() -> None:
    """Keep this process and Arrow to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def run_read(args: argparse.Namespace) -> dict[str, Any]:
    if args.log is not None:
        return benchmark_read(args.log, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "generated.txt"
        write_casas_log(log, args.lines, args.seed)
        return benchmark_read(log, args.repeats)


def add_read_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, default=2_000_000, help="lines of the generated log (default 2000000)")
    parser.add_argument("--log", type=Path, metavar="PATH", help="a real log or folder of logs instead")


def run_encode(args: argparse.Namespace) -> dict[str, Any]:
    return benchmark_encode(args.windows, args.length, args.repeats, args.seed)


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--windows", type=int, default=1000, help="windows of the generated stream (default 1000)")
    parser.add_argument("--length", type=int, default=50, help="events a window (default 50)")


# stage -> (what it measures, adds its arguments, runs and returns its figures)
STAGES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[..., dict[str, Any]]]] = {
    "read": ("raw CASAS text to the events table", add_read_arguments, run_read),
    "encode": ("a DataFrame of events to the model's tensors", add_encode_arguments, run_encode),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m casita.datasets_scripts.benchmark",
        description=__doc__,
        epilog="example: python -m casita.datasets_scripts.benchmark read --lines 500000 --json",
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, (told, add_arguments, _) in STAGES.items():
        stage = stages.add_parser(name, help=told)
        add_arguments(stage)
        stage.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts (default 3)")
        stage.add_argument("--seed", type=int, default=0, help="of what is generated (default 0)")
        stage.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    args = parser.parse_args(argv)
    use_one_core()
    try:
        figures = STAGES[args.stage][2](args)
    except (ValueError, OSError) as error:
        print(f"benchmark {args.stage}: error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(figures))
    else:
        print(
            "\n".join(
                f"{name:>12}  {value:,}" if name != "stage" and not isinstance(value, str) else f"{name:>12}  {value}"
                for name, value in figures.items()
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
