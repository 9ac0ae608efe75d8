"""The rooms' walls: who may import whom, and what the Hub's flat copy of the shipped rooms can carry."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "modeling": set(),
    "processing": set(),
    "datasets_scripts": {"processing", "files"},
    "train": {"modeling", "processing", "datasets_scripts", "model_cards", "files"},
    "model_cards": {"files"},
}
# A program of its own: it uses the rooms as any user of the installed package does, and no room may rest on it.
SPACE = ROOT / "model_cards" / "space"
SHIPPED = ("modeling", "processing")  # copied flat into the model folder by save_pretrained
SHIPPED_MAY_USE = {"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}


def python_files(room):
    return sorted(path for path in (ROOT / room).glob("**/*.py") if not path.is_relative_to(SPACE))


def imports(path, optional=True):
    """(level, module) of each import, wherever in the file it stands; `optional=False`: none inside a `try`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    tried = [within for node in nodes if isinstance(node, ast.Try) for part in node.body for within in ast.walk(part)]
    for node in nodes if optional else [node for node in nodes if node not in tried]:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_from_rooms_below_it(room):
    for path in python_files(room):
        for level, module in imports(path):
            head, _, rest = module.partition(".")
            assert level or head not in MAY_IMPORT, f"{path}: write casita.{head}, a bare room name is a second module"
            if level == 0 and head == "casita" and rest:
                other = rest.split(".")[0]
                assert other in MAY_IMPORT[room] | {room}, f"{path.relative_to(ROOT)} imports casita.{other}"


def test_the_space_uses_the_installed_package_and_no_room_rests_on_it():
    own = "casita.model_cards.space"
    for path in SPACE.glob("*.py"):
        for level, module in imports(path):
            assert level == 0, f"{path.name}: a Space's app.py stands alone, so imports are absolute"
            assert not module.startswith("casita.model_cards") or f"{module}.".startswith(f"{own}."), (
                f"{path.name}: {module}"
            )
    for room in MAY_IMPORT:
        for path in python_files(room):
            assert not [module for _, module in imports(path) if f"{module}.".startswith(f"{own}.")], path


@pytest.mark.parametrize("room", SHIPPED)
def test_shipped_files_import_only_same_folder_siblings_and_what_a_model_needs(room):
    for path in python_files(room):
        assert path.parent.name == room, f"{path}: the Hub copy is flat, no subfolders"
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
    names = [p.name for room in SHIPPED for p in python_files(room) if p.name != "__init__.py"]
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
        told = capsys.readouterr().out
        assert stopped.value.code == 0
        assert f"casita {command}" in told.split("example", 1)[-1], f"casita {command} --help shows no example"


def test_the_usage_tells_every_command_once_in_its_group(capsys):
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
