"""Where things are in the checkout, for tests wherever they lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"
GOLDEN = ROOT / "tests" / "golden"
