"""The state of an optimizer and its schedule as one safetensors file: numbers exactly, and no pickle.

Tensors have the names `INDEX.NAME` (`3.exp_avg`); the groups' settings and the schedule are JSON in the header, in
which Python's floats come back bit for bit.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def save_optimizer(path: Path, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Write both to `path`."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for index, weight_state in state["state"].items():
        for name, value in weight_state.items():
            assert isinstance(value, Tensor), f"the optimizer keeps {name} as {type(value).__name__}"
            tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
    header = {"param_groups": state["param_groups"], "scheduler": scheduler.state_dict()}
    save_file(tensors, path, metadata={name: json.dumps(content) for name, content in header.items()})


def load_optimizer(path: Path, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Bring both to where `save_optimizer` wrote `path`."""
    state: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = {name: json.loads(text) for name, text in file.metadata().items()}
        for key in list(file.keys()):
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = file.get_tensor(key)
    optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"]})
    scheduler.load_state_dict(header["scheduler"])
