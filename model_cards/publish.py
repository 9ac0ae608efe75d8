"""`casita push`: a run's model, a home's data set, its embeddings and the demo page, each a repository on the Hub."""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from casita import __version__
from casita.datasets_scripts.schema import SCHEMA_VERSION
from casita.files import read_json, slug
from casita.model_cards.homes import released_homes
from casita.model_cards.hub_folder import Kind, Pushed, Target, push_folder, told
from casita.model_cards.tree_check import check_tree

DATA = ("dataset", "embeddings")  # private unless somebody says otherwise
SUFFIX = {"model": "", "dataset": "", "embeddings": "-embeddings", "space": ""}
KINDS: dict[str, Kind] = {"model": "model", "dataset": "dataset", "embeddings": "dataset", "space": "space"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is pushed.

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

    def require_run(self, what: str) -> Path:
        if self.run is None:
            raise ValueError(f"push {what}: give the run folder, --run RUN.")
        return self.run

    def require_home(self, what: str) -> Path:
        """The home folder: as given, or the one that the run was trained on."""
        if self.home is not None:
            return self.home
        config = self.run / "config.yaml" if self.run else None
        if config is None or not config.is_file():
            raise ValueError(f"push {what}: give the home folder, --home DIR.")
        home = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["data"])
        if not home.is_dir():
            raise FileNotFoundError(f"{home}: no such folder, on which {self.run} was trained. Give --home DIR.")
        return home


def tree_writer(
    what: str, source: Source, names: Mapping[str, str], model_revision: str | None = None
) -> Callable[[Path], Path]:
    """What writes the tree of one of `SUFFIX` into a folder that is not there yet.

    Args:
        names: the Hub id of each of `SUFFIX`.
        model_revision: tag or branch of the model that a Space loads; None: whatever its main branch holds.
    """
    repo, may = names[what], source.permission
    if what == "model":
        from casita.model_cards.model_tree import write_model_tree

        run = source.require_run(what)
        return partial(write_model_tree, run, repo_id=repo, home=source.home, dataset=source.dataset, permission=may)
    home = source.require_home(what)
    if what == "space":
        from casita.model_cards.space_tree import write_space_tree

        write = partial(write_space_tree, repo_id=repo, model_id=names["model"], model_revision=model_revision)
        return partial(write, home=home, permitted=may)
    from casita.model_cards.trees import write_dataset_tree, write_embeddings_tree

    if what == "dataset":
        return partial(write_dataset_tree, home, repo_id=repo, permission=may, recordings=source.recordings)
    return partial(write_embeddings_tree, home, repo_id=repo)


def push(
    whats: list[str],
    source: Source,
    namespace: str,
    name: str | None = None,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    dry_run: Path | None = None,
) -> list[Pushed]:
    """Write the trees, all of them first, so that nothing is uploaded if one is refused; then push one after another.

    Args:
        whats: of `SUFFIX`.
        source: run and home folder.
        namespace: user or organization on the Hub.
        name: of the repositories, those of embeddings with a suffix; by default `casita-HOME`.
        private: None: data, and all of a recording that needed permission, is private, the rest public; repositories
            that exist stay as they are.
        revision: the branch.
        tag: by default `v` and the version of casita, of data that of its schema. "none": no tag.
        dry_run: write the trees there, a folder each, and push nothing.

    Returns:
        What was done; empty for a dry run.

    Raises:
        FileNotFoundError, ValueError: something is missing, or unfit to be published. Others: as `push_folder`.
    """
    if "model" in whats:
        source.require_run("model")
    if dry_run is not None:
        _refuse_overwriting(dry_run, whats, source)
    name = name or f"casita-{_home_name(whats, source)}"
    names = {what: f"{namespace}/{name}{SUFFIX[what]}" for what in SUFFIX}
    for named in [*(names[what] for what in whats), *([source.dataset] if source.dataset else [])]:
        _check_name(named)
    if source.dataset is None and "dataset" in whats:
        source = replace(source, dataset=names["dataset"])
    model_revision = _model_revision(revision, tag) if "model" in whats else None
    with _folder(dry_run) as folder:
        for what in whats:
            tree_writer(what, source, names, model_revision)(folder / what)
            check_tree(folder / what)
        if dry_run is not None:
            return []
        done = []
        for what in whats:
            is_private = (what in DATA or source.permission) if private is None else private
            target = Target(
                kind=KINDS[what],
                name=names[what],
                revision=revision,
                private=is_private,
                strict=private is not None,
            )
            message = f"casita {__version__}: {what} of {name}"
            chosen = None if tag == "none" else tag or _version(what)
            done.append(push_folder(folder / what, target, message=message, tag=chosen, new_tag=tag is not None))
            print(told(done[-1]), flush=True)
    return done


