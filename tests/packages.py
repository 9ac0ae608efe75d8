"""Print the packages, their sizes and the arrows between them: `python -m tests.packages`, or `make house`.

`ORDER` is the one place where the order of the packages is written. A module may import from its own package and from
packages before it; `tests/test_packages.py` fails on any other import, lazy ones too, and on a cycle of modules.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("casita", "modeling", "processing", "datasets_scripts", "train", "model_cards")

# What may be imported by everything below it comes first. A module beside packages that has a place of its own in the
# order (the schema that they all use, the command that uses them all) is named by itself.
ORDER = (
    "casita",
    "modeling",
    "processing",
    "datasets_scripts.layouts",
    "datasets_scripts.schema",
    "datasets_scripts.readers",
    "datasets_scripts.check_layout",
    "datasets_scripts.windows",
    "datasets_scripts.pictures",
    "datasets_scripts.captions",
    "datasets_scripts.hub",
    "datasets_scripts.stages",
    "datasets_scripts.synthetic",
    "datasets_scripts",
    "datasets_scripts.benchmarks",
    "model_cards",
    "train.configs",
    "train.metrics",
    "train.data",
    "train.inference",
    "train.training",
    "train.evaluation",
    "train.report",
    "train",
    "train.experiments",
    "train.benchmarks",
    "model_cards.space",
    "casita.commands",
)


@dataclass(frozen=True)
class Module:
    """A file and the modules that it imports; `definitions` and `nodes` count those of its syntax tree."""

    name: str
    path: Path
    imports: frozenset[str]
    lines: int
    definitions: int
    nodes: int

    @property
    def package(self) -> str:
        """Return the longest entry of `ORDER` that the module's name begins with."""
        entries = [entry for entry in ORDER if f"{self.name}.".startswith(f"{entry}.")]
        return max(entries, key=len, default="unordered")


def load_modules(root: Path = ROOT) -> dict[str, Module]:
    """Read all modules outside tests by name; `train/data/loaders.py` is `train.data.loaders`."""
    paths = {_module_name(path.relative_to(root)): path for path in _files(root)}
    return {name: _load(name, path, paths) for name, path in sorted(paths.items())}


def _files(root: Path) -> Iterator[Path]:
    root = root.resolve()
    for folder in FOLDERS:
        # casita/ holds links to the other folders, whose files are read once.
        yield from (path for path in (root / folder).rglob("*.py") if path.resolve() == path)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _load(name: str, path: Path, paths: Mapping[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    defined = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in nodes)
    imported = {module for node in nodes for module in _imported(node, name, paths)}
    return Module(name, path, frozenset(imported - {name}), len(text.splitlines()), defined, len(nodes))


def _imported(node: ast.AST, importer: str, paths: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a statement imports, wherever in the file it stands."""
    if isinstance(node, ast.Import):
        candidates = [[alias.name] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        if node.level:
            folder = ".".join(importer.split(".")[: -node.level])
            origin = f"casita.{folder}.{origin}".rstrip(".")
        # `from package import name`: name may be a module or something that the package's own file defines.
        candidates = [[f"{origin}.{alias.name}", origin] for alias in node.names]
    else:
        return
    for names in candidates:
        for name in names:
            # casita.train is the folder train; casita.files lies in the folder casita.
            known = name if name in paths else name.removeprefix("casita.")
            if name.split(".")[0] == "casita" and known in paths:
                yield known
                break


def arrows(modules: Mapping[str, Module]) -> dict[str, dict[str, list[str]]]:
    """Map each package to those that it imports from, with a line for each import."""
    drawn: dict[str, dict[str, list[str]]] = {package: {} for package in ORDER}
    for module in modules.values():
        for name in sorted(module.imports):
            target = modules[name].package
            if target != module.package:
                drawn[module.package].setdefault(target, []).append(f"{module.name} imports {name}")
    return drawn


def upward_arrows(modules: Mapping[str, Module]) -> list[str]:
    """List the imports from a package that comes later in `ORDER`."""
    place = {package: number for number, package in enumerate(ORDER)}
    return [
        line
        for package, targets in arrows(modules).items()
        for target, lines in targets.items()
        if place[target] > place[package]
        for line in lines
    ]


def find_cycle(modules: Mapping[str, Module]) -> list[str]:
    """Find modules that import each other in a circle: their names, the first one again at the end; `[]` for none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for imported in sorted(modules[name].imports):
            if cycle := walk(imported, [*path, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in modules if (cycle := walk(name, []))), [])


def main() -> int:
    """Print a line for each package: modules, lines, definitions, syntax nodes, and where its arrows go."""
    modules = load_modules()
    drawn = arrows(modules)
    print(f"{'package':<32}{'modules':>8}{'lines':>8}{'definitions':>13}{'nodes':>9}   imports from")
    for package in ORDER:
        members = [module for module in modules.values() if module.package == package]
        print(f"{package:<32}{_sizes(members)}   {', '.join(drawn[package])}")
    print(f"{'outside tests':<32}{_sizes(list(modules.values()))}")
    problems = upward_arrows(modules)
    if cycle := find_cycle(modules):
        problems.append(f"cycle: {' -> '.join(cycle)}")
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


def _sizes(members: list[Module]) -> str:
    lines, definitions, nodes = (sum(getattr(m, name) for m in members) for name in ("lines", "definitions", "nodes"))
    return f"{len(members):>8}{lines:>8,}{definitions:>13,}{nodes:>9,}"


if __name__ == "__main__":
    sys.exit(main())
