"""Reads an epoch of a stream under torchrun, each rank from a copy of the home in which the others' data is broken.

torchrun --standalone --nproc-per-node 2 tests/helpers/stream_rank.py OUT       (with OUT/home_0, OUT/home_1)
"""

import json
import sys
from pathlib import Path

from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.train.data.dataset import build_processor, load_table
from casita.train.data.loaders import load_windows, make_loader
from casita.train.training.loop import make_accelerator

if __name__ == "__main__":
    out = Path(sys.argv[1])
    accelerator = make_accelerator(tiny(HomeFolder(out), out))
    rank, ranks = accelerator.process_index, accelerator.num_processes
    config = tiny(HomeFolder(out / f"home_{rank}"), out / "run", stream=True, shuffle_shards=2)
    windows = load_windows(config, build_processor(config, load_table(config)))
    feed = make_loader(config, windows, accelerator.device, rank, ranks)
    rows = [batch.inputs["input_ids"].tolist() for batch in feed.epoch(1)]
    record = {"ranks": ranks, "len": len(feed), "rows": rows}
    (out / f"rank_{rank}.json").write_text(json.dumps(record))
    accelerator.wait_for_everyone()
