"""This process's random numbers: their state, for checkpoints, and to draw the same again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def rng_state() -> dict[str, Tensor]:
    """Return the state of torch's generators; NumPy's and Python's global ones are not used in training."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Set torch's generators to `state`, as `rng_state` returned it."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


class RandomState:
    """The random numbers that come next when it is made, to be drawn again later.

    A class and no dict: DistributedDataParallel would move a dict's tensors to its device.
    """

    def __init__(self) -> None:
        self.state = rng_state()

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Draw them again within it; after it all goes on as if they had not been."""
        present = rng_state()
        set_rng_state(self.state)
        try:
            yield
        finally:
            set_rng_state(present)
