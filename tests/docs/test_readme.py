"""What the README shows runs as it stands, in its order."""

import numpy as np
import pytest
import torch
from snippets import run_page
from toy_model import publish_toy

from casita.processing.sensor_embeddings import SensorEmbeddingTable

PAGE = "README.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that the README's snippets leave behind."""
    folder = tmp_path_factory.mktemp("readme")
    publish_toy(folder / "runs" / "milan")
    rows = np.random.default_rng(0).normal(size=(4, 24))
    table = SensorEmbeddingTable.build(
        ["M001_OFF", "M001_ON", "M002_OFF", "M002_ON"], rows, home="aruba", vision_model="pixels", output="pixels"
    )
    where = folder / "homes" / "aruba" / "image_embeddings"
    where.mkdir(parents=True)
    table.save(where / "pixels.safetensors")
    return run_page(PAGE, folder)


def test_the_readmes_vector_is_the_pipelines(ran):
    torch.testing.assert_close(ran["vectors"].norm(dim=-1), torch.ones(1))
    np.testing.assert_allclose(ran["rows"][0]["vector"], ran["vectors"][0], rtol=0, atol=1e-6)


def test_the_readmes_stream_ends_with_the_pipelines_row(ran):
    np.testing.assert_allclose(ran["last"]["vector"], ran["rows"][-1]["vector"], rtol=0, atol=1e-5)


def test_the_readmes_onnx_file_gives_the_same_vectors(ran):
    np.testing.assert_allclose(ran["exported"], ran["vectors"], rtol=0, atol=1e-4)


def test_the_readmes_answers_share_one(ran):
    assert sum(ran["answers"][0]["scores"]) == pytest.approx(1, abs=1e-5)
