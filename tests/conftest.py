"""Shared by all tests: offline, seeded, and where the real homes are."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import of a Hugging Face library
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: more threads would only take turns
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def real_homes() -> Path:
    """The folder of real recordings named by CASITA_DATA; without it the test is skipped."""
    folder = os.environ.get("CASITA_DATA")
    if not folder:
        pytest.skip("CASITA_DATA is not set: no real homes here")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory):
    """A home folder and an evaluated run on it, to be read and not to be changed."""
    from released_home import build_released

    return build_released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub of the module's own on a loopback port, see hub_server.py."""
    from hub_server import HubServer

    server = HubServer(tmp_path_factory.mktemp("hub"))
    yield server
    server.shutdown()
