"""One live session as one MLflow run: its parameters when it begins, its figures and logs when it ends."""

from __future__ import annotations

import json
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

LOGS = (
    session_files.PER_FRAME, session_files.EVENTS, session_files.SUMMARY, session_files.THRESHOLDS,
    session_files.CORRECTNESS, session_files.FACES, session_files.RECORDED, session_files.SESSION,
)  # fmt: skip


def open_session(p: LiveParams, folder: Path, source=None) -> Session:
    """A session of the model ``p.model`` whose MLflow run is open from now on and ends with it.

    Raises what :class:`Session` raises, and FerError when there is no such model.
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
    """A finished replay as a run of its own, beside that of the session it came from."""
    about = read_session(folder)
    LiveRun(LiveParams(**about["params"]), folder, f"replay {folder.name}").end(about, None)


class LiveRun:
    """The run of one session; ``run_id`` is its id.  A killed session's run is ended by the next command that looks."""

    def __init__(self, p: LiveParams, folder: Path, name: str = ""):
        import mlflow

        base = store.configure()
        run_status.reap()
        self.folder, self._client = folder, mlflow.MlflowClient()
        place = below(folder.resolve(), base)
        tags = {"fer.kind": "live", "fer.folder": place, "fer.lock": f"{place}/.lock", "fer.git": git_state()}
        experiment = store.experiment_id()
        name = name or f"live {folder.name}"
        run = store.retry_while_locked(lambda: self._client.create_run(experiment, tags=tags, run_name=name))
        self.run_id = run.info.run_id
        values = flatten(p.model_dump(mode="json")).items()
        params = [mlflow.entities.Param(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values]
        store.retry_while_locked(lambda: self._client.log_batch(self.run_id, params=params))

    def end(self, summary: dict[str, Any], error: BaseException | None) -> None:
        """Figures, logs and how it ended; videos stay where they are, for they show people.

        FerError when the store refuses, saying that the session's files are whole.
        """
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        try:
            store.retry_while_locked(lambda: self._end(summary, error, now))
        except Exception as trouble:
            raise FerError(
                f"the session's files in {self.folder} are whole, but its MLflow run {self.run_id} could not be ended: "
                f"{disk_trouble(trouble) or trouble}; fer runs reap ends it"
            ) from trouble

    def _end(self, summary: dict[str, Any], error: BaseException | None, now: int) -> None:
        """It may be done again: everything is written under the same names and at the same time."""
        from mlflow.entities import Metric

        keys = ("frames", "fps", "latency_ms", "dropped", "first_frame_sec", "seconds", "views_skipped",
                "pictures_not_recorded")  # fmt: skip
        values = numbers({"live": {k: summary.get(k) for k in keys}}) | self._scored()
        self._client.log_batch(self.run_id, metrics=[Metric(k, v, now, 0) for k, v in values.items()])
        for name in LOGS:
            if (self.folder / name).is_file():
                self._client.log_artifact(self.run_id, str(self.folder / name), "session")
        self._client.set_tag(self.run_id, "fer.end", str(summary.get("end", "")))
        self._client.set_terminated(self.run_id, "FINISHED" if error is None else "FAILED")

    def _scored(self) -> dict[str, float]:
        """Protocol-Lite of a session that was labelled; nothing for one that was not."""
        from fer_lib.live.score import score

        try:
            found = score(self.folder)
        except DataError:  # no labels, or none for long enough: fer score says which
            return {}
        self._client.set_tag(self.run_id, "evalset_id", found["evalset_id"])
        self._client.set_tag(self.run_id, "protocol_id", found["protocol_id"])
        kept = ("raw", "smoothed", "n_expected", "n_used", "face_share")
        return numbers({"score": {k: found[k] for k in kept}})
