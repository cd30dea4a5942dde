"""MLflow's model registry: versions are plain files of a run, with their digests as tags of the version."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_registry import engine_runs
from model_registry.engine_record import version_tags
from model_registry.files import check, digest_of, discard, kept
from model_registry.inspection import Model, inspect_model
from model_registry.mlflow_errors import border, use_quiet_client
from model_registry.mlflow_runs import experiment_of, log_run
from model_registry.names import check_alias, check_name, parse_uri, version_uri
from model_registry.port import EngineBuild, EngineRun, MlflowSettings, Progress, Registered, ReleaseRun
from model_registry.record import Entry, files_of, to_model_version, to_registered, to_tags
from rollout.errors import Corrupt, NotFound, Refused
from rollout.nouns import ModelFile, ModelVersion

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel

ALIAS_SET = "model_version_alias.created"
EXPERIMENT = "roundhouse/models"


class MlflowRegistry:
    """See ``port.ModelRegistry``. Each verb raises Unavailable within seconds when the server does not answer."""

    def __init__(self, settings: MlflowSettings) -> None:
        """Raises Refused unless the server is named by http: its webhooks are fired by its REST handlers alone."""
        if not settings.uri.startswith(("http://", "https://")):
            raise Refused("registry uri", settings.uri, "it is no http address", "name a server: http://127.0.0.1:5000")
        use_quiet_client()
        from mlflow import MlflowClient

        self.uri = settings.uri.rstrip("/")
        self.cache = Path(settings.cache_directory)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(self, name: str, directory: str, source: str, progress: Progress) -> Registered:
        """A new version: the files become artifacts of a run, the record its tags. All or nothing.

        Raises Refused when the folder is no model, before anything is sent.
        """
        check_name(name)
        model = inspect_model(Path(directory), progress)
        tags = to_tags(model, source)
        with border(self.uri, name):
            run_id = self._open_run(name, source)
            try:
                self._upload(run_id, Path(directory), model, progress)
                self.client.set_terminated(run_id)
                made = self._create_version(name, run_id, tags)
            except BaseException:
                self._drop_run(run_id)
                raise
            return to_registered(made)

    def fetch(self, uri: str, progress: Progress, full: bool = False) -> ModelVersion:
        """The verified files in the cache; once there, a lookup (``full``: every byte is hashed again).

        Raises NotFound, Corrupt when a file is not what the record says (nothing is kept then), Refused for a version
        without a record.
        """
        with border(self.uri, uri):
            entry = self._entry(uri)
        record, address = files_of(entry), version_uri(entry.name, entry.version)
        folder = self.cache.resolve() / "models" / digest_of(record)
        kept(folder, lambda aside: self._download(entry, aside, record, progress), record)
        if full:
            self._check_again(address, folder, record, progress)
        return to_model_version(entry, str(folder), record)

    def resolve(self, uri: str) -> Registered:
        """What the address names now. Raises NotFound."""
        with border(self.uri, uri):
            return to_registered(self._entry(uri))

    def versions(self, name: str) -> list[Registered]:
        """All versions, newest first. Raises NotFound."""
        with border(self.uri, name):
            model = self.client.get_registered_model(name)
            found = self.client.search_model_versions(f"name='{name}'")
        entries = [_entry(version, model) for version in found]
        return [to_registered(e) for e in sorted(entries, key=lambda e: -int(e.version))]

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Move an alias; MLflow's webhook tells it on, also when it stood there already. Raises Refused, NotFound."""
        check_alias(alias)
        with border(self.uri, version_uri(name, version)):
            self.client.set_registered_model_alias(name, alias, version)

    def tag(self, name: str, version: str, tags: dict[str, str]) -> None:
        """Write tags on a version, or on the model. Raises NotFound."""
        with border(self.uri, version_uri(name, version) if version else name):
            for key, value in tags.items():
                if version:
                    self.client.set_model_version_tag(name, version, key, value)
                else:
                    self.client.set_registered_model_tag(name, key, value)

    def log_release(self, run: ReleaseRun) -> str:
        """Write a release down in the experiment of its service; returns the address of the run's page."""
        with border(self.uri, run.name):
            return f"{self.uri}/#/{log_run(self.client, run)}"

    def record_build(self, build: EngineBuild) -> EngineRun:
        """A run in the experiment of engines, named by tags on the model version. Raises NotFound, Unavailable."""
        with border(self.uri, f"engine {build.digest[:16]}"):
            run = engine_runs.open_run(self.client, self.uri, build)
        if build.model_uri.startswith("models:/"):
            named = self.resolve(build.model_uri)
            self.tag(named.name, named.version, version_tags(build, run))
        return run

    def put_engine(self, run: EngineRun, build: EngineBuild, progress: Progress) -> None:
        """The files become artifacts of the run; a run whose upload broke is marked. Raises NotFound, Unavailable."""
        with border(self.uri, f"engine {build.digest[:16]}"):
            try:
                engine_runs.send(self.client, run.id, build, progress)
            except BaseException:
                engine_runs.fail_run(self.client, run.id)
                raise

    def get_engine(self, digest: str, into: str, progress: Progress) -> EngineRun:
        """From the newest run that keeps it. Raises NotFound, Corrupt, Unavailable."""
        with border(self.uri, f"engine {digest[:16]}"):
            run = engine_runs.newest(self.client, digest)
        try:
            with border(self.uri, f"engine {digest[:16]}"):
                return engine_runs.receive(self.client, self.uri, run, Path(into), progress)
        except NotFound as gone:
            raise Corrupt(f"{gone}: a part of it is no longer in the registry's store") from gone

    def ensure_webhook(self, url: str, secret: str, events: tuple[str, ...] = (ALIAS_SET,)) -> str:
        """One signed webhook named ``roundhouse`` that tells ``url`` of ``events``; doing it twice changes nothing.

        Returns its id. Raises Refused when the server may not call that address.
        """
        wanted: dict[str, Any] = {"name": "roundhouse", "url": url, "events": list(events), "secret": secret}
        with border(self.uri, url):
            ours = [w for w in self.client.list_webhooks(max_results=100) if w.name == wanted["name"]]
            for extra in ours[1:]:
                self.client.delete_webhook(extra.webhook_id)
            if ours:
                return self.client.update_webhook(ours[0].webhook_id, status="ACTIVE", **wanted).webhook_id
            return self.client.create_webhook(**wanted).webhook_id

    def _check_again(self, address: str, folder: Path, record: tuple[ModelFile, ...], progress: Progress) -> None:
        """Hash the kept files anew; a folder that does not pass is removed, so that the next fetch gets it anew."""
        try:
            _check(address, folder, record, progress)
        except Corrupt:
            discard(folder)
            raise

    def _version(self, uri: str) -> MlflowVersion:
        asked = parse_uri(uri)
        if asked.version:
            return self.client.get_model_version(asked.name, asked.version)
        return self.client.get_model_version_by_alias(asked.name, str(asked.alias))

    def _entry(self, uri: str) -> Entry:
        version = self._version(uri)
        return _entry(version, self.client.get_registered_model(version.name))

    def _open_run(self, name: str, source: str) -> str:
        experiment = experiment_of(self.client, EXPERIMENT)
        return self.client.create_run(experiment, run_name=name, tags={"roundhouse.source": source}).info.run_id

    def _upload(self, run_id: str, directory: Path, model: Model, progress: Progress) -> None:
        sent = 0
        for file in model.files:
            progress(f"sending {file.path}", sent / (model.size or 1))
            self.client.log_artifact(run_id, str(directory / file.path), _artifact_folder(file.path))
            sent += file.size
        progress("sent", 1.0)

    def _create_version(self, name: str, run_id: str, tags: dict[str, str]) -> Entry:
        """The version appears with its record in one call. A model that was made for it goes when that fails."""
        made = self._create_model(name)
        try:
            model, source = self.client.get_registered_model(name), f"runs:/{run_id}/model"
            version = self.client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)
            return _entry(version, model)
        except BaseException:
            if made and not self.client.search_model_versions(f"name='{name}'"):
                self.client.delete_registered_model(name)
            raise

    def _create_model(self, name: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        return True

    def _drop_run(self, run_id: str) -> None:
        """Undo a failed registration; what cannot be undone now (the server is gone) is a run without a version."""
        with contextlib.suppress(Exception):
            self._delete_artifacts(run_id)
        with contextlib.suppress(Exception):
            self.client.delete_run(run_id)

    def _delete_artifacts(self, run_id: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        where = self.client.get_run(run_id).info.artifact_uri
        get_artifact_repository(where, self.uri).delete_artifacts("model")

    def _download(
        self, entry: Entry, aside: Path, record: tuple[ModelFile, ...], progress: Progress
    ) -> tuple[ModelFile, ...]:
        """Get the recorded files into ``aside/model`` and compare them with the record."""
        address, total, got = version_uri(entry.name, entry.version), sum(f.size for f in record) or 1, 0
        for file in record:
            progress(f"fetching {file.path}", got / total)
            into = (aside / "model" / file.path).parent
            into.mkdir(parents=True, exist_ok=True)
            try:
                with border(self.uri, f"{address}: {file.path}"):
                    self.client.download_artifacts(str(entry.run_id), f"model/{file.path}", str(into))
            except NotFound as gone:
                raise Corrupt(f"{address}: {file.path} is no longer in the registry's store") from gone
            got += file.size
        _check(address, aside / "model", record, progress)
        return record


def _check(address: str, folder: Path, record: tuple[ModelFile, ...], progress: Progress) -> None:
    try:
        check(folder, record, progress)
    except Corrupt as wrong:
        raise Corrupt(f"{address}: {wrong}") from wrong


def _artifact_folder(path: str) -> str:
    return Path("model", path).parent.as_posix()


def _entry(version: MlflowVersion, model: RegisteredModel) -> Entry:
    number, tags, shared = str(version.version), dict(version.tags or {}), dict(model.tags or {})
    aliases = tuple(alias for alias, named in model.aliases.items() if str(named) == number)
    return Entry(version.name, number, tags, aliases, version.run_id, shared)
