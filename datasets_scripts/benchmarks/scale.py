"""How time and memory of the data stages grow with the number of events: a table as Markdown, figures as JSON.

Made-up homes are generated, then each stage goes over all of them in a fresh process, on one core. A home is a shard:
memory should depend on the largest home and on nothing else.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from casita.files import write_json

EVENTS_A_DAY = 1380  # of a made-up home, on average

HEADER = "| homes x days | stage | made | s | CPU s | a CPU second | peak MiB |\n|---|---|---|---|---|---|---|"
# What each stage makes; the table gives how many in a CPU second.
UNITS = {"generate": "lines", "read": "lines", "windows": "windows", "draw": "pictures", "caption": "captions"}


def _generate(root: Path, homes: int, days: int) -> Iterator[int]:
    from casita.datasets_scripts.schema import HomeFolder
    from casita.datasets_scripts.synthetic.home import write_made_up_home

    for number in range(1, homes + 1):
        write_made_up_home(HomeFolder(root / f"synthetic_{number:03d}"), number, days, seed=0, progress=False)
        yield sum(1 for _ in (root / f"synthetic_{number:03d}" / "synthetic.txt").open("rb"))


def _read(root: Path, homes: int, days: int) -> Iterator[int]:
    from casita.datasets_scripts.readers.read import read_home
    from casita.datasets_scripts.schema import home_folders

    for folder in home_folders(root):
        summary = read_home(folder, [folder.root / "synthetic.txt"], folder.root / "layout.json")
        yield summary.lines if summary else 0


def _windows(root: Path, homes: int, days: int) -> Iterator[int]:
    from casita.datasets_scripts.schema import home_folders
    from casita.datasets_scripts.windows.cut import WindowSettings, cut_home

    for folder in home_folders(root):
        summary = cut_home(folder, WindowSettings())
        yield sum(split["windows"] for split in summary["splits"].values()) if summary else 0


def _draw(root: Path, homes: int, days: int) -> Iterator[int]:
    from casita.datasets_scripts.pictures.draw import draw_home
    from casita.datasets_scripts.schema import home_folders

    for folder in home_folders(root):
        yield (draw_home(folder, progress=False) or {"pictures": 0})["pictures"]


def _caption(root: Path, homes: int, days: int) -> Iterator[int]:
    from casita.datasets_scripts.captions.caption import caption_home
    from casita.datasets_scripts.schema import home_folders

    for folder in home_folders(root):
        yield (caption_home(folder) or {"captions": 0})["captions"]


STAGES: dict[str, Callable[[Path, int, int], Iterator[int]]] = {
    "generate": _generate,
    "read": _read,
    "windows": _windows,
    "draw": _draw,
    "caption": _caption,
}


def _measured(stage: str, root: Path, homes: int, days: int) -> dict[str, Any]:
    """Runs in a process of its own: what the stage made of all homes, its seconds, and its peak memory in MiB."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the stages' progress bars
    counts, wall, cpu = [], time.perf_counter(), time.process_time()
    for count in STAGES[stage](root, homes, days):
        counts.append(count)
    seconds, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "stage": stage,
        "unit": UNITS[stage],
        "count": sum(counts),
        "largest": max(counts),
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "per_cpu_s": round(sum(counts) / cpu_s),
        "peak_mib": round(peak_memory_mib()),
    }


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it started this process
        peak_kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(peak_kib) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB elsewhere


def benchmark_scale(events: int, days: int = 365, folder: Path | None = None) -> list[dict[str, Any]]:
    """Every stage over about `events` events in homes of `days` days: a dict of figures a stage.

    Args:
        events: the number of homes is what comes nearest; at least one.
        folder: where the data go, about 100 bytes an event; they are removed. Default: the system's temporary folder.
    """
    homes = max(1, round(events / (days * EVENTS_A_DAY)))
    context, rows = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory(dir=folder) as root:
        for stage in STAGES:
            with ProcessPoolExecutor(1, mp_context=context) as fresh:
                row = fresh.submit(_measured, stage, Path(root), homes, days).result()
            rows.append({"homes": homes, "days": days, **row})
            print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: dict[str, Any]) -> str:
    """A stage's figures as a line of the table below `HEADER`."""
    return (
        f"| {row['homes']} x {row['days']} | {row['stage']} | {row['count']:,} {row['unit']} | {row['seconds']:,.1f} "
        f"| {row['cpu_s']:,.1f} | {row['per_cpu_s']:,} | {row['peak_mib']:,} |"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--events", type=float, nargs="+", default=[1e6], metavar="N", help="about so many events (default 1e6)"
    )
    parser.add_argument("--days", type=int, default=365, help="of each home; its size is the shard's (default 365)")
    parser.add_argument("--folder", type=Path, help="where the data go meanwhile (default: the temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(args: argparse.Namespace) -> None:
    """`benchmark scale`."""
    if min(args.events) < 1 or args.days < 1:
        raise ValueError(f"--events {min(args.events):g}, --days {args.days}: give at least 1.")
    rows = []
    print(HEADER, flush=True)
    for events in args.events:
        rows += benchmark_scale(int(events), args.days, args.folder)
        if args.json:
            write_json(args.json, {"machine": platform.platform(), "python": platform.python_version(), "rows": rows})
