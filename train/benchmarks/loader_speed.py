"""How fast batches come, beside what the base model consumes and what torch's DataLoader delivers; what a start costs.

python -m casita.train.benchmarks.loader_speed --json feed.json

A home of random windows is written as real files, then read in fresh processes on one thread: cached, streamed, and by
a DataLoader over windows in memory with the default collate. Figures are windows in a second of processor time, which
others on the machine hardly change; memory is that of the process, files that it maps included.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from casita.datasets_scripts.benchmarks.scale import peak_memory_mib
from casita.datasets_scripts.schema import CAPTIONS, ROW_GROUP, WINDOWS, HomeFolder, text_embeddings_schema
from casita.files import write_json
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import TrainConfig
from casita.train.data.dataset import Batch, build_processor, load_split, load_table
from casita.train.data.loaders import BatchLoader, load_windows, make_loader
from casita.train.training.losses import info_nce
from casita.train.training.model import build_model

SENSORS = [f"M{i:03d}" for i in range(50)]
KEYS = [f"{sensor}_{state}" for sensor in SENSORS for state in ("OFF", "ON")]
SOURCES = ("cached", "streamed", "DataLoader")


def write_home(root: Path, windows: int, length: int, width: int) -> HomeFolder:
    """A home of `windows` random train windows of `length` events, each with a caption of its own, `width` wide."""
    home, rng = HomeFolder(root), np.random.default_rng(0)
    sensors = {s: {"x": i, "y": i, "room": "Hall", "type": "motion"} for i, s in enumerate(SENSORS)}
    home.describe(home="random", layout={"home": "random", "size": [50, 50], "sensors": sensors})
    vectors = rng.normal(size=(len(KEYS), 512)).astype(np.float32)
    table = SensorEmbeddingTable.build(KEYS, vectors, home="random", vision_model="pixels", output="pixels")
    table.save(home.image_embeddings("pixels"))
    (root / "captions").mkdir()
    (root / "text_embeddings").mkdir()
    with (
        pq.ParquetWriter(home.windows, WINDOWS, compression="zstd") as window_file,
        pq.ParquetWriter(home.captions("narrative"), CAPTIONS, compression="zstd") as caption_file,
        pq.ParquetWriter(
            home.text_embeddings("narrative", "minilm"), text_embeddings_schema(width), compression="zstd"
        ) as vector_file,
    ):
        for first in range(0, windows, ROW_GROUP):
            tables = _chunk(rng, first, min(ROW_GROUP, windows - first), length, width)
            for file, chunk in zip((window_file, caption_file, vector_file), tables, strict=True):
                file.write_table(chunk.cast(file.schema))
    home.record("windows", {"length": length, "overlap": 0.5}, inputs=[], outputs=[])
    return home


def _chunk(rng: np.random.Generator, first: int, n: int, length: int, width: int) -> list[pa.Table]:
    """Rows `first` to `first + n` of windows, captions and embeddings."""
    ids = [f"random/s/fixed_length_{length}_0.5/2024-01-01 {first + i:012d}" for i in range(n)]
    start = np.datetime64("2024-01-01", "us") + (first + np.arange(n)).astype("timedelta64[s]")
    offsets = pa.array(np.arange(n + 1) * length, pa.int32())
    keys = pa.array(KEYS).take(pa.array(rng.integers(len(KEYS), size=n * length)))
    seconds = rng.integers(0, 20, size=(n, length)).cumsum(axis=1).astype(np.float32)
    styles = ["narrative"] * n
    captions = [f"Somebody went from the hall to the hall, number {first + i}, and came back." for i in range(n)]
    vectors = pa.FixedSizeListArray.from_arrays(rng.standard_normal(n * width, dtype=np.float32), width)
    windows = {
        "window_id": ids,
        "home": ["random"] * n,
        "session": ["s"] * n,
        "split": ["train"] * n,
        "start": start,
        "end": start,
        "sensor_keys": pa.ListArray.from_arrays(offsets, keys),
        "seconds": pa.ListArray.from_arrays(offsets, pa.array(seconds.reshape(-1))),
        "activity": pa.nulls(n, pa.string()),
        "activity_share": np.zeros(n, np.float32),
    }
    return [
        pa.table(windows),
        pa.table({"window_id": ids, "style": styles, "caption": captions}),
        pa.table({"window_id": ids, "style": styles, "embedding": vectors}),
    ]


def config_of(home: Path, **settings: Any) -> TrainConfig:
    """A run over the home of `write_home`."""
    out = str(home / "run")
    return TrainConfig(data=str(home), out=out, vision_model="pixels", text_model="minilm", cpu=True, **settings)


def measure_start(home: Path) -> dict[str, float]:
    """Processor seconds until the windows are there to be read, and memory."""
    torch.set_num_threads(1)
    config, began = config_of(home), time.process_time()
    load_split(config, "train", build_processor(config, load_table(config)))
    return {"s": time.process_time() - began} | _memory()


def measure_feed(home: Path, source: str, batch_size: int, seconds: float) -> dict[str, float]:
    """Windows of a processor second, batches ready for the model, for about `seconds`; and MiB at the peak."""
    torch.set_num_threads(1)
    config = config_of(home, batch_size=batch_size, stream=source == "streamed")
    windows = load_windows(config, build_processor(config, load_table(config)))
    feed: Any = make_loader(config, windows, "cpu")
    if source == "DataLoader":
        loader = DataLoader(_Rows(feed), batch_size, shuffle=True, drop_last=True)
    made, cpu, until = 0, time.process_time(), time.perf_counter() + seconds
    epoch = 0
    while time.perf_counter() < until:  # whole epochs: a stream reads long before its first batch
        made += batch_size * sum(1 for _ in (loader if source == "DataLoader" else feed.epoch(epoch)))
        epoch += 1
    return {"windows_per_s": made / (time.process_time() - cpu)} | _memory()


class _Rows(Dataset):
    """Windows in memory, one at a time, as a DataLoader wants them."""

    def __init__(self, feed: BatchLoader):
        whole: list[Batch] = list(feed.epoch(0))
        names = whole[0].inputs
        self.columns = {name: torch.cat([batch.inputs[name] for batch in whole]) for name in names}
        self.columns |= {
            "texts": torch.cat([b.texts for b in whole]),
            "caption_ids": torch.cat([b.caption_ids for b in whole]),
        }

    def __len__(self) -> int:
        return len(self.columns["caption_ids"])

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: column[row] for name, column in self.columns.items()}


def measure_model(home: Path, batch_size: int, steps: int) -> dict[str, float]:
    """Windows of a processor second that the base model takes forward and backward; a first step warms up."""
    torch.set_num_threads(1)
    config = config_of(home, batch_size=batch_size)
    table = load_table(config)
    processor = build_processor(config, table)
    split = load_split(config, "train", processor)
    model = build_model(config, processor, table, split.text_width)
    for step, batch in enumerate(make_loader(config, split, "cpu").epoch(0)):
        if step == 1:
            began = time.process_time()
        out = model(**batch.inputs, text_embeds=batch.texts)
        caption_ids = batch.caption_ids
        info_nce(out.sensor_embeds, out.text_embeds, caption_ids, caption_ids, model.logit_scale.exp()).backward()
        if step == steps:
            return {"windows_per_s": steps * batch_size / (time.process_time() - began)} | _memory()
    raise ValueError(f"the home has fewer than {steps + 1} batches of {batch_size}: give more --windows.")


def _memory() -> dict[str, float]:
    """MiB: the most that this process held, pages of mapped files included; and what it holds now without those."""
    told = {"peak_mib": peak_memory_mib()}
    status = Path("/proc/self/status")
    if status.exists():
        own = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
        told["own_mib"] = round(int(own) / 2**10, 1)
    return told


def fresh(measure: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """`measure(*args)` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def benchmark_feed(
    windows: int, length: int, width: int, batch_sizes: list[int], seconds: float, steps: int, folder: Path | None
) -> dict[str, Any]:
    """One home of `windows` windows of `length` events: `start`, `model`, and `feeds`, for each source and batch.

    Args:
        width: of the captions' embeddings.
        seconds: how long each feed is measured. steps: of the model; 0 leaves it out.
        folder: where the home is written meanwhile, about `windows * width * 8` bytes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as root:
        home = write_home(Path(root), windows, length, width).root
        first, again = (fresh(measure_start, home) for _ in range(2))
        feeds = [
            {"source": source, "batch_size": size, **fresh(measure_feed, home, source, size, seconds)}
            for source in (SOURCES if seconds else ())
            for size in batch_sizes
        ]
        model = fresh(measure_model, home, batch_sizes[0], steps) if steps else None
    return {
        "windows": windows,
        "length": length,
        "width": width,
        "start": {"first": first, "again": again},
        "feeds": feeds,
        "model": model,
    }


def lines_of(row: dict[str, Any]) -> list[str]:
    """The figures of `benchmark_feed` as text."""
    lines = []
    for told, start in row["start"].items():
        speed = f", {row['windows'] / start['s']:,.0f} windows/s" if told == "first" else ""
        lines.append(
            f"{row['windows']:,} windows of {row['length']} events, start {told}: {start['s']:.1f} s{speed}, "
            f"peak {start['peak_mib']:,.0f} MiB, own {start.get('own_mib', 0):,.0f} MiB"
        )
    base = row["model"]["windows_per_s"] if row["model"] else None
    for feed in row["feeds"]:
        ratio = f"{feed['windows_per_s'] / base:,.0f} x the base model" if base else ""
        lines.append(
            f"  {feed['source']:<10} batch {feed['batch_size']:>5}  {feed['windows_per_s']:>11,.0f} windows/s  "
            f"peak {feed['peak_mib']:>6,.0f} MiB  {ratio}"
        )
    if base:
        lines.append(f"  base model, forward and backward   {base:>6,.1f} windows/s")
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="How fast batches come, and what a start costs. One thread; seconds are processor seconds.",
        epilog="example: python -m casita.train.benchmarks.loader_speed --windows 100000 --lengths 20 50 "
        "--json feed.json",
    )
    parser.add_argument("--windows", type=int, default=100_000, help="of the home (default %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[20, 50], help="events a window (default 20 50)")
    parser.add_argument("--width", type=int, default=768, help="of the captions' embeddings (default %(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024], help="default 128 1024")
    parser.add_argument("--seconds", type=float, default=5, help="for each feed; 0: none (default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="of the base model; 0: none (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the home lies meanwhile (default: the temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    rows = []
    for length in args.lengths:
        rows.append(
            benchmark_feed(args.windows, length, args.width, args.batch_sizes, args.seconds, args.steps, args.folder)
        )
        print("\n".join(lines_of(rows[-1])), flush=True)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
