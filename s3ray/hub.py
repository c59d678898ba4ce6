"""Models of the Hugging Face hub: the commit that an id means, and the files of that commit in a folder of this node.

An id is ``org/name`` or ``org/name@REVISION``, where a revision is a branch, a tag or a commit. Whoever starts a run
turns its ids into ids with a commit once (``pin``), so that every node and every later start uses the same files. A
node then fetches them once (``fetch``), under a lock, into the usual Hugging Face cache. What is there is never asked
for again: an id with a commit whose files are there needs no network.
"""

import contextlib
import errno
import fnmatch
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from s3ray.errors import InputError, RunError
from s3ray.text import duration, valid_text

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?(@\w[\w./-]*)?")
HUB_LIMIT_S = 10.0
"""How long a question to the hub may take."""
FETCH_LIMIT_S = 4 * 3600.0
"""How long a node may take to fetch a model; nothing else waits for it meanwhile but the engines of that node."""
CONFIG = "config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = ("*.json", "*.txt", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.vocab", "*.bpe")
"""Configuration, tokenizer and code of a model; none of it large."""
_SPARE_BYTES = 2**30
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def split_id(model: str) -> tuple[str, str]:
    """The repository of an id, and its revision (``main`` where it names none)."""
    repository, _, revision = model.partition("@")
    return repository, revision or "main"


def commit_of(model: str) -> str:
    """The commit that an id names in full (40 hexadecimal digits); empty if it names none."""
    revision = split_id(model)[1]
    return revision if HUB_ID.fullmatch(model) and _COMMIT.fullmatch(revision) else ""


def with_commit(model: str, commit: str) -> str:
    """The id of the same repository at a commit."""
    return f"{split_id(model)[0]}@{commit}"


def cached_snapshot(model: str, file: str = CONFIG) -> Path | None:
    """The folder of an id in the local cache, if ``file`` lies there; other files of the model may be missing."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = split_id(model)
    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def not_cached(model: str) -> InputError:
    """The error of an id that the cache does not have where the hub must not be asked."""
    return InputError(
        "is not in the local Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it",
        hint=f"Run `{_by_hand(model)}` where the hub can be reached, or name a folder.",
    )


def look_up(model: str, file: str = CONFIG) -> str:
    """Ask the hub for one small file of a model, for at most ``HUB_LIMIT_S`` seconds; returns the commit of the id.

    Raises:
        InputError: the hub does not answer, or has no such model for this user.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    repository, revision = split_id(model)
    with _in_words(model, file):
        found = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=HUB_LIMIT_S)
    return found.commit_hash or revision


def pin(model: str, tell: Callable[[str], None], file: str = CONFIG) -> str:
    """Name the commit of an id that is meant now, by one question to the hub, or by the cache where it cannot answer.

    ``file`` is one that the model must have. ``tell`` gets a line if the cache decided although the hub was asked.

    Raises:
        InputError: neither the hub nor the cache has it.
    """
    if commit_of(model):
        return model
    cached = cached_snapshot(model, file)
    if is_offline():
        if cached is None:
            raise not_cached(model)
        return with_commit(model, cached.name)
    try:
        pinned = with_commit(model, look_up(model, file))
    except InputError as error:
        if cached is None:
            raise
        tell(f"{model}: {error.problem}. Commit {cached.name[:12]}, which the cache has, is used.")
        return with_commit(model, cached.name)
    if cached is None or cached_snapshot(pinned, file) is not None:
        _keep_ref(model, pinned)  # else without network the cache would not find what it has
    return pinned


def fetch_file(model: str, file: str) -> Path:
    """One small file of a model, of the commit that the hub names now, or the cache where the hub cannot be asked.

    Raises:
        InputError: neither the hub nor the cache has it.
    """
    from huggingface_hub import hf_hub_download

    repository, revision = split_id(model)
    with _in_words(model, file):
        return Path(hf_hub_download(repository, file, revision=revision, etag_timeout=HUB_LIMIT_S))


def fetch(model: str, file: str = CONFIG, weights: str = "") -> Path:
    """The folder of a model on this node, with all that is needed to load it; what is missing is fetched first.

    An id without a commit means the one that the cache has for it, else the hub's. Other processes of this node may ask
    at the same moment: one fetches, the others wait for it. ``weights`` is the one file that holds them; empty: those
    of a whole model, see ``weight_files``.

    Raises:
        InputError: neither the hub nor the cache has it, or this node has no room for it.
        RunError: another process has been fetching it for longer than ``FETCH_LIMIT_S``.
    """
    from huggingface_hub import constants

    cached = cached_snapshot(model, file)
    if not commit_of(model):
        model = with_commit(model, cached.name) if cached is not None else pin(model, lambda line: None, file)
    if cached is not None and _is_whole(model, cached, weights):
        return cached
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / f"s3ray--{model.replace('/', '--')}.lock"
    with _in_words(model, file):
        if is_offline():
            return _fetch(model, weights)  # only reads, and perhaps from a cache that is for reading only
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=FETCH_LIMIT_S, mode=0o664):  # users of a node may share a cache
                return _fetch(model, weights)
        except Timeout:
            problem = f"waited {duration(FETCH_LIMIT_S)} for another process to fetch {model}"
            raise RunError(problem, f"If none is at work, remove {lock}") from None