@contextmanager
def _folder(dry_run: Path | None):
    """Where trees are written: for good, or for the time of a push."""
    if dry_run is not None:
        yield dry_run
        return
    with tempfile.TemporaryDirectory(prefix="casita-push-") as folder:
        yield Path(folder)


def _model_revision(revision: str, tag: str | None) -> str | None:
    """What names the model of this very push: its tag, if one was given, or its branch, if that is not main."""
    if tag not in (None, "none"):
        return tag
    return None if revision == "main" else revision


def _check_name(repo: str) -> None:
    """`ValueError` unless `repo` is `ORG/NAME`, or `ORG/NAME@COMMIT`, as the Hub takes it."""
    name = repo.partition("@")[0]
    try:
        validate_repo_id(name)
        if "/" in name:
            return
        told = "one '/' stands between organization and name"
    except HFValidationError as error:
        told = str(error)
    raise ValueError(f"{repo!r}: no name of a repository, as in my-lab/casita-milan ({told.rstrip('.')}).")


def _refuse_overwriting(dry_run: Path, whats: list[str], source: Source) -> None:
    """`ValueError` for trees that would take the place of what they are made from: RUN/model above all."""
    for given in (source.run, source.home):
        if given is not None and dry_run.resolve().is_relative_to(given.resolve()):
            raise ValueError(
                f"--dry-run {dry_run}: lies in {given}, whose files it could replace. Name another folder."
            )
    for what in whats:
        if any((dry_run / what / name).exists() for name in ("config.yaml", "home.json")):
            raise ValueError(f"--dry-run {dry_run}: {dry_run / what} is a run or a home. Name another folder.")


def _home_name(whats: list[str], source: Source) -> str:
    """The homes' name for the repositories: of the model's processor, or of the home folder."""
    if source.run is not None:
        path = source.run / "model" / "processor_config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, so {source.run} is no trained run. See: casita train")
        processor = read_json(path)
        return slug(processor["home"] or "-".join(processor["homes"]))
    return "-".join(home.slug for home in released_homes(source.require_home(whats[0])))


def _version(what: str) -> str:
    return f"v{SCHEMA_VERSION if what in DATA else __version__}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `casita push`."""
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
    parser.add_argument("what", choices=[*SUFFIX, "all"], help="what to publish")
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
        "--tag", help=f"name of this version, or none (default: v{__version__}; of data its schema's version)"
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
    """`casita push`."""
    whats = list(SUFFIX) if args.what == "all" else [args.what]
    terms = {"permission": args.i_have_permission, "recordings": not args.without_recordings}
    source = Source(run=args.run, home=args.home, dataset=args.dataset, **terms)
    options = {"private": args.private, "revision": args.revision, "tag": args.tag, "dry_run": args.dry_run}
    push(whats, source, args.namespace, args.name, **options)
    if args.dry_run is not None:
        for what in whats:
            count = sum(1 for path in Path(args.dry_run, what).rglob("*") if path.is_file())
            print(f"{os.path.join(args.dry_run, what)}: {count} files; nothing was pushed")
