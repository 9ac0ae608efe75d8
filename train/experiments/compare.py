"""Train a grid of configurations over seeds, evaluate each run, and put the numbers into one table.

    casita compare --grid kasteren_a_sources --out runs/compared --seeds 0 1 2

Each run is a process of its own, forked from one that has imported everything, so that one which fails or is killed
leaves the others alone: the table then says why. The same command again keeps what is finished and does the rest.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from casita import cli
from casita.datasets_scripts.hub.named_data import named_homes
from casita.files import locked
from casita.train.configs.train_config import TrainConfig
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.tensor_cache import read_split
from casita.train.evaluation.report_inputs import read_metrics
from casita.train.experiments.comparison_table import comparison_results, comparison_text, write_comparison
from casita.train.experiments.grid import Grid, Job, load_grid, make_jobs
from casita.train.training.step import total_steps

PRELOAD = [
    "casita.train.experiments.compare",
    "casita.train.align",
    "casita.train.evaluate_run",
    "casita.train.finetune",
]


def compare(
    grid: Grid, out: Path, seeds: Sequence[int], *, protocol: str = "chronological", jobs: int = 1
) -> dict[str, Any]:
    """Run what is not finished, then write `compare.json`, `compare.md` and `compare.png` into `out`.

    Args:
        seeds: of each row's runs; the few-shot windows of a seed are the same in all rows.
        protocol: how the windows must have been split.
        jobs: processes at a time.

    Returns:
        The content of `compare.json`: rows with each seed's numbers, their mean and `_sd`; `failed` says why.
    """
    work = make_jobs(grid, out, seeds)
    with locked(out, "casita compare"):
        failed = _run_all([job for job in work if not job.is_done(protocol)], protocol, len(seeds), jobs)
        results = comparison_results(grid, work, failed, protocol)
        write_comparison(out, results)
    return results


def process_context() -> Any:
    """Return a multiprocessing context whose processes are forked from one that has imported everything."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(PRELOAD)
    return context


def _run_all(todo: list[Job], protocol: str, seeds: int, jobs: int) -> dict[Path, str]:
    """Run the jobs, some at a time; return by run folder why a job failed."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    context = process_context()
    running: list[Any] = []

    def run(job: Job) -> str:
        job.run.parent.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=_work, args=(job.commands(protocol, seeds), str(job.log)))
        process.start()
        running.append(process)
        process.join()
        return _why(process.exitcode, job.log)

    pool = ThreadPoolExecutor(jobs)
    before = _on_sigterm(lambda *_: sys.exit(143))
    try:
        return _wait({pool.submit(run, job): job for job in todo})
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, KeyboardInterrupt):  # Ctrl-C went to all of them; another signal would be a second
            for process in running:
                process.terminate()  # a training saves then
        raise
    finally:
        pool.shutdown()
        _on_sigterm(before)


def _wait(jobs: dict[Any, Job]) -> dict[Path, str]:
    """Print a line when a job ends; return by run folder why a job failed."""
    failed: dict[Path, str] = {}
    began = time.monotonic()
    for done, future in enumerate(as_completed(jobs), start=1):
        job = jobs[future]
        why = future.result()
        if why:
            failed[job.run] = why
        left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
        outcome = f"failed: {why} ({job.log})" if why else "done"
        rest = f"; about {left:.0f} min left" if done < len(jobs) else ""
        print(f"[{done}/{len(jobs)}] {' | '.join(job.rows)}, seed {job.seed}: {outcome}{rest}", flush=True)
    return failed


def _on_sigterm(handler: Any) -> Any:
    """Set the handler and return the one before; outside of the main thread, which takes no signals, do nothing."""
    with suppress(ValueError):
        return signal.signal(signal.SIGTERM, handler)
    return None


def _work(commands: list[list[str]], log: str) -> None:
    """Run the commands one after the other in a process of its own; what they print goes to `log`.

    It ends with the first that fails, but a fine-tuning does not stop the next one.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    failed = 0
    for words in commands:
        failed = cli.main(words) or failed
        if failed and words[0] != "finetune":
            break
    sys.exit(failed)


