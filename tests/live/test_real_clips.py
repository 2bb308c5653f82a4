"""Real video clips: every face is found under a constant number, also at reduced scale and detection rate."""

import numpy as np
import pytest
from live_sessions import run_session

from fer_lib.live import session as session_module
from fer_lib.live.session_files import read_frames
from fer_lib.live.tracker import iou

# file -> faces in every frame (media/SOURCE.txt)
CLIPS = {
    "head-pose-face-detection-male.gif": 1, "head-pose-face-detection-female-and-male.gif": 2,
    "face-demographics-walking-and-pause.gif": 3,
}  # fmt: skip


@pytest.fixture
def track(monkeypatch, yunet, shared_data, tmp_path):
    """``track(file, scale, every)``: the session's folder and the view of each frame."""

    def run(file, scale, every):
        views, add = [], session_module.SessionWriter.add

        def note(self, record, setting, view):
            views.append(view)
            add(self, record, setting, view)

        monkeypatch.setattr(session_module.SessionWriter, "add", note)
        folder = tmp_path / f"{file}-{scale}-{every}"
        options = dict(detector="yunet", detector_model=str(yunet), detect_scale=scale, detect_every=every)
        run_session(folder, shared_data / "media" / file, **options)
        monkeypatch.setattr(session_module.SessionWriter, "add", add)
        return folder, views

    return run


@pytest.mark.parametrize("file", CLIPS)
def test_every_face_is_tracked_and_the_largest_scored(track, file):
    folder, whole = track(file, 1.0, 1)
    counts = np.array([len(view.faces) for view in whole])
    assert (counts == CLIPS[file]).mean() > 0.9, np.bincount(counts)
    numbers = {t.number for view in whole for t in view.faces}
    assert len(numbers) <= 2 * CLIPS[file] + 1, "a face keeps its number"
    for before, view in zip([None, *whole], whole, strict=False):
        if view.faces:
            largest, first = max(t.face.area for t in view.faces), view.faces[0]
            stays = before is not None and before.faces and before.faces[0].number == first.number
            assert first.face.area == largest or (stays and 1.2 * first.face.area >= largest)
    reduced, quick = track(file, 0.5, 3)
    assert len(quick) == len(whole) == len(read_frames(folder).frame_index) == len(read_frames(reduced).frame_index)
    overlap = [
        max((iou(t.face.box, u.face.box) for u in full.faces), default=0.0)
        for full, half in zip(whole, quick, strict=True) for t in half.faces
    ]  # fmt: skip
    assert len(overlap) > 0.9 * CLIPS[file] * len(whole) and np.mean(np.array(overlap) > 0.5) > 0.9
    assert np.median(overlap) > 0.75