def _keep_ref(model: str, pinned: str) -> None:
    """Note in the cache which commit a branch or tag is, as huggingface_hub does; a cache for reading only stays so."""
    from huggingface_hub import constants

    repository, revision = split_id(model)
    place = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "refs", revision)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f"{place.name}.{os.getpid()}.tmp")
        unfinished.write_text(commit_of(pinned))
        unfinished.replace(place)


def weight_files(names: Collection[str], only: str = "") -> list[str]:
    """The files with a model's weights, of those in its repository: safetensors beside the config, each tensor once.

    ``only`` is the file that holds them, if they are to be in one that is known.
    """
    if only:
        return [only] if only in names else []
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if "model.safetensors" in found and "model.safetensors.index.json" not in names:
        return ["model.safetensors"]  # others hold the same in another number format
    # The original files of Mistral's models, which hold everything once more.
    return [name for name in found if not name.startswith("consolidated")] or found


def _fetch(model: str, weight_file: str) -> Path:
    from huggingface_hub import constants, errors, get_cached_repo_tree, snapshot_download

    repository, commit = split_id(model)
    folder = Path(snapshot_download(repository, revision=commit, allow_patterns=list(_SMALL)))
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(repository, revision=commit)}
    except errors.CachedRepoTreeNotFoundError:
        return folder  # offline, and from a cache that another version has filled: whoever loads it sees what it has
    weights = weight_files(sizes, weight_file)
    if not weights:
        hint = "Load it once where you trust it, `save_pretrained` it again, and name that folder."
        raise InputError("has no safetensors weights on the hub; pickles can run code and are not read", hint=hint)
    needed = sum(sizes[name] for name in weights if not (folder / name).exists())
    free = shutil.disk_usage(constants.HF_HUB_CACHE).free
    if needed and needed + _SPARE_BYTES > free:
        raise _no_room(f"{needed / 2**30:.1f} GiB are to be fetched and {free / 2**30:.1f} GiB are free")
    return Path(snapshot_download(repository, revision=commit, allow_patterns=weights))


def _is_whole(model: str, folder: Path, weights: str) -> bool:
    """Whether all files of an id with a commit are in its folder; False if the cache does not know their names."""
    from huggingface_hub import errors, get_cached_repo_tree

    repository, commit = split_id(model)
    try:
        names = [file.path for file in get_cached_repo_tree(repository, revision=commit)]
    except errors.CachedRepoTreeNotFoundError:
        return False
    small = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL)]
    return all((folder / name).exists() for name in (*small, *weight_files(names, weights)))


def _by_hand(model: str) -> str:
    repository, revision = split_id(model)
    return f"hf download {repository}" + (f" --revision {revision}" if revision != "main" else "")


def _no_room(detail: str) -> InputError:
    from huggingface_hub import constants

    hint = "Free some, or let HF_HOME name a folder of a larger disk (on every node)."
    return InputError(f"does not fit on the disk of {platform.node()}, {constants.HF_HUB_CACHE}: {detail}", hint=hint)


@contextlib.contextmanager
def _in_words(model: str, file: str) -> Iterator[None]:
    """Turn what the hub's client raises in the block into one error that says what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    hub, repository = constants.ENDPOINT, split_id(model)[0]
    try:
        yield
    except (InputError, RunError):
        raise
    except errors.GatedRepoError as error:
        hint = f"Accept its terms at {hub}/{repository} and log in: `hf auth login`, or HF_TOKEN."
        raise InputError("is a gated model, which the hub does not give to this user", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        hint = f"Its branches, tags and commits are listed at {hub}/{repository}/tree/main."
        raise InputError(f"the hub ({hub}) has the model, and not this revision of it", hint=hint) from error
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError) as error:
        what = f"no {file} for it" if isinstance(error, errors.RemoteEntryNotFoundError) else "no such model"
        hint = "Check its name; a private one needs `hf auth login` or HF_TOKEN. A folder begins with ./ or /."
        raise InputError(f"the hub ({hub}) has {what}, and this machine has no such folder", hint=hint) from error
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of the hub's storage, hf_xet
        raise _failed(model, error) from error


def _failed(model: str, error: Exception) -> InputError:
    """The error for a hub that cannot be reached or does not give, or a disk that does not take."""
    from huggingface_hub import constants, errors

    root = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    said = (valid_text(str(root)).strip().splitlines() or [""])[0]
    number = getattr(root, "errno", None)
    if number in _NO_ROOM or os.strerror(errno.ENOSPC) in str(root):
        return _no_room(said)
    if number in _NO_RIGHT:
        problem = f"the cache {constants.HF_HUB_CACHE} on {platform.node()} cannot be written: {said}"
        return InputError(problem, hint="Let HF_HOME name a folder that this user may write to.")
    if is_offline():
        return not_cached(model)
    instead = f"run `{_by_hand(model)}` where it can be reached, or name a folder."
    hub = constants.ENDPOINT
    if isinstance(root, errors.HfHubHTTPError) and root.response.status_code == 429:
        hint = f"Log in, which raises the limit (`hf auth login`, HF_TOKEN), or wait some minutes. Else {instead}"
        return InputError(f"the hub ({hub}) gets too many requests from here for now: {said}", hint=hint)
    problem = f"the hub ({hub}) does not answer and the cache has not got it ({type(root).__name__}: {said})"
    return InputError(problem, hint=f"Is there a network, a proxy, a mirror (HF_ENDPOINT)? Else {instead}")
