"""Real faces on video: as many as there are, under numbers that stay, and half the work finds the same ones."""

import numpy as np
import pytest
from living import lived

from fer_lib.live import session as sessions
from fer_lib.live.session_files import read_frames
from fer_lib.live.tracker import iou

# file -> faces in every frame (media/SOURCE.txt)
CLIPS = {
    "head-pose-face-detection-male.gif": 1, "head-pose-face-detection-female-and-male.gif": 2,
    "face-demographics-walking-and-pause.gif": 3,
}  # fmt: skip


@pytest.fixture
def watched(monkeypatch, yunet, shared_data, tmp_path):
    """``watched(file, scale, every)``: (how many faces, their numbers, the scored one's label) of each frame."""

    def watch(file, scale, every):
        seen, add = [], sessions.SessionWriter.add

        def note(self, record, setting, view):
            seen.append(view)
            add(self, record, setting, view)

        monkeypatch.setattr(sessions.SessionWriter, "add", note)
        folder = tmp_path / f"{file}-{scale}-{every}"
        lived(folder, shared_data / "media" / file, detector="yunet", detector_model=str(yunet), detect_scale=scale,
              detect_every=every)  # fmt: skip
        monkeypatch.setattr(sessions.SessionWriter, "add", add)
        return folder, seen

    return watch


@pytest.mark.parametrize("file", CLIPS)
def test_every_face_is_followed_and_the_largest_scored(watched, file):
    folder, whole = watched(file, 1.0, 1)
    counts = np.array([len(view.faces) for view in whole])
    assert (counts == CLIPS[file]).mean() > 0.9, np.bincount(counts)
    numbers = {t.number for view in whole for t in view.faces}
    assert len(numbers) <= 2 * CLIPS[file] + 1, "a face keeps its number"
    for before, view in zip([None, *whole], whole, strict=False):
        if view.faces:
            largest, first = max(t.face.area for t in view.faces), view.faces[0]
            stays = before is not None and before.faces and before.faces[0].number == first.number
            assert first.face.area == largest or (stays and 1.2 * first.face.area >= largest)
    reduced, quick = watched(file, 0.5, 3)
    assert len(quick) == len(whole) == len(read_frames(folder).frame_index) == len(read_frames(reduced).frame_index)
    overlap = [
        max((iou(t.face.box, u.face.box) for u in full.faces), default=0.0)
        for full, half in zip(whole, quick, strict=True) for t in half.faces
    ]  # fmt: skip
    assert len(overlap) > 0.9 * CLIPS[file] * len(whole) and np.mean(np.array(overlap) > 0.5) > 0.9
    assert np.median(overlap) > 0.75
