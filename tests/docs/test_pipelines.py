"""The snippets of docs/pipelines.md run, in their order, as they stand."""

import numpy as np
import pytest
from snippets import run_page
from toy_model import publish_toy

PAGE = "docs/pipelines.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that the page's snippets leave behind."""
    folder = tmp_path_factory.mktemp("page")
    publish_toy(folder / "runs" / "milan")
    return run_page(PAGE, folder)


def test_a_silence_makes_two_windows_as_the_page_says(ran):
    assert [row["events"] for row in ran["rows"]] == [3, 1]


def test_the_streams_last_row_is_the_pipelines(ran):
    assert ran["last"]["start"] == ran["rows"][-1]["start"]
    np.testing.assert_allclose(ran["last"]["vector"], ran["rows"][-1]["vector"], rtol=0, atol=1e-5)


def test_the_calibrated_temperature_is_in_the_config(ran):
    config = ran["ask"].model.config
    assert config.zero_shot_temperature != 1
    assert config.to_dict()["zero_shot_temperature"] == config.zero_shot_temperature
