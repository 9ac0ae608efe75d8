"""Every data stage, killed, starved of disk, robbed of its input: real processes, real faults.

`make fault-tests` sets CASITA_FAULT_ROUNDS, for more moments of killing than the few of the ordinary suite.
"""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fork_server import ForkServer
from sentence_model import make_model

from casita.datasets_scripts.schema import EVENTS
from casita.datasets_scripts.synthetic.home import write_synthetic_log

ROUNDS = int(os.environ.get("CASITA_FAULT_ROUNDS", "2"))
STAGES = {  # the command's words behind DIR
    "read": ["--log", "LOG", "--layout", "synthetic"],
    "windows": ["--length", "100", "--overlap", "0"],
    "draw": ["--size", "64"],
    "embed-images": ["--vision-model", "pixels"],
    "caption": [],
    "embed-text": ["--text-model", "TEXT_MODEL"],
}
OTHERWISE = {  # the same stage with another result
    "read": ["--log", "LOG", "--layout", "synthetic", "--home", "renamed"],
    "windows": ["--length", "90", "--overlap", "0"],
    "draw": ["--size", "72"],
    "embed-images": ["--vision-model", "pixels", "--normalization", "l2"],
    "caption": ["--seed", "1", "--captions", "2"],
    "embed-text": ["--text-model", "TEXT"],
}
INPUT = {
    "read": "LOG",
    "windows": "events.parquet",
    "draw": "events.parquet",
    "embed-images": "pictures/index.json",
    "caption": "windows.parquet",
    "embed-text": "captions/narrative.parquet",
}


class Place:
    """The homes of this file: `before[stage]` holds what the stage needs, `after[stage]` what it makes of it."""

    def __init__(self, root: Path, server: ForkServer):
        self.root, self.server = root, server
        self.log = write_synthetic_log(root / "log.txt", days=2, progress=False)
        self.text_model = make_model(root / "bert", "mean_tokens")
        self.before: dict[str, Path] = {}
        self.after: dict[str, dict[str, str]] = {}
        self.operations: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        home = root / "home"
        home.mkdir()
        for stage in STAGES:
            self.before[stage] = Path(shutil.copytree(home, root / "before" / stage))
            done = self.run(stage, home)
            assert done.code == 0, done.stderr
            self.after[stage], self.operations[stage] = digests(home), done.operations
            self.seconds[stage] = done.seconds
        self.whole = home

    def words(self, stage: str, home: Path, otherwise: bool = False) -> list[str]:
        given = {"LOG": str(self.log), "TEXT_MODEL": self.text_model}
        return [stage, str(home), *(given.get(word, word) for word in (OTHERWISE if otherwise else STAGES)[stage])]

    def run(self, stage: str, home: Path, otherwise: bool = False, **fault):
        return self.server.run(*self.words(stage, home, otherwise), watch=home, **fault)

    def copy(self, source: Path, target: Path) -> Path:
        return Path(shutil.copytree(source, target, dirs_exist_ok=True))


