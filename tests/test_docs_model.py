"""What docs/model.md shows runs as it stands."""

from pathlib import Path

from snippets import snippets
from test_modeling_casita import make_batch


def test_the_snippet_of_masked_events_gives_a_loss_on_a_checkpoint_of_the_aligned_model():
    directory = Path(__file__).parent / "golden" / "image"
    names = {"directory": directory, "inputs": make_batch()}
    (code,) = snippets("docs/model.md", "python")
    exec(code, names)
    # A fresh head scores 17 rows by cosines over 0.07: within +-14 of each other, so the loss stays below 28 + ln 17.
    assert 0 < names["loss"].item() < 28 + 2.84
