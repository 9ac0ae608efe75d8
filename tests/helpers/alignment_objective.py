"""An alignment objective over a home of `train_home`."""

from typing import Any

import numpy as np
import torch
from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.train.data.dataset import Batch, build_processor, load_split, load_table
from casita.train.training.loop import make_accelerator
from casita.train.training.model import TrainedModel, build_model
from casita.train.training.objectives import AlignmentObjective

INPUTS = {"use_time_deltas": True, "use_coordinates": True, "alibi_distance": "time"}


def make(home: HomeFolder, **settings: Any) -> tuple[AlignmentObjective, Batch]:
    """An objective over fresh weights, and a batch of 12 windows."""
    config = tiny(home, home.root.parent / "run", **{**INPUTS, **settings})
    table = load_table(config)
    processor = build_processor(config, table)
    split = load_split(config, "train", processor)
    torch.manual_seed(0)
    model = TrainedModel(config, build_model(config, processor, table, split.text_width))
    windows = np.arange(12)
    accelerator = make_accelerator(config)
    return AlignmentObjective(config, accelerator, accelerator.prepare(model).train()), split.batch(
        windows, split.choose_captions(0, 0)[windows]
    )
