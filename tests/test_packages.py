"""The walls between packages: who may import whom, and what the Hub's flat copy of the shipped folders can carry."""

import ast
import os
import re
import sys

import pytest
from paths import ROOT

from tests.packages import FOLDERS, ORDER, find_cycle, load_modules, upward_arrows

SHIPPED = ("modeling", "processing")  # copied flat into the model folder by save_pretrained
MOST_MODULES = 14  # in one folder
SHIPPED_MAY_USE = {"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}


def python_files(folder):
    return sorted((ROOT / folder).glob("**/*.py"))


def imports(path, optional=True):
    """Yield (level, module) of each import, wherever in the file it stands; `optional=False`: none inside a `try`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    tried = [within for node in nodes if isinstance(node, ast.Try) for part in node.body for within in ast.walk(part)]
    for node in nodes if optional else [node for node in nodes if node not in tried]:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def test_every_arrow_between_packages_runs_one_way():
    modules = load_modules()
    assert len(modules) > 150
    assert {name for name, module in modules.items() if module.package not in ORDER} == set()
    assert upward_arrows(modules) == []


def test_no_modules_import_each_other_in_a_circle():
    assert find_cycle(load_modules()) == []


def test_an_arrow_upwards_and_a_cycle_are_found(tmp_path):
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / "casita/files.py").write_text("def f():\n    from casita.train import align\n")
    (tmp_path / "modeling/a_casita.py").write_text("from .b_casita import B\n")
    (tmp_path / "modeling/b_casita.py").write_text("from .a_casita import A\n")
    (tmp_path / "train").joinpath("align.py").write_text("from casita import files\n")
    modules = load_modules(tmp_path)
    assert upward_arrows(modules) == ["casita.files imports train.align"]
    assert find_cycle(modules) == ["casita.files", "train.align", "casita.files"]
    (tmp_path / "casita/files.py").write_text("")
    assert find_cycle(load_modules(tmp_path)) == ["modeling.a_casita", "modeling.b_casita", "modeling.a_casita"]


def test_no_folder_holds_more_modules_than_a_reader_keeps_in_mind():
    for folder in {path.parent for path in ROOT.glob("*/**/*.py")} - {ROOT / name for name in SHIPPED}:
        if not folder.is_relative_to(ROOT / ".venv") and not folder.is_relative_to(ROOT / "build"):
            names = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
            assert len(names) <= MOST_MODULES or folder == ROOT / "tests" / "helpers", f"{folder}: {names}"


def test_a_folder_is_imported_by_the_packages_name_alone():
    for folder in FOLDERS:
        for path in python_files(folder):
            for level, module in imports(path):
                bare = module.split(".")[0]
                assert level or bare == "casita" or bare not in FOLDERS, f"{path}: write casita.{module}"


def test_the_links_make_one_package_of_the_folders():
    for folder in set(FOLDERS) - {"casita"}:
        link = ROOT / "casita" / folder
        assert link.is_symlink(), f"{link}: git could not make the link"
        assert os.readlink(link) == f"../{folder}"


def test_the_space_imports_absolutely_for_its_app_stands_alone():
    for path in (ROOT / "model_cards" / "space").glob("*.py"):
        for level, module in imports(path):
            assert level == 0, f"{path.name}: {module}"
            assert not module.startswith("casita.model_cards") or module.startswith("casita.model_cards.space"), module


@pytest.mark.parametrize("folder", SHIPPED)
def test_shipped_files_import_only_same_folder_siblings_and_what_a_model_needs(folder):
    for path in python_files(folder):
        assert path.parent.name == folder, f"{path}: the Hub copy is flat, no subfolders"
        for level, module in imports(path):
            assert level <= 1, f"{path}: {'.' * level}{module}"
            assert level == 0 or module.isidentifier(), (
                f"{path}: write `from .name import X`, not `from . import name`"
            )
        # What stands in a `try` may be missing: transformers does not ask for it either.
        for level, module in imports(path, optional=False):
            package = module.split(".")[0]
            assert level or package in SHIPPED_MAY_USE | sys.stdlib_module_names, f"{path}: {module}"
        # transformers finds siblings with a regex over the raw text, docstrings included.
        for name in re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(), flags=re.M):
            assert (path.parent / f"{name}.py").is_file(), f"{path}: mentions .{name}, which does not exist"


def test_shipped_file_names_do_not_collide():
    names = [p.name for folder in SHIPPED for p in python_files(folder) if p.name != "__init__.py"]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


def test_the_processor_counts_as_many_reserved_rows_as_the_model():
    from casita.modeling import configuration_casita
    from casita.processing import sensor_vocabulary

    assert sensor_vocabulary.NUM_RESERVED_ROWS == configuration_casita.NUM_RESERVED_ROWS
    config = configuration_casita.CasitaConfig()
    assert (config.pad_token_id, config.unk_token_id, config.mask_token_id) == (
        sensor_vocabulary.PAD,
        sensor_vocabulary.UNK,
        sensor_vocabulary.MASK,
    )


def test_every_command_has_help_with_an_example(capsys):
    from casita.cli import COMMANDS, main

    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        help_text = capsys.readouterr().out
        assert stopped.value.code == 0
        assert f"casita {command}" in help_text.split("example", 1)[-1], f"casita {command} --help shows no example"


def test_the_usage_lists_every_command_once_in_its_group(capsys):
    from casita.cli import COMMANDS, GROUPS, main

    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(COMMANDS)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == named
    assert max(map(len, lines)) <= 120


def test_an_unknown_command_is_one_line_and_exit_code_2(capsys):
    from casita.cli import main

    assert main(["trian"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
