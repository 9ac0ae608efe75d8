"""Time and memory of the data stages at growing numbers of events: a table as Markdown, figures as JSON.

Synthetic homes are generated, then each stage goes over all of them in a fresh process, on one core. A home is a
shard: memory should depend on the largest home and on nothing else.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

from casita.datasets_scripts.schema import HomeFolder
from casita.files import write_json

EVENTS_A_DAY = 1380  # of a synthetic home, on average

HEADER = "| homes x days | stage | made | s | CPU s | a CPU second | peak MiB |\n|---|---|---|---|---|---|---|"
Figures: TypeAlias = dict[str, str | int | float]  # name -> what was measured


# stage -> what it makes; the table gives how many in a CPU second
UNITS = {"generate": "lines", "read": "lines", "windows": "windows", "draw": "pictures", "caption": "captions"}


def _run_stage(stage: str, folder: HomeFolder, number: int, days: int) -> int:
    """Run a stage for home `number`; return how much it made."""
    # Each stage imports what it needs in its own process, so that the memory of one is not counted for another.
    if stage == "generate":
        from casita.datasets_scripts.synthetic.home import write_synthetic_home

        write_synthetic_home(folder, number, days, seed=0, progress=False)
        with (folder.root / "synthetic.txt").open("rb") as log:
            return sum(1 for _ in log)
    if stage == "read":
        from casita.datasets_scripts.readers.read import read_home

        read_home(folder, [folder.root / "synthetic.txt"], folder.root / "layout.json")
        return folder.summary("read")["lines"]
    if stage == "windows":
        from casita.datasets_scripts.windows.cut import WindowSettings, cut_home

        cut_home(folder, WindowSettings())
        return sum(split["windows"] for split in folder.summary("windows")["splits"].values())
    if stage == "draw":
        from casita.datasets_scripts.pictures.draw import draw_home

        draw_home(folder, progress=False)
        return folder.summary("draw")["pictures"]
    from casita.datasets_scripts.captions.caption import caption_home

    caption_home(folder)
    return folder.summary("caption:narrative")["captions"]


def _measured(stage: str, root: Path, homes: int, days: int) -> Figures:
    """Run a stage over all homes; return how much it made, its seconds, and this process's peak memory in MiB."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the stages' progress bars
    counts = []
    start = time.perf_counter()
    cpu_start = time.process_time()
    for number in range(1, homes + 1):
        counts.append(_run_stage(stage, HomeFolder(root / f"synthetic_{number:03d}"), number, days))
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    return {
        "stage": stage,
        "unit": UNITS[stage],
        "count": sum(counts),
        "largest": max(counts),
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_seconds, 2),
        "per_cpu_s": round(sum(counts) / cpu_seconds),
        "peak_mib": round(peak_memory_mib()),
    }


def peak_memory_mib() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it started this process
        peak_kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(peak_kib) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB elsewhere


def benchmark_scale(events: int, days: int = 365, folder: Path | None = None) -> list[Figures]:
    """Measure every stage over about `events` events in homes of `days` days.

    Args:
        events: the number of homes is what comes nearest; at least one.
        folder: where the data go, about 100 bytes an event; they are removed. Default: the system's temporary folder.
    """
    homes = max(1, round(events / (days * EVENTS_A_DAY)))
    context = multiprocessing.get_context("spawn")
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory(dir=folder) as root:
        for stage in UNITS:
            with ProcessPoolExecutor(1, mp_context=context) as fresh:
                row = fresh.submit(_measured, stage, Path(root), homes, days).result()
            rows.append({"homes": homes, "days": days, **row})
            print(
                f"| {homes} x {days} | {stage} | {row['count']:,} {row['unit']} | {row['seconds']:,.1f} "
                f"| {row['cpu_s']:,.1f} | {row['per_cpu_s']:,} | {row['peak_mib']:,} |",
                flush=True,
            )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the benchmark `scale`."""
    parser.add_argument(
        "--events", type=float, nargs="+", default=[1e6], metavar="N", help="about so many events (default 1e6)"
    )
    parser.add_argument("--days", type=int, default=365, help="of each home; its size is the shard's (default 365)")
    parser.add_argument("--folder", type=Path, help="where the data go meanwhile (default: the temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(args: argparse.Namespace) -> None:
    """Run the benchmark `scale`."""
    if min(args.events) < 1 or args.days < 1:
        raise ValueError(f"--events {min(args.events):g}, --days {args.days}: give at least 1.")
    rows: list[Figures] = []
    print(HEADER, flush=True)
    for events in args.events:
        rows += benchmark_scale(int(events), args.days, args.folder)
        if args.json:
            write_json(args.json, {"machine": platform.platform(), "python": platform.python_version(), "rows": rows})
