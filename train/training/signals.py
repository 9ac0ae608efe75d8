"""SIGTERM and Ctrl-C: noted when they come, answered where a step is done, by all processes at the same step."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from casita.train.training.losses import gather

STEPS_BETWEEN_CHECKS = 10  # on a GPU: to ask the other processes is to wait for the device


class SignalHandler:
    """A context in which the first SIGTERM or SIGINT only sets a flag; the second does what it always does.

    Outside of the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        # Two numbers: what comes while the processes ask each other is for the next time.
        self.received = 0
        self.agreed = 0
        self.previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous_handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def stop_requested(self, step: int) -> bool:
        """Return whether any process got a signal: the same answer on all. Call on every rank after each step."""
        if self.accelerator.num_processes == 1:
            self.agreed = self.received
        elif self.accelerator.device.type == "cpu" or step % STEPS_BETWEEN_CHECKS == 0:
            received = torch.tensor([self.received], device=self.accelerator.device)
            self.agreed = int(gather(received).max())
        return self.agreed != 0

    def exit_program(self) -> None:
        """End the program as the signal demands: exit code 0 for SIGTERM, `KeyboardInterrupt` for SIGINT."""
        if self.agreed == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(0)
