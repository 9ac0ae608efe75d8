"""Run by torchrun from test_align.py: what three processes make of one optimizer step, and of a whole run.

torchrun --standalone --nproc-per-node 3 tests/helpers/ddp_step.py HOME OUT
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.train.align import train
from casita.train.configs.train_config import TrainConfig
from casita.train.data.dataset import build_processor, load_split, load_table
from casita.train.data.loaders import make_loader
from casita.train.training.checkpoint import Progress
from casita.train.training.loop import make_accelerator
from casita.train.training.model import TrainedModel, build_model
from casita.train.training.objectives import AlignmentObjective
from casita.train.training.signals import SignalHandler
from casita.train.training.step import TrainingStep

# By name: what one process is to do, and what the three do beyond it that must not change the gradients.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "info_nce": ({}, {}),
    "info_nce with a queue, in chunks": ({"queue_size": 16}, {"micro_batch_size": 3}),
    "sigmoid": ({"loss": "sigmoid"}, {}),
    "focal_sigmoid with a queue, in chunks": (
        {"loss": "focal_sigmoid", "queue_size": 16, "focal_alpha": 0.9},
        {"micro_batch_size": 2},
    ),
}


def config_of(home: HomeFolder, out: Path, **settings: Any) -> TrainConfig:
    """Without dropout, in which ranks rightly differ, and without clipping, which would hide a wrong factor."""
    inputs = {"use_time_deltas": True, "use_coordinates": True, "alibi_distance": "time", "projection_type": "mlp"}
    defaults = {"dropout": 0.0, "max_grad_norm": 1e6, "gradient_accumulation_steps": 2, "epochs": 3, **inputs}
    return tiny(home, out, **(defaults | settings))


def gradients(config: TrainConfig, home: HomeFolder) -> tuple[int, dict[str, torch.Tensor]]:
    """World size, and the gradient of every trained weight in the first step, by its change under plain descent."""
    accelerator = make_accelerator(config)
    table = load_table(config)
    processor = build_processor(config, table)
    split = load_split(config, "train", processor)
    torch.manual_seed(0)
    model = build_model(config, processor, table, split.text_width)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    wrapped, optimizer = accelerator.prepare(TrainedModel(config, model), torch.optim.SGD(trained.values(), lr=1.0))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer.optimizer, factor=1.0)
    training_step = TrainingStep(config, AlignmentObjective(config, accelerator, wrapped), optimizer, schedule)
    loader = make_loader(config, split, accelerator.device, accelerator.process_index, accelerator.num_processes)
    progress = Progress({}, {}, accelerator.num_processes, total_steps=1)
    training_step.train_step(next(training_step.step_batches(loader, progress)))
    after = dict(training_step.unwrapped_model.named_parameters())
    return accelerator.num_processes, {name: was - after[name].detach() for name, was in before.items()}


if __name__ == "__main__":
    home, out = HomeFolder(Path(sys.argv[1])), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, (settings, beyond) in VARIANTS.items():
        world, found = gradients(config_of(home, out / "run", **settings, **beyond), home)
        rank = torch.distributed.get_rank()
        save_file({"world": torch.tensor(world), **found}, out / f"{name}_{rank}.safetensors")
    _, found = gradients(config_of(home, out / "run", masked_weight=0.5, micro_batch_size=3), home)
    save_file(found, out / f"masked_{rank}.safetensors")
    with SignalHandler(make_accelerator(config_of(home, out / "run"))) as signals:
        before = signals.stop_requested(step=1)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        requested = torch.tensor([before, signals.stop_requested(step=2)])
    save_file({"stop_requested": requested}, out / f"signal_{rank}.safetensors")
    # Freed after the process group, a wrapped model may wait for ever, once in some dozens of runs.
    destroy, wrapped = torch.distributed.destroy_process_group, list[bool]()

    def watched(*given: Any) -> None:
        wrapped.append(any(isinstance(found, DistributedDataParallel) for found in gc.get_objects()))
        destroy(*given)

    torch.distributed.destroy_process_group = watched
    train(config_of(home, out / "run"))
    save_file({"wrapped": torch.tensor(wrapped)}, out / f"end_{rank}.safetensors")
