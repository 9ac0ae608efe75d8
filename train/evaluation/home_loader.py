"""The homes of an evaluation, and each protocol's windows in them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from casita.datasets_scripts.hub.named_data import data_folder, named_homes
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.train.configs.train_config import TrainConfig
from casita.train.evaluation.encoders import Encoder
from casita.train.evaluation.inputs import load_inputs
from casita.train.evaluation.protocol_split import DRAWS, EvaluationHome, ProtocolSplit
from casita.train.evaluation.protocols import make_split, make_unseen_home_split


class HomeLoader:
    """The homes of an evaluation, each read once.

    Args:
        data, target: as in `evaluate_run`; names: the protocols that are asked for.
    """

    def __init__(
        self,
        config: TrainConfig,
        encoders: Sequence[Encoder],
        data: Path | None,
        target: Path | None,
        names: Sequence[str],
    ):
        if target and "leave_home_out" not in names:
            raise ValueError(f"--target {target}: only read with --protocol leave_home_out.")
        self.config = config
        self.encoder = encoders[0]
        self.data = data
        self.target = target
        self.homes: list[EvaluationHome] = []

    def home(self, folder: HomeFolder) -> EvaluationHome:
        """Read the home of a folder, or give it again."""
        for home in self.homes:
            if home.folder.root == folder.root:
                return home
        self.homes.append(EvaluationHome(folder, load_inputs(folder, self.config, self.encoder.model)))
        return self.homes[-1]

    def split(
        self, name: str, max_windows: int | None, draws: Sequence[int] = DRAWS, for_analysis: bool = False
    ) -> ProtocolSplit:
        """Divide the windows by a protocol; the other arguments as in `make_split`."""
        if name == "leave_home_out":
            return self._unseen_home_split(max_windows)
        home = self.home(HomeFolder(data_folder(self.data or self.config.data)))
        trained_in = self.encoder.knows(home.name)
        if not trained_in and not self.encoder.can_move():
            raise ValueError(
                f"{home.folder.root}: holds home {home.name}, which the run does not know, and its learned table "
                "cannot be swapped. Give a run that reads pictures, or the home it was trained on."
            )
        training_windows = self._training_windows(home) if trained_in else None
        return make_split(
            name, home, trained_in, max_windows, training_windows, draws=draws, for_analysis=for_analysis
        )

    def _training_windows(self, home: EvaluationHome) -> pa.Table | None:
        """Read the home's windows as the training had them, where `--data` names another folder.

        None where those are gone, which is how a run and a home look that came from another machine.
        """
        if self.data is None or not Path(self.config.data).exists():
            return None
        for folder in named_homes(self.config.data):
            if folder.name == home.name and folder.root.resolve() != home.folder.root.resolve():
                return read_table(folder.require(folder.windows, "windows"), WINDOWS, ["start", "end", "split"])
        return None

    def _unseen_home_split(self, max_windows: int | None) -> ProtocolSplit:
        folder = self.target or self.data
        if folder is None:
            raise ValueError("--protocol leave_home_out: say which home with --target DIR.")
        if not self.encoder.can_move():
            raise ValueError("--protocol leave_home_out: a learned table knows the sensors of its own homes only.")
        sources = [self.home(source) for source in named_homes(self.config.data)]
        return make_unseen_home_split(self.home(HomeFolder(data_folder(folder))), sources, max_windows)