def digests(home: Path) -> dict[str, str]:
    """SHA-256 of every file, hidden ones too."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    with ForkServer(root) as server:
        yield Place(root, server)


def kills(place: Place, stage: str):
    """Seeded moments to kill a stage: at a file operation, at one of the last (the renames), and by the clock."""
    dice = random.Random(f"{stage} {ROUNDS}")
    last = place.operations[stage]
    for k in range(ROUNDS):
        if k % 3 == 2:
            yield {"kill_after_s": dice.uniform(0, place.seconds[stage])}
        else:
            yield {"kill_at": dice.randint(max(1, last - 6), last) if k % 3 else dice.randint(1, last)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_run_again_gives_the_bytes_of_an_undisturbed_run(place, stage, tmp_path):
    for k, kill in enumerate(kills(place, stage)):
        home = place.copy(place.before[stage], tmp_path / str(k))
        done = place.run(stage, home, **kill)
        assert done.code in ((-9,) if "kill_at" in kill else (-9, 0)), done.stderr
        done = place.run(stage, home)
        assert done.code == 0, f"{kill}: {done.stderr}"
        assert digests(home) == place.after[stage], kill


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "embed-text"])
def test_a_stage_killed_while_it_replaces_an_older_result_leaves_that_or_the_new_one(place, stage, tmp_path):
    fresh = place.copy(place.whole, tmp_path / "fresh")
    done = place.run(stage, fresh, otherwise=True)
    assert done.code == 0, done.stderr
    dice = random.Random(stage)
    for k in range(ROUNDS - 1):
        home = place.copy(place.whole, tmp_path / str(k))
        kill_at = dice.randint(max(1, done.operations - 8), done.operations)
        assert place.run(stage, home, otherwise=True, kill_at=kill_at).code == -9
        assert place.run(stage, home, otherwise=True).code == 0
        assert digests(home) == digests(fresh), kill_at


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_cannot_grow_is_one_line_and_the_older_result_stays(place, stage, tmp_path):
    home = place.copy(place.before[stage], tmp_path / "home")
    if stage != "embed-text":  # which has no other result to make of the same captions
        home = place.copy(place.whole, home)
    was = digests(home)
    done = place.run(stage, home, otherwise=stage != "embed-text", file_limit=2000)
    # NumPy, which writes the parts of the text embeddings, does not say why a write came short
    why = "No space left on device" if stage == "embed-text" else "File too large"
    assert f"could not be written ({why})" in done.error
    assert "run the same command again" in done.error
    assert was.items() <= digests(home).items()  # the text embeddings that were finished are kept for the next run


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, 4 MiB small; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "casita-tests", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, but_bytes: int) -> Path:
    """Fill the file system; `but_bytes` stay free."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    filler.write_bytes(b"x" * max(0, free.f_bavail * free.f_bsize - but_bytes))
    return filler


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_next_run_with_room_gives_the_whole_result(place, stage, disk):
    home = place.copy(place.before[stage], disk / "home")
    was = digests(home)
    filler = fill(disk, but_bytes=8192)  # room for the lock, so that it is the stage that fails
    done = place.run(stage, home)
    assert "could not be written (No space left on device)" in done.error
    assert "Free some space" in done.error
    left = digests(home)
    assert was.items() <= left.items()
    assert not [name for name in left if "partial" in name or name.endswith(".lock")]
    filler.unlink()
    assert place.run(stage, home).code == 0
    assert digests(home) == place.after[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_place_that_is_read_only_is_one_line(place, stage, disk):
    home = place.copy(place.before[stage], disk / "home")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    error = place.run(stage, home).error
    assert str(home) in error
    assert "could not be written (Read-only file system)" in error


@pytest.mark.parametrize("stage", STAGES)
def test_an_input_that_has_vanished_is_named_with_the_way_to_make_it(place, stage, tmp_path):
    home = place.copy(place.whole, tmp_path / "home")
    if stage == "read":
        error = place.server.run("read", home, "--log", home / "gone.txt", "--layout", "synthetic").error
        assert "gone.txt: no such log" in error
        return
    (home / INPUT[stage]).unlink()
    was = digests(home)
    error = place.run(stage, home, otherwise=stage != "embed-text").error
    assert INPUT[stage] in error
    assert "Run: casita " in error
    assert digests(home) == was


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", ["cut short", "overwritten in the middle"])
def test_a_damaged_input_is_named_in_one_line_and_the_older_result_stays(place, stage, damage, tmp_path):
    home = place.copy(place.whole, tmp_path / "home")
    broken = tmp_path / "log.txt.gz" if stage == "read" else home / INPUT[stage]
    if stage == "read":
        subprocess.run(["gzip", "-c", str(place.log)], stdout=broken.open("wb"), check=True)
    data = broken.read_bytes()
    middle = len(data) // 2
    if damage != "cut short" and INPUT[stage] == "events.parquet":  # in a column that every stage reads
        sensors = pq.read_metadata(broken).row_group(0).column(EVENTS.names.index("sensor"))
        middle = sensors.data_page_offset + sensors.total_compressed_size // 2
    noise = random.Random(0).randbytes(60)
    broken.write_bytes(data[:middle] if damage == "cut short" else data[:middle] + noise + data[middle + 60 :])
    was = digests(home)
    if stage == "read":
        error = place.server.run("read", home, "--log", broken, "--layout", "synthetic").error
    else:
        error = place.run(stage, home, otherwise=stage != "embed-text").error
    assert broken.name in error
    assert digests(home) == was


def test_a_damaged_home_json_is_named_in_one_line(place, tmp_path):
    home = place.copy(place.whole, tmp_path / "home")
    (home / "home.json").write_text('{"home": "synthe')
    assert "home.json: expected JSON" in place.run("windows", home).error


def test_a_damaged_picture_is_named_in_one_line(place, tmp_path):
    home = place.copy(place.whole, tmp_path / "home")
    picture = home / "pictures" / "M001_ON.png"
    picture.write_bytes(picture.read_bytes()[:100])
    assert "M001_ON.png" in place.run("embed-images", home).error
