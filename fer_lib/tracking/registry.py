"""The MLflow model registry: registration of bundles, aliases, and model URIs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fer_lib import default_model
from fer_lib.datasets.provenance import not_for_photos, training_text
from fer_lib.errors import FerError
from fer_lib.models.bundle import META, Bundle, bundle_folder, read_bundle
from fer_lib.models.ensemble_folder import Ensemble, copy_ensemble, is_ensemble
from fer_lib.models.softlabels_format import METRICS
from fer_lib.params import SoftLabelParams, usable_alias
from fer_lib.storage import paths
from fer_lib.storage.atomic import fresh_folder
from fer_lib.storage.phase_result import Registration
from fer_lib.tracking import store

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def register_model(
    bundle: Bundle | Ensemble,
    name: str,
    alias: str = "",
    run_id: str | None = None,
    smoke: bool = False,
    description: str = "",
) -> Registration:
    """Register ``bundle`` as a new version of ``name`` and move ``alias`` (if any) to it, unless it is not permitted.

    The alias moves last, so an interruption leaves it at the earlier version.

    Args:
        run_id: the run that the version belongs to; None: the active run, else a new one.
        smoke: whether that run is a rehearsal (see :func:`permitted_alias`).

    Raises:
        FerError: MLflow refuses the name or the alias.
    """
    if alias and not usable_alias(alias):  # MLflow refuses it only after registering the version
        raise FerError(f"'{alias}' can't be an alias of '{name}': use letters, digits, _ and -, not latest or v1")
    permitted, refusal = permitted_alias(bundle, name, alias, smoke)
    before = alias_version(name, permitted)
    version = _register_version(bundle, name, permitted, run_id, description)
    return Registration(name, version, permitted, alias_message(name, permitted, version, before, bundle), refusal)


def register_ensemble(p: SoftLabelParams, folder: Path, run_id: str | None = None) -> Registration | None:
    """Register the ensemble of a soft-label ``folder`` with copies of its members; None where ``p.alias`` is blank.

    Raises the errors of :func:`register_model`, and BundleError when a member was changed since.
    """
    if not p.alias:
        return None
    with TemporaryDirectory(dir=folder) as work:
        ensemble = copy_ensemble(folder, Path(work) / "ensemble")
        return register_model(ensemble, p.registered_name, p.alias, run_id, p.smoke)


def _register_version(bundle: Bundle, name: str, alias: str, run_id: str | None, description: str) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import set_signature

    from fer_lib.deploy import pyfunc

    active = mlflow.active_run()
    if active and run_id in (None, active.info.run_id):
        run = nullcontext()
    elif run_id:
        run = mlflow.start_run(run_id=run_id, nested=active is not None)
    else:
        run = mlflow.start_run(experiment_id=store.experiment_id(), run_name=f"register {bundle.name}")
    client = mlflow.MlflowClient()
    tags = {k: str(v) for k, v in headline(bundle).items() if v is not None}
    tags["size_bytes"] = str(sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file()))
    tags["trained_on"] = training_text(bundle.training_data)
    if start := bundle.training_data and bundle.training_data.starting_weights:
        description = "\n\n".join(filter(None, (description, f"Started from {start.text}.")))
    try:
        with run, _quiet():
            info = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(pyfunc.CODE),
                artifacts={pyfunc.ARTIFACT: str(bundle.path)},
                pip_requirements=pyfunc.requirements(),
                metadata={"input": pyfunc.INPUT_NOTE, "weights_sha256": bundle.weights_sha256},
            )
            set_signature(info.model_uri, pyfunc.signature())
            version = mlflow.register_model(info.model_uri, name, tags=tags)
        if description:
            client.update_model_version(name, version.version, description=description)
        if alias:
            client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise FerError(
            f"MLflow refused to register {bundle.name} as {name}@{alias}: {error.message}; choose another name or alias"
        ) from error
    return int(version.version)


def permitted_alias(bundle: Bundle, registered_name: str, alias: str, smoke: bool = False) -> tuple[str, str]:
    """(the alias that ``bundle`` may take, "") or ("", the reason why it may not take ``alias``).

    ``fer predict``, ``fer live`` and ``fer_lib.load`` use the alias ``champion`` by default.  So a model trained on
    synthetic faces or in a ``--smoke`` run never takes it.  ``smoke``: the registering phase is part of such a run.
    """
    reason = not_for_photos(bundle.training_data) or ("a --smoke rehearsal, not for photos" if smoke else "")
    if alias != default_model.ALIAS or not reason:
        return alias, ""
    return "", f"{bundle.name} does not take the alias {registered_name}@{alias}: it is {reason}"


def alias_version(registered_name: str, alias: str) -> dict[str, Any] | None:
    """The version that ``registered_name@alias`` points at, as a row of :func:`list_models`; None without one."""
    return next((m for m in list_models() if m["name"] == registered_name and alias in m["aliases"]), None)


def alias_message(registered_name: str, alias: str, version: int, before: dict[str, Any] | None, bundle: Bundle) -> str:
    """Message about the alias that ``bundle``, now ``version``, took from the version ``before``."""
    if not alias:
        return f"models:/{registered_name}/{version} is new; no alias was moved."
    message = f"models:/{registered_name}@{alias} is now version {version}"
    if before is None:
        return f"{message}; no version had the alias before."
    message += f", before it was version {before['version']}"
    if before["macro_f1"] is None:
        return f"{message}, whose macro-F1 is unknown."
    same = before["evalset_id"] == headline(bundle)["evalset_id"]
    rows = "the same rows" if same else f"other rows ({before['evalset_id']}), so the two cannot be compared"
    return f"{message} (macro-F1 {before['macro_f1']:.4f} on {rows})."


def resolve(uri: str | Path, ensembles: bool = False) -> Path:
    """The bundle folder behind a URI; with ``ensembles`` also the folder of an ensemble (``models.ensemble_folder``).

    ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/ID/PATH``, ``packaged``, or a folder: a bundle, or a phase
    folder with one as ``best`` (fit) or ``bundle`` (checkpoints, export).  Raises FerError that lists the available
    names, aliases or versions.
    """
    text = str(uri)
    if ensembles and is_ensemble(Path(uri)):
        return Path(uri)
    if text == "packaged":
        from fer_lib.deploy.packaged import packaged_bundle

        return packaged_bundle().path
    if text.startswith("models:/"):
        return _find_bundle(_download(_download_uri(text)), text, ensembles)
    if text.startswith("runs:/"):
        store.configure()
        return _find_bundle(_download(text), text, ensembles)
    return bundle_folder(uri)


def default_uri() -> str:
    """``models:/fer-student@champion`` if it is registered, else ``packaged``.  Creates no store."""
    if not (paths.home() / "mlruns" / "mlflow.db").is_file():
        return "packaged"
    return default_model.URI if alias_version(default_model.NAME, default_model.ALIAS) else "packaged"


def model_name(uri: str | Path, bundle: Bundle) -> str:
    """Readable name of the model behind a URI: ``fer-student@champion version 3``, ``packaged student_dkd``."""
    match = _MODEL_URI.fullmatch(str(uri))
    if match is None:
        return f"packaged {bundle.name}" if str(uri) == "packaged" else f"{bundle.name} in {uri}"
    if match["version"]:
        return f"{match['name']} version {match['version']}"
    import mlflow

    store.configure()
    version = mlflow.MlflowClient().get_model_version_by_alias(match["name"], match["alias"]).version
    return f"{match['name']}@{match['alias']} version {version}"


def describe(uri: str | Path) -> str:
    """Model name and training data of a URI, in one line.  Raises what :func:`resolve` raises."""
    bundle = read_bundle(resolve(uri))
    return f"{model_name(uri, bundle)} ({training_text(bundle.training_data)})"


def list_models() -> list[dict[str, Any]]:
    """Every registered version by name, newest first.

    Keys: name, version, aliases, macro_f1, accuracy, ece, measured_on, evalset_id, size_bytes, created (UTC ISO),
    description.  A metric that the bundle does not have is None.
    """
    import mlflow

    store.configure()
    client = mlflow.MlflowClient()
    rows = []
    for model in client.search_registered_models(max_results=1000):
        for version in client.search_model_versions(f"name = '{model.name}'", max_results=1000):
            number = {k: float(version.tags[k]) if k in version.tags else None for k in ("macro_f1", "accuracy", "ece")}
            created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
            rows.append({
                "name": model.name, "version": int(version.version),
                "aliases": sorted(a for a, v in model.aliases.items() if int(v) == int(version.version)), **number,
                "measured_on": version.tags.get("measured_on"), "evalset_id": version.tags.get("evalset_id"),
                "size_bytes": int(version.tags["size_bytes"]) if "size_bytes" in version.tags else None,
                "created": created.isoformat(timespec="seconds"), "description": version.description or "",
            })  # fmt: skip
    return sorted(rows, key=lambda r: (r["name"], -r["version"]))


def headline(bundle: Bundle) -> dict[str, Any]:
    """The bundle's macro_f1, accuracy, ece and the ids of the rows they were measured on: test, else val/select."""
    metrics = bundle.meta["metrics"]
    on = next((k for k in ("test", "val_select") if isinstance(metrics.get(k), dict)), None)
    values = metrics[on] if on else {}
    ids = bundle.meta["ids"] if on == "val_select" else {}  # a bundle's ids describe its selection rows
    return {
        **{k: values.get(k) for k in ("macro_f1", "accuracy", "ece")},
        "measured_on": on,
        "evalset_id": values.get("evalset_id", ids.get("evalset_id")),
        "protocol_id": values.get("protocol_id", ids.get("protocol_id")),
        "weights_sha256": bundle.weights_sha256,
    }


