"""A home and a run as they are before a release: built, trained and evaluated, all small."""

from pathlib import Path

from train_home import tiny

from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.stages import BuildSettings, build_home
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.datasets_scripts.windows.cut import WindowSettings
from casita.train.align import train
from casita.train.evaluate_run import evaluate_run

SETTINGS = BuildSettings(
    layout="synthetic",
    windows=WindowSettings(length=80, overlap=0.0),
    picture_size=32,
    vision_model="pixels",
    text_model="minilm",
)


def build_released(root: Path) -> tuple[HomeFolder, Path]:
    """Five days of the synthetic home, its log lying elsewhere, and an evaluated run on it."""
    log = write_synthetic_log(root / "raw" / "flat.txt", days=5, progress=False)
    home = HomeFolder(root / "home")
    build_home(home, [log], SETTINGS)
    train(tiny(home, root / "run", epochs=1, batch_size=16))
    evaluate_run(root / "run", seeds=1, progress=False)
    return home, root / "run"
