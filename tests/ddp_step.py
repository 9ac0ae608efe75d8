"""Run by torchrun from test_train_align.py: what two processes make of one optimizer step, and of a whole run.

torchrun --standalone --nproc-per-node 2 tests/ddp_step.py HOME OUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.train.align import Trainer, make_accelerator, train
from casita.train.checkpoint import Progress
from casita.train.config import TrainConfig
from casita.train.data import Batches, build_processor, load_split, load_table
from casita.train.model import build_model


def config_of(home: HomeFolder, out: Path) -> TrainConfig:
    """Without dropout, in which ranks rightly differ, and without clipping, which would hide a wrong factor."""
    inputs = {"use_time_deltas": True, "use_coordinates": True, "alibi_distance": "time", "projection_type": "mlp"}
    return tiny(home, out, dropout=0.0, max_grad_norm=1e6, gradient_accumulation_steps=2, epochs=3, **inputs)


def gradients(config: TrainConfig, home: HomeFolder) -> tuple[int, dict[str, torch.Tensor]]:
    """World size, and the gradient of every trained weight in the first step, by its change under plain descent."""
    accelerator = make_accelerator(config)
    table = load_table(home, config)
    processor = build_processor(home, config, table)
    split = load_split(home, "train", config, processor)
    torch.manual_seed(0)
    model = build_model(config, processor, table, split.texts.shape[1])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(trained.values(), lr=1.0))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer.optimizer, factor=1.0)
    trainer = Trainer(config, accelerator, wrapped, optimizer, schedule)
    batches = Batches(len(split), config.batch_size, 0, accelerator.process_index, accelerator.num_processes)
    progress = Progress({}, {}, accelerator.num_processes, total_steps=1)
    trainer.train_step(next(trainer.steps(split, batches, progress)))
    after = dict(trainer.bare.named_parameters())
    return accelerator.num_processes, {name: was - after[name].detach() for name, was in before.items()}


if __name__ == "__main__":
    home, out = HomeFolder(Path(sys.argv[1])), Path(sys.argv[2])
    config = config_of(home, out / "run")
    world, found = gradients(config, home)
    rank = torch.distributed.get_rank()
    out.mkdir(parents=True, exist_ok=True)
    save_file({"world": torch.tensor(world), **found}, out / f"gradients_{rank}.safetensors")
    train(config)
