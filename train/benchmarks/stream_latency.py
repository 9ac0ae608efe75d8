"""Latency of a pushed event: `CasitaStream` on this machine.

python -m casita.train.benchmarks.stream_latency --presets tiny base --json streaming.json
"""

import argparse
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casita.files import write_json
from casita.modeling.configuration_casita import NUM_RESERVED_ROWS, PRESETS, CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.streaming_casita import CasitaStream
from casita.processing.processing_casita import CasitaProcessor

SENSORS = 50


def benchmark_streaming(
    preset: str, length: int = 20, every: int | None = None, results: int = 100, threads: int | None = None
) -> dict[str, Any]:
    """Push events of a home of 50 sensors, one a second, until `results` windows are embedded; time in ms on the CPU.

    Weights are untrained, which changes no time. The first ten results warm up and are not counted.

    Returns:
        `result_p50_ms`, `result_p95_ms` of the pushes that gave a result, `waiting_p50_ms` of those that gave none
        (None when every push gives one), `event_mean_ms` over all, with `preset`, `parameters`, `threads`, `length`,
        `every` and `results`.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    keys = [f"M{i:03d}_{state}" for i in range(SENSORS) for state in ("OFF", "ON")]
    processor = CasitaProcessor(keys, home="benchmark", length=length)
    torch.manual_seed(0)
    model = CasitaModel(CasitaConfig.from_preset(preset, vocab_size=NUM_RESERVED_ROWS + len(keys))).eval()
    stream = CasitaStream(model, processor, every=every)
    due, waiting = _push_events(stream, results + 10)
    due = due[10:]
    waiting = waiting[-(stream.every - 1) * results :] if stream.every > 1 else []
    return {
        "preset": preset,
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
        "length": stream.length,
        "every": stream.every,
        "results": results,
        "result_p50_ms": float(np.percentile(due, 50)),
        "result_p95_ms": float(np.percentile(due, 95)),
        "waiting_p50_ms": float(np.percentile(waiting, 50)) if waiting else None,
        "event_mean_ms": float(np.mean([*due, *waiting])),
    }


def _push_events(stream: CasitaStream, results: int) -> tuple[list[float], list[float]]:
    """Time the pushes, in milliseconds: those that gave a result, and the others."""
    rng = np.random.default_rng(0)
    now = datetime(2024, 5, 1)
    due: list[float] = []
    waiting: list[float] = []
    while len(due) < results:
        now += timedelta(seconds=1)
        event = (now, f"M{rng.integers(SENSORS):03d}", "ON" if rng.random() < 0.5 else "OFF")
        start = time.perf_counter()
        result = stream.push(event)
        (waiting if result is None else due).append((time.perf_counter() - start) * 1e3)
    return due, waiting


def main(argv: list[str] | None = None) -> None:
    """Measure and print; `argv` as on the command line."""
    parser = argparse.ArgumentParser(
        description="Latency of a pushed event on the CPU.",
        epilog="example: python -m casita.train.benchmarks.stream_latency --presets tiny base --json streaming.json",
    )
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["tiny", "base"])
    parser.add_argument("--length", type=int, default=20, help="events of a window (default %(default)s)")
    parser.add_argument("--every", type=int, help="events from result to result (default: half of --length)")
    parser.add_argument("--results", type=int, default=100, help="results to time (default %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    args = parser.parse_args(argv)
    print("preset    parameters  threads  length  every   ms of a result: p50     p95  of none: p50  mean an event")
    rows = [benchmark_streaming(name, args.length, args.every, args.results, args.threads) for name in args.presets]
    for row in rows:
        sizes = (row[name] for name in ("parameters", "threads", "length", "every"))
        times = (row[name] for name in ("result_p50_ms", "result_p95_ms", "waiting_p50_ms", "event_mean_ms"))
        columns = "{:>12,}{:>9}{:>8}{:>7}".format(*sizes)
        print(f"{row['preset']:<8}{columns}" + "".join(f"{'-' if t is None else f'{t:.3f}':>12}" for t in times))
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
