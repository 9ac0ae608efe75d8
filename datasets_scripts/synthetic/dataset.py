"""A data set of many synthetic homes: a folder of home folders, built side by side by several processes."""

import io
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from casita.datasets_scripts.captions.text_embeddings import load_text_model
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.stages import BuildSettings, build_home
from casita.datasets_scripts.synthetic.home import write_synthetic_home
from casita.files import locked

if TYPE_CHECKING:
    from casita.datasets_scripts.pictures.image_embeddings import VisionEncoder


@cache  # a worker serves one build: it loads each model once, and only if a home needs it
def _vision_model(name: str) -> "VisionEncoder":
    from casita.datasets_scripts.pictures.image_embeddings import load_vision_model

    return load_vision_model(name)


_text_model = cache(load_text_model)


@dataclass(frozen=True, kw_only=True)
class SyntheticHomes:
    """A choice of `homes` homes of `days` days each. Home k of a seed is the same however many there are."""

    homes: int
    days: int = 60
    seed: int = 0


def build_synthetic_home(root: Path, number: int, homes: SyntheticHomes, settings: BuildSettings) -> int:
    """Make home `number` of the data set `root`, without output; return the number of its events."""
    folder = HomeFolder(root / f"synthetic_{number:03d}")
    hidden = io.StringIO()  # the lines of the stages, and their progress bars, which would be drawn over one another
    with redirect_stdout(hidden), redirect_stderr(hidden), locked(folder.root, "casita build"):
        write_synthetic_home(folder, number, homes.days, homes.seed, progress=False)
        build_home(
            folder,
            [folder.root / "synthetic.txt"],
            replace(settings, layout=folder.root / "layout.json"),
            load_vision=lambda: _vision_model(settings.vision_model),
            load_text=lambda: _text_model(settings.text_model),
        )
    return folder.summary("read").get("events", 0)


def build_synthetic_homes(
    root: Path, homes: SyntheticHomes, settings: BuildSettings, workers: int = 1
) -> dict[str, int]:
    """Make a data set of synthetic homes below `root` with `workers` processes; homes that are done are skipped.

    Returns:
        `{"synthetic_001": events, ...}`

    Raises:
        ValueError: no home, no worker. ChildProcessError: a worker died. And whatever a stage raises; the homes that
            are done by then stay.
    """
    if min(homes.homes, homes.days, workers) < 1:
        raise ValueError(f"homes={homes.homes}, days={homes.days}, workers={workers}: give at least one of each.")
    events = {}
    with locked(root, "casita build"), _pool(workers) as pool:
        jobs = {
            pool.submit(build_synthetic_home, root, number, homes, settings): f"synthetic_{number:03d}"
            for number in range(1, homes.homes + 1)
        }
        try:
            for done in tqdm(as_completed(jobs), total=len(jobs), desc="homes", unit="home"):
                events[jobs[done]] = done.result()
        except ValueError as error:
            raise ValueError(f"{jobs[done]}: {error}") from None
        except BrokenProcessPool:
            raise ChildProcessError(
                f"{root}: a worker died before its home was done, perhaps for want of memory. Run the same command "
                f"again, with fewer than --workers {workers} if that helps; the homes that are done are kept."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return dict(sorted(events.items()))


def _pool(workers: int) -> ProcessPoolExecutor:
    """Start fresh processes (torch does not outlive a fork), which share the cores among them."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent was killed; it would build on in secret."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
