"""SIGTERM and Ctrl-C: noted when they come, answered where a step is done, by all processes at the same step."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from casita.train.training.losses import gather

STEPS = 10  # on a GPU the processes ask each other this often: to ask is to wait for the device


class SignalHandler:
    """Within it the first SIGTERM or SIGINT only sets a flag; the second does what it always does.

    Outside of the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.noted = self.agreed = 0  # two: what comes while the processes ask each other is for the next time
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def came(self, step: int) -> bool:
        """Whether any process got a signal: the same answer on all. Call on every rank after each step."""
        if self.accelerator.num_processes == 1:
            self.agreed = self.noted
        elif self.accelerator.device.type == "cpu" or step % STEPS == 0:
            self.agreed = int(gather(torch.tensor([self.noted], device=self.accelerator.device)).max())
        return self.agreed != 0

    def leave(self) -> None:
        """End the program as the signal wants it: exit code 0 for SIGTERM, `KeyboardInterrupt` for SIGINT."""
        if self.agreed == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(0)
