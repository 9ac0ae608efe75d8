"""What is built from a checkout: each file of the packages once, although casita/ holds links to their folders."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from paths import GOLDEN, ROOT

from casita import __version__
from tests.packages import FOLDERS

# -I: neither the folder it starts in nor PYTHONPATH; the installed wheel comes before an editable install.
GOLDEN_NUMBERS = """
import sys
from pathlib import Path
folder, golden = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(folder))
import torch
from safetensors.torch import load_file
from casita.datasets_scripts.layouts.layout import load_layout
from casita.modeling.modeling_casita import CasitaModel
from casita.train.configs.train_config import load_config
from casita.train.report import page
assert load_layout("milan")["home"] == "milan"
assert load_config("demo", {"data": "a", "out": "b"}).preset == "tiny"
saved = load_file(golden / "expected.safetensors")
inputs = {key.split(".")[1]: value for key, value in saved.items() if key.startswith("input.")}
with torch.no_grad():
    output = CasitaModel.from_pretrained(golden).eval()(**inputs)
difference = (output.sensor_embeds - saved["output.sensor_embeds"]).abs().max()
assert difference < 1e-5, difference  # float32 sums in another order
files = [Path(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "casita"]
assert len(files) > 20
assert all(file.is_relative_to(folder) for file in files), files
"""


def run(command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files(*folders):
    """The files of a checkout by their paths in it: what git tracks, or would."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders], cwd=ROOT)
    return sorted(name for name in listed.split("\0") if name and os.path.lexists(ROOT / name))


@pytest.fixture(scope="module")
def package_files():
    """The packages' files by their paths in a wheel."""
    names = [name for name in tracked_files(*FOLDERS) if not (ROOT / name).is_symlink()]
    return sorted(name if name.startswith("casita/") else f"casita/{name}" for name in names)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout, for a build leaves files behind, which a later one would take up."""
    copy = tmp_path_factory.mktemp("build") / "checkout"
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def build_wheel(source, out):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run([*command, "--wheel-dir", out, source])
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(checkout):
    """Built before the wheel, whose build leaves a copy of the packages in the checkout."""
    script = "import sys, setuptools.build_meta as backend; print(backend.build_sdist(sys.argv[1]))"
    name = run([sys.executable, "-c", script, checkout.parent], cwd=checkout).splitlines()[-1]
    return checkout.parent / name


@pytest.fixture(scope="module")
def wheel(checkout, sdist):
    return build_wheel(checkout, checkout.parent / "wheel")


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder of an installed wheel."""
    folder = wheel.parent.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    run([*command, "--target", folder, wheel])
    return folder


def contents(wheel):
    """The names in a wheel, without its own records."""
    return sorted(name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name)


def test_the_wheel_holds_each_file_of_the_packages_once(wheel, package_files):
    assert len(package_files) > 200
    assert {"casita/py.typed", "casita/train/align.py", "casita/model_cards/space/style.css"} <= set(package_files)
    assert contents(wheel) == package_files


def test_the_sdist_holds_the_same_files_and_no_links(sdist, package_files):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inside = [member.name.partition("/")[2] for member in members if member.isfile()]
    assert sorted(name for name in inside if name.startswith("casita/")) == package_files
    others = {name for name in inside if not name.startswith(("casita/", "casita.egg-info/"))}
    metadata = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"}
    assert others == metadata | {"MANIFEST.in", "pyproject.toml", "setup.cfg"}


def test_a_wheel_from_the_sdist_equals_the_one_from_the_checkout(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build_wheel(source, tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_installed_command_runs_without_the_checkout(installed, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(installed)}
    command = installed / "bin" / "casita"
    assert run([command, "--version"], cwd=tmp_path, env=environment) == f"casita {__version__}\n"
    assert "casita COMMAND" in run([command, "--help"], cwd=tmp_path, env=environment)
    where = "import casita; print(casita.__file__)"
    assert Path(run([sys.executable, "-c", where], cwd=tmp_path, env=environment).strip()).is_relative_to(installed)


def test_the_installed_package_gives_the_golden_numbers_without_the_checkout(installed, tmp_path):
    command = [sys.executable, "-I", "-c", GOLDEN_NUMBERS, installed, GOLDEN / "image"]
    run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
