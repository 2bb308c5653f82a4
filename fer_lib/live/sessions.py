"""Select the session to score, identify sessions, and compare their sources."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fer_lib.errors import FerError
from fer_lib.live.recording import replay_origin
from fer_lib.live.score import read_truth
from fer_lib.live.session_files import NO_LABEL, PER_FRAME, SESSION, read_frames, read_session


def select_session(name: str, synthetic_folder: Path) -> tuple[Path, str]:
    """The folder of the session to score, and a description of it.

    ``name``: the folder; blank: the newest labelled session below ``mlruns/live``, else a synthetic session that is
    written to ``synthetic_folder``.
    """
    from fer_lib.live.synthetic_session import write_synthetic_session
    from fer_lib.storage.paths import mlruns

    if name:
        return Path(name), f"the session {name}"
    if (newest := newest_labelled(mlruns() / "live")) is not None:
        return newest, f"the newest labelled session of mlruns/live, {newest.name}"
    folder = write_synthetic_session(synthetic_folder)
    return folder, "a drawn session, because mlruns/live has no labelled one: record one with fer live --record raw"


def newest_labelled(root: Path) -> Path | None:
    """The newest readable session with a manual label below ``root``; None without one."""
    folders = [file.parent for file in root.glob(f"*/{PER_FRAME}") if (file.parent / SESSION).is_file()]
    for folder in sorted(folders, key=lambda f: (f / PER_FRAME).stat().st_mtime_ns, reverse=True):
        try:
            labelled = (read_truth(folder, read_frames(folder)) != NO_LABEL).any()
        except (FerError, OSError):
            continue  # skip a session that cannot be read
        if labelled:
            return folder
    return None


def session_id(folder: Path | str) -> str:
    """SHA-256 of ``per_frame.csv``, 64 hex digits; corrections do not change it."""
    return hashlib.sha256((Path(folder) / PER_FRAME).read_bytes()).hexdigest()


def same_source(one: Path | str, other: Path | str) -> bool:
    """Whether two sessions show the same frames: copies, replays by other models, and sessions of one video file."""
    if Path(one).resolve() == Path(other).resolve() or session_id(one) == session_id(other):
        return True
    infos = [read_session(folder) for folder in (one, other)]
    files = [(info.get("source") or {}).get("fingerprint") for info in infos]
    origins = [
        replay_origin(Path(folder).resolve(), info).name for folder, info in zip((one, other), infos, strict=True)
    ]
    is_replay = any(info.get("replay_of") for info in infos)
    return (None not in files and files[0] == files[1]) or (is_replay and origins[0] == origins[1])
