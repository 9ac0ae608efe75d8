"""`casita push`: a run's model, a home's data set, its embeddings and the demo page, each a repository on the Hub."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from casita import __version__
from casita.datasets_scripts.schema import SCHEMA_VERSION
from casita.files import read_json, slug
from casita.model_cards.homes import data_of_run, released_homes
from casita.model_cards.hub_folder import Kind, PushResult, Target, describe_push, push_folder
from casita.model_cards.tree_check import check_tree

# The parts of a release, a repository each: the Hub's kind of repository.
PARTS: dict[str, Kind] = {"model": "model", "dataset": "dataset", "embeddings": "dataset", "space": "space"}
DATA = ("dataset", "embeddings")  # private unless somebody says otherwise


@dataclass(frozen=True, kw_only=True)
class Source:
    """The folders to push from, and what may be passed on.

    Attributes:
        run: run folder, of the model.
        home: home folder, or a folder of several; None: the one that the run was trained on.
        dataset: Hub id of the home's data set, for the card of the model.
        permission: whoever owns a restricted recording has allowed its publication.
        recordings: the data set has events, windows, captions and text embeddings.
    """

    run: Path | None = None
    home: Path | None = None
    dataset: str | None = None
    permission: bool = False
    recordings: bool = True

    def require_run(self, part: str) -> Path:
        """Return the run folder; `ValueError` without one."""
        if self.run is None:
            raise ValueError(f"push {part}: give the run folder, --run RUN.")
        return self.run

    def require_home(self, part: str) -> Path:
        """Return the home folder: as given, or the one that the run was trained on."""
        if self.home is not None:
            return self.home
        data = data_of_run(self.run) if self.run else None
        if data is None:
            raise ValueError(f"push {part}: give the home folder, --home DIR.")
        if not Path(data).is_dir():
            raise FileNotFoundError(f"{data}: no such folder, on which {self.run} was trained. Give --home DIR.")
        return Path(data)


def tree_writer(
    part: str, source: Source, names: Mapping[str, str], model_revision: str | None = None
) -> Callable[[Path], Path]:
    """Return a function that writes the tree of one of `PARTS` into a folder that is not there yet.

    Args:
        names: the Hub id of each of `PARTS`.
        model_revision: tag or branch of the model that a Space loads; None: whatever its main branch holds.
    """
    # Each module only now, since some take seconds to import.
    repo_id = names[part]
    allowed = source.permission
    if part == "model":
        from casita.model_cards.model_tree import write_model_tree

        write = partial(write_model_tree, source.require_run(part), home=source.home, dataset=source.dataset)
        return partial(write, repo_id=repo_id, permission=allowed)
    home = source.require_home(part)
    if part == "space":
        from casita.model_cards.space_tree import write_space_tree

        write = partial(write_space_tree, model_id=names["model"], model_revision=model_revision, home=home)
        return partial(write, repo_id=repo_id, permission=allowed)
    from casita.model_cards.trees import write_dataset_tree, write_embeddings_tree

    if part == "dataset":
        return partial(write_dataset_tree, home, repo_id=repo_id, permission=allowed, recordings=source.recordings)
    return partial(write_embeddings_tree, home, repo_id=repo_id)


def push(
    parts: Sequence[str],
    source: Source,
    namespace: str,
    name: str | None = None,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    dry_run: Path | None = None,
) -> list[PushResult]:
    """Write the trees, all of them first, so that nothing is uploaded if one is refused; then push one after another.

    Args:
        parts: of `PARTS`.
        source: run and home folder.
        namespace: user or organization on the Hub.
        name: of the repositories, those of embeddings with a suffix; by default `casita-HOME`.
        private: None: data, and all of a recording that needed permission, is private, the rest public; repositories
            that exist stay as they are.
        revision: the branch.
        tag: by default `v` and the version of casita, of data that of its schema. "none": no tag.
        dry_run: write the trees there, a folder each, and push nothing.

    Returns:
        The outcome of each push; none for a dry run.

    Raises:
        FileNotFoundError, ValueError: something is missing, or unfit to be published. Others: as `push_folder`.
    """
    if "model" in parts:
        source.require_run("model")
    if dry_run is not None:
        _refuse_overwriting(dry_run, parts, source)
    name = name or f"casita-{_home_name(parts, source)}"
    names = {part: f"{namespace}/{name}{'-embeddings' if part == 'embeddings' else ''}" for part in PARTS}
    for repo_id in [*(names[part] for part in parts), *([source.dataset] if source.dataset else [])]:
        _check_name(repo_id)
    if source.dataset is None and "dataset" in parts:
        source = replace(source, dataset=names["dataset"])
    model_revision = _model_revision(revision, tag) if "model" in parts else None
    with _folder(dry_run) as folder:
        for part in parts:
            tree_writer(part, source, names, model_revision)(folder / part)
            check_tree(folder / part)
        if dry_run is not None:
            return []
        results = []
        for part in parts:
            target = Target(
                kind=PARTS[part],
                name=names[part],
                revision=revision,
                private=(part in DATA or source.permission) if private is None else private,
                strict=private is not None,
            )
            message = f"casita {__version__}: {part} of {name}"
            default_tag = f"v{SCHEMA_VERSION if part in DATA else __version__}"
            tag_name = None if tag == "none" else tag or default_tag
            result = push_folder(folder / part, target, message=message, tag=tag_name, new_tag=tag is not None)
            results.append(result)
            print(describe_push(result), flush=True)
    return results


@contextmanager
def _folder(dry_run: Path | None) -> Iterator[Path]:
    """Yield the folder in which trees are written: for good, or for the time of a push."""
    if dry_run is not None:
        yield dry_run
        return
    with tempfile.TemporaryDirectory(prefix="casita-push-") as folder:
        yield Path(folder)


def _model_revision(revision: str, tag: str | None) -> str | None:
    """Return what names the model of this very push: its tag, if one was given, or its branch, if that is not main."""
    if tag not in (None, "none"):
        return tag
    return None if revision == "main" else revision


def _check_name(repo_id: str) -> None:
    """Raise `ValueError` unless `repo_id` is `ORG/NAME`, or `ORG/NAME@COMMIT`, as the Hub takes it."""
    name = repo_id.partition("@")[0]
    try:
        validate_repo_id(name)
        if "/" in name:
            return
        reason = "one '/' stands between organization and name"
    except HFValidationError as error:
        reason = str(error)
    raise ValueError(f"{repo_id!r}: no name of a repository, as in my-lab/casita-milan ({reason.rstrip('.')}).")


def _refuse_overwriting(dry_run: Path, parts: Sequence[str], source: Source) -> None:
    """Raise `ValueError` for trees that would take the place of what they are made from: RUN/model above all."""
    for given in (source.run, source.home):
        if given is not None and dry_run.resolve().is_relative_to(given.resolve()):
            raise ValueError(
                f"--dry-run {dry_run}: lies in {given}, whose files it could replace. Name another folder."
            )
    for part in parts:
        if any((dry_run / part / name).exists() for name in ("config.yaml", "home.json")):
            raise ValueError(f"--dry-run {dry_run}: {dry_run / part} is a run or a home. Name another folder.")


def _home_name(parts: Sequence[str], source: Source) -> str:
    """Return the homes' name for the repositories: of the model's processor, or of the home folder."""
    if source.run is not None:
        path = source.run / "model" / "processor_config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, so {source.run} is no trained run. See: casita train")
        processor = read_json(path)
        return slug(processor["home"] or "-".join(processor["homes"]))
    return "-".join(slug(home.name) for home in released_homes(source.require_home(parts[0])))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita push`."""
    parser.description = (
        "Publish on the Hub: a repository each, made if missing, filled in one commit, tagged. What is there already\n"
        "is not uploaded again; nothing changed, no commit. An interrupted push goes on when it is run again.\n"
        "Log in first: hf auth login, or HF_TOKEN. HF_ENDPOINT names another Hub than huggingface.co."
    )
    parser.epilog = (
        "examples:\n"
        "  casita push all --run runs/milan --namespace my-lab --dry-run trees     what would be published\n"
        "  casita push model --run runs/milan --namespace my-lab --tag v1.0\n"
        "  casita push dataset --home homes/milan --namespace my-lab --i-have-permission"
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what to publish")
    parser.add_argument("--run", type=Path, metavar="RUN", help="run folder with the model, evaluated")
    parser.add_argument("--home", type=Path, metavar="DIR", help="home folder (default: the one of the run)")
    parser.add_argument("--namespace", required=True, metavar="ORG", help="user or organization on the Hub")
    parser.add_argument("--name", help="of the repositories (default: casita-HOME; embeddings: NAME-embeddings)")
    parser.add_argument(
        "--dataset", metavar="ORG/NAME", help="the home's data set, for the model's card; all knows it"
    )
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", default=None, help="for members of ORG only")
    visibility.add_argument("--public", dest="private", action="store_false", help="(default: data is private)")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="made if missing (default: %(default)s)")
    parser.add_argument(
        "--tag",
        help=f"name of this version, or none (default: v{__version__}; of data v{SCHEMA_VERSION}, its schema's)",
    )
    parser.add_argument("--dry-run", type=Path, metavar="DIR", help="write the exact trees to DIR/, push nothing")
    terms = parser.add_mutually_exclusive_group()
    terms.add_argument(
        "--i-have-permission",
        action="store_true",
        help="the owner of a restricted recording allows to publish its events, windows and captions",
    )
    terms.add_argument(
        "--without-recordings",
        action="store_true",
        help="a data set of pictures, image embeddings and the commands that make the rest from the raw log",
    )


def run(args: argparse.Namespace) -> None:
    """Run `casita push`."""
    parts = list(PARTS) if args.part == "all" else [args.part]
    source = Source(
        run=args.run,
        home=args.home,
        dataset=args.dataset,
        permission=args.i_have_permission,
        recordings=not args.without_recordings,
    )
    push(
        parts,
        source,
        args.namespace,
        args.name,
        private=args.private,
        revision=args.revision,
        tag=args.tag,
        dry_run=args.dry_run,
    )
    if args.dry_run is not None:
        for part in parts:
            tree = args.dry_run / part
            count = sum(path.is_file() for path in tree.rglob("*"))
            print(f"{tree}: {count} files; nothing was pushed")
