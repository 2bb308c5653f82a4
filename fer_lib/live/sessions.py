"""Which session is scored: the one that was named, else the newest labelled one of the store, else a drawn one; and
which sessions are one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fer_lib.errors import FerError
from fer_lib.live.recording import replayed_from
from fer_lib.live.score import read_truth
from fer_lib.live.session_files import NO_LABEL, PER_FRAME, SESSION, read_frames, read_session
from fer_lib.storage.atomic import readable


def chosen_session(named: str, own: Path) -> tuple[Path, str]:
    """The session's folder, and in words which one it is.

    ``named``: its folder; blank: the newest one with a manual label below ``mlruns/live``; where there is none, a drawn
    session is written into ``own``.
    """
    from fer_lib.live.synthetic_session import write_drawn_session
    from fer_lib.storage.paths import mlruns

    if named:
        return Path(named), f"the session {named}"
    if (newest := newest_labelled(mlruns() / "live")) is not None:
        return newest, f"the newest labelled session of mlruns/live, {newest.name}"
    drawn = write_drawn_session(own)
    return drawn, "a drawn session, for mlruns/live holds no labelled one: record one with fer live --record raw"


def newest_labelled(root: Path) -> Path | None:
    """The session below ``root`` that was written last, among those that carry a label and can be read."""
    found = [file.parent for file in root.glob(f"*/{PER_FRAME}") if (file.parent / SESSION).is_file()]
    for folder in sorted(found, key=lambda f: (f / PER_FRAME).stat().st_mtime_ns, reverse=True):
        try:
            labelled = (read_truth(folder, read_frames(folder)) != NO_LABEL).any()
        except FerError:
            continue  # a session that was broken since is not what a blank name means
        if labelled:
            return folder
    return None


def session_id(folder: Path | str) -> str:
    """SHA-256 of what was logged frame by frame, which corrections leave as it is: 64 hex digits."""
    file = Path(folder) / PER_FRAME
    with readable(file):
        return hashlib.sha256(file.read_bytes()).hexdigest()


def same_pictures(one: Path | str, other: Path | str) -> bool:
    """Whether two sessions were made from the same pictures: one and its copies, what other models made of it
    (replays), and two sessions of one file."""
    if Path(one).resolve() == Path(other).resolve() or session_id(one) == session_id(other):
        return True
    kept = [read_session(folder) for folder in (one, other)]
    files = [(about.get("source") or {}).get("fingerprint") for about in kept]
    origins = [
        replayed_from(Path(folder).resolve(), about).name for folder, about in zip((one, other), kept, strict=True)
    ]
    replays = any(about.get("replay_of") for about in kept)
    return (None not in files and files[0] == files[1]) or (replays and origins[0] == origins[1])
