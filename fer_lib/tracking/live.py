"""One live session as one MLflow run: parameters at its start, metrics and logs at its end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fer_lib.errors import DataError, FerError, disk_trouble
from fer_lib.live import session_files
from fer_lib.live.session import Session
from fer_lib.live.session_files import read_session
from fer_lib.models.bundle import read_bundle
from fer_lib.params import LiveParams
from fer_lib.storage.json_files import flatten
from fer_lib.storage.paths import below
from fer_lib.tracking import run_status, store
from fer_lib.tracking.records import git_state, numbers
from fer_lib.tracking.registry import resolve


def open_session(p: LiveParams, folder: Path, source=None) -> Session:
    """A session of the model ``p.model`` with an open MLflow run that ends with the session.

    Raises what :class:`Session` raises, and FerError when the model does not exist.
    """
    session = Session(p, read_bundle(resolve(p.model)), folder, source)
    try:
        run = LiveRun(p, folder)
    except BaseException:
        session.discard()
        raise
    session.end_callbacks.append(run.end)
    return session


def log_replay(folder: Path) -> None:
    """Log a finished replay as a separate run."""
    summary = read_session(folder)
    LiveRun(LiveParams(**summary["params"]), folder, f"replay {folder.name}").end(summary, None)


class LiveRun:
    """The MLflow run ``run_id`` of one session.  :func:`run_status.reap` ends the run of a killed session."""

    def __init__(self, p: LiveParams, folder: Path, name: str = ""):
        import mlflow

        base = store.configure()
        run_status.reap()
        self.folder, self._client = folder, mlflow.MlflowClient()
        relative = below(folder.resolve(), base)
        tags = {"fer.kind": "live", "fer.folder": relative, "fer.lock": f"{relative}/.lock", "fer.git": git_state()}
        experiment = store.experiment_id()
        name = name or f"live {folder.name}"
        run = self._client.create_run(experiment, tags=tags, run_name=name)
        self.run_id = run.info.run_id
        values = flatten(p.model_dump(mode="json")).items()
        params = [mlflow.entities.Param(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values]
        self._client.log_batch(self.run_id, params=params)

    def end(self, summary: dict[str, Any], error: BaseException | None) -> None:
        """Log metrics, log files and the final status.  Videos show people, so they are not copied.

        Raises FerError when the MLflow store fails; the session's files are complete then.
        """
        try:
            self._log(summary)
            self._client.set_terminated(self.run_id, "FINISHED" if error is None else "FAILED")
        except Exception as store_error:
            raise FerError(
                f"the session's files in {self.folder} are complete, but its MLflow run {self.run_id} could not be "
                f"ended: {disk_trouble(store_error) or store_error}; fer runs reap ends it"
            ) from store_error

    def _log(self, summary: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        keys = ("frames", "fps", "latency_ms", "dropped", "first_frame_sec", "seconds", "views_skipped",
                "pictures_not_recorded")  # fmt: skip
        values = numbers({"live": {k: summary.get(k) for k in keys}}) | self._score_metrics()
        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, v, now, 0) for k, v in values.items()])
        for file in session_files.regular_files(self.folder, session_files.LOGS):
            self._client.log_artifact(self.run_id, str(file), "session")
        self._client.set_tag(self.run_id, "fer.end", str(summary.get("end", "")))

    def _score_metrics(self) -> dict[str, float]:
        """Protocol-Lite scores of a labelled session; empty for a session without enough labels."""
        from fer_lib.live.score import score

        try:
            scores = score(self.folder)
        except DataError:  # no labels, or no segment is long enough; fer score gives the reason
            return {}
        self._client.set_tag(self.run_id, "evalset_id", scores["evalset_id"])
        self._client.set_tag(self.run_id, "protocol_id", scores["protocol_id"])
        keys = ("raw", "smoothed", "n_expected", "n_used", "face_share")
        return numbers({"score": {k: scores[k] for k in keys}})