def _download_uri(uri: str) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    match = _MODEL_URI.fullmatch(uri)
    if match is None:
        raise FerError(f"{uri} is not a model URI: write models:/NAME@ALIAS or models:/NAME/VERSION")
    if not (paths.home() / "mlruns" / "mlflow.db").is_file():
        raise FerError(f"{uri}: there is no registry in {paths.home()}; train a model with `fer run`, or use packaged")
    store.configure()
    client = mlflow.MlflowClient()
    name, alias, version = match.group("name", "alias", "version")
    try:
        version = client.get_model_version_by_alias(name, alias).version if alias else version
        return client.get_model_version_download_uri(name, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter: no such alias
            raise
        models = list_models()
        own = [" @".join([f"{name}/{m['version']}", *m["aliases"]]) for m in models if m["name"] == name]
        names = own or dict.fromkeys(m["name"] for m in models) or ["none"]
        raise FerError(f"{uri} is not registered; there are: {', '.join(names)} (see: fer models)") from error


def _download(uri: str) -> Path:
    """The files behind an artifact URI: in place when they are local, else downloaded to the cache."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if is_local_uri(uri):
        return Path(local_file_uri_to_path(uri))
    cache = paths.mlruns() / "cache" / "models" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if not cache.is_dir() or uri.startswith("runs:"):  # a version never changes, artifacts of a run may
        try:
            with fresh_folder(cache) as partial:
                with _quiet():
                    mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(partial))
        except (MlflowException, OSError) as error:
            raise FerError(f"{uri} cannot be downloaded: {error}; check the URI and its store") from error
    return cache


def _find_bundle(folder: Path, uri: str, ensembles: bool) -> Path:
    if mixes := [file.parent for file in folder.rglob(METRICS)]:
        if ensembles:
            return mixes[0]
        raise FerError(f"{uri} is an ensemble, and one model is wanted here: name it among the teachers of soft labels "
                       "or the ensembles of an evaluation, or predict with it")  # fmt: skip
    bundles = sorted(p.parent for p in folder.rglob(META)) if folder.is_dir() else []
    if len(bundles) != 1:
        what = "holds no bundle" if not bundles else f"holds {len(bundles)} bundles"
        raise FerError(f"{uri} {what} (looked for {META} in {folder}); register it again with `fer run`, or name one")
    return bundles[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow's warning about the type hint (see deploy/pyfunc.py) and its reports of success."""
    from mlflow.utils import logging_utils

    logging_utils.disable_logging()
    try:
        yield
    finally:
        logging_utils.enable_logging()
