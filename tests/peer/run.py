"""Run transformers' own common tests against Casita's classes: `make peer-tests`. Needs the network once.

The source distribution of the installed transformers version holds the tests; pip fetches it into build/peer, nothing
of it is committed. It leaves out four helper modules that the tests import; short stand-ins take their place. What is
printed at the end: passed, failed, skipped, and for each reason of a skip how many tests it holds for.
"""

import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "peer"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
STAND_INS = {
    "transformers_tests/__init__.py": "",
    # Tests of exporters and of text generation: the first are ours in test_train_export.py, the second do not apply.
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Values unlike the defaults, as the tests of configurations demand.
    "transformers_tests/utils/test_configuration_utils.py": (
        "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True, 'output_attentions': True,\n"
        "    'dtype': 'float16', 'chunk_size_feed_forward': 5, 'architectures': ['BertModel'],\n"
        "    'id2label': {0: 'label'}, 'label2id': {'label': 0}, 'problem_type': 'regression'}\n"
    ),
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def prepare() -> None:
    """Fetch the source distribution, unpack its tests as the package `transformers_tests`, write the stand-ins."""
    release = f"transformers-{version('transformers')}"
    archive = BUILD / f"{release}.tar.gz"
    if not archive.is_file():
        source = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation"]
        subprocess.run([*PIP, "download", *source, release.replace("-", "=="), "--dest", str(BUILD)], check=True)
    if not (BUILD / "site" / "parameterized").is_dir():  # the tests' one dependency that Casita has not
        subprocess.run([*PIP, "install", "--no-deps", "--target", str(BUILD / "site"), "parameterized"], check=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            if re.fullmatch(rf"{release}/tests/test_\w+\.py", member.name):
                member.name = f"transformers_tests/{Path(member.name).name}"
                tar.extract(member, BUILD, filter="data")
    for name, text in STAND_INS.items():
        (BUILD / name).parent.mkdir(parents=True, exist_ok=True)
        (BUILD / name).write_text(text)


def tally(report: Path) -> None:
    """Print what a JUnit report holds: the counts, the reasons of the skips, the names of the failures."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skips: Counter[str] = Counter()
    failures = []
    for case in cases:
        if (skipped := case.find("skipped")) is not None:
            skips[skipped.get("message", "").split("\n")[0]] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failures.append(f"{case.get('classname')}.{case.get('name')}")
    passed = len(cases) - len(failures) - skips.total()
    print(f"\ntransformers {version('transformers')}, its common tests on Casita's classes")
    print(f"{passed} passed, {len(failures)} failed, {skips.total()} skipped")
    for reason, count in skips.most_common():
        print(f"{count:6} skipped: {reason}")
    for name in failures:
        print(f"       FAILED: {name}")


def main() -> int:
    """Prepare, run pytest over this folder with whatever arguments were given, print the tally."""
    prepare()
    report = BUILD / "report.xml"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BUILD), str(BUILD / "site")])}
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(Path(__file__).parent),
        "-q",
        "--override-ini=addopts=",
        f"--junitxml={report}",
    ]
    done = subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, env=environment, check=False)
    tally(report)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
