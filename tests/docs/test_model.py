"""What docs/model.md shows runs as it stands."""

from paths import GOLDEN
from small_models import make_batch
from snippets import snippets


def test_the_snippet_of_masked_events_gives_a_loss_on_a_checkpoint_of_the_aligned_model():
    directory = GOLDEN / "image"
    names = {"directory": directory, "inputs": make_batch()}
    (code,) = snippets("docs/model.md", "python")
    exec(code, names)
    # A fresh head scores 17 rows by cosines over 0.07: within +-14 of each other, so the loss stays below 28 + ln 17.
    assert 0 < names["loss"].item() < 28 + 2.84
