"""Which commits of the hub's models a run uses: found out once, kept in its folder, the same at each later start."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from s3ray.adapters import pin_adapter
from s3ray.config.job import RunConfig
from s3ray.hub import commit_of, with_commit
from s3ray.launch.preflight import Job
from s3ray.models import is_of_hub, pin_model
from s3ray.storage.run_folder import RunStore


class Revisions:
    """Finds the commits of a run's models, or of those of all runs of a campaign; each model is asked for once."""

    def __init__(self, tell: Callable[[str], None], others: Iterable[RunStore] = ()) -> None:
        """``others`` are the runs that share models with those to come. ``tell`` gets what is worth a line."""
        self._tell = tell
        self._others = list(others)
        self._found: dict[tuple[str, str], str] = {}

    def pin(self, job: Job, store: RunStore) -> Job:
        """The job with the commits that its run has used so far, else those that the hub names now.

        A run that began before commits were kept goes on without, as do new ones beside it. Settings and fingerprint of
        the job stay as they are: they have the models as the job names them, and the adapter's commit already.

        Raises:
            InputError: neither the hub nor the cache has a model, or the adapter.
        """
        config = job.config
        changes = {}
        for name in ("generator", "student"):
            section = getattr(config, name)
            if name == "generator" and not (config.generates and config.generator.loads_model):
                continue
            if is_of_hub(section.model):
                model = self._pinned(name, job, store)
                changes[name] = section.model_copy(update={"model": model})
        if config.generates and config.generator.engine == "vllm" and config.generator.adapter:
            adapter = pin_adapter(config.generator.adapter)
            changes["generator"] = changes.get("generator", config.generator).model_copy(update={"adapter": adapter})
        return replace(job, config=config.model_copy(update=changes))

    def _pinned(self, section: str, job: Job, store: RunStore) -> str:
        named = str(job.settings[section]["model"])
        for known in (store, *self._others):
            if (commit := _kept(known, section, named)) is not None:
                return with_commit(named, commit) if commit else named
        key = (section, named)
        if key not in self._found:
            self._found[key] = pin_model(named, self._tell, field=f"{section}.model")
        return self._found[key]


def kept_commits(config: RunConfig) -> dict[str, dict[str, str]]:
    """What the folder of a run keeps of a pinned job: ``revisions``, its commits by section; empty if it has none."""
    models = {"generator": config.generator.model, "student": config.student.model}
    commits = {name: commit for name, model in models.items() if (commit := commit_of(model))}
    return {"revisions": commits} if commits else {}


def _kept(store: RunStore, section: str, named: str) -> str | None:
    """The commit that a run keeps for a model; empty if it keeps none, None if there is no such run yet."""
    if not store.is_run():
        return None
    identity = store.identity()
    if identity["settings"].get(section, {}).get("model") != named:
        return None
    return str(identity.get("revisions", {}).get(section, ""))