def _why(code: int | None, log: Path) -> str:
    """Say why a process failed, empty if it did not: its error line, or the signal that ended it."""
    if code == 0:
        return ""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return (errors or lines or [f"exit code {code}"])[-1]


# -------------------------------------------------------------------------------------------------------- dry run
def plan(jobs: Sequence[Job], protocol: str) -> str:
    """List what would run, with its steps, and how long it takes at the speed of the first run that has one."""
    lines = []
    left = 0
    for job in jobs:
        done = job.is_done(protocol)
        steps = total_steps(job.config, _batches(job.config))
        windows = steps * job.config.batch_size * job.config.gradient_accumulation_steps
        left += 0 if done else windows
        extra = f", {len(job.finetunes)} fine-tuning" if job.finetunes else ""
        state = "done" if done else f"{steps:,} steps, {windows:,} windows{extra}"
        lines.append(f"{' | '.join(job.rows)}, seed {job.seed}: {state}")
    speeds = [(job, speed) for job in jobs if (speed := _speed(job.run))]
    if not left:
        lines.append("Nothing is left to do.")
    elif speeds:
        job, speed = speeds[0]
        lines.append(
            f"{left:,} windows to train on: {left / speed / 60:.0f} min at the {speed:,.0f} windows/s of {job.run}"
        )
    else:
        lines.append(f"{left:,} windows to train on; how long that takes is known once a run has been made.")
    return "\n".join(lines)


def _batches(config: TrainConfig) -> Any:
    counts = [
        sum(len(part) for part in read_split(folder.require(folder.windows, "windows"), "train", ["split"]))
        for folder in named_homes(config.data)
    ]
    homes = np.repeat(np.arange(len(counts)), counts)
    return BatchSampler(sum(counts), config.batch_size, 0, home_batches=config.home_batches, homes=homes)


def _speed(run: Path) -> float:
    """Return windows a second, the median of what a run logged; 0 for a run that did not."""
    lines = read_metrics(run / "metrics.jsonl")
    speeds = sorted(line["windows_per_s"] for line in lines if line["split"] == "train")
    return speeds[len(speeds) // 2] if speeds else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita compare`."""
    parser.description = "Train and evaluate a grid of configurations: compare.json, compare.md and compare.png."
    parser.epilog = (
        "examples:\n  casita compare --grid kasteren_a_sources --out runs/compared --dry-run\n"
        "  casita compare --grid kasteren_a_sources --out runs/compared --seeds 0 1 2 --jobs 2\n\n"
        "a grid:\n  base: kyoto_pixels\n  grid:\n    embedding_source: [image, learned]\n"
        "    loss: [info_nce, sigmoid]\n  finetune: {mode: full, few_shot: 0.05}"
    )
    parser.add_argument("--grid", required=True, metavar="YAML", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="runs/ and the table go there")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds (default: the grid's, or 0 1 2)")
    parser.add_argument("--protocol", default="chronological", help="how the windows must have been split")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and their steps; train nothing")


def run(args: argparse.Namespace) -> int:
    """Run the command `casita compare`; exit code 1 when a run failed."""
    grid = load_grid(args.grid)
    seeds = args.seeds or grid.seeds or [0, 1, 2]
    if args.jobs < 1 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"--jobs {args.jobs}, --seeds {' '.join(map(str, seeds))}: expected 1 or more; each seed once."
        )
    for line in grid.left_out:
        print(line)
    if args.dry_run:
        print(plan(make_jobs(grid, args.out, seeds), args.protocol))
        return 0
    results = compare(grid, args.out, seeds, protocol=args.protocol, jobs=args.jobs)
    print(comparison_text(results))
    print(
        f"table: {args.out / 'compare.md'}   numbers: {args.out / 'compare.json'}   plot: {args.out / 'compare.png'}"
    )
    return int(any("failed" in scores for row in results["rows"] for scores in row["seeds"].values()))
