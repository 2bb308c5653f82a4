"""Face pages: their faces and captions, and the note when there is no page."""

import shutil

import numpy as np
import pytest
import session_factory

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live import synthetic_session
from fer_lib.live.faces_sheet import TILE, face_pages, spread
from fer_lib.live.recording import open_recorded_frames
from fer_lib.live.score import correct, raw_labels, segments
from fer_lib.live.session_files import LABEL_TEXT, read_faces, read_frames


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return synthetic_session.write_synthetic_session(tmp_path_factory.mktemp("d") / "drawn", seed=5)


@pytest.fixture
def folder(session, tmp_path):
    return shutil.copytree(session, tmp_path / "own")


def texts(page):
    return [text.get_text() for text in page.axes[0].texts]


def test_each_segment_has_a_row_with_its_faces(folder):
    pages, note = face_pages(folder, per_segment=6, per_page=5)
    assert note == "7 manual segments on 2 pages" and [len(p.axes[0].images) for p in pages] == [30, 12]
    frames = read_frames(folder)
    runs, written = segments(frames.manual, frames.time_sec), sum(map(texts, pages), [])
    assert next(t for t in written if t in EMOTIONS) == EMOTIONS[runs[0].label]
    for segment in runs:
        first, last = frames.frame_index[[segment.first, segment.last]]
        assert f"frames {first} to {last}\n{segment.seconds:.2f} s" in written
        for place in (segment.first, segment.last):
            assert str(frames.frame_index[place]) in written, "with the first and the last face of a segment"


def test_a_tile_shows_the_face_of_its_frame_with_coloured_labels(folder):
    pages, _ = face_pages(folder, per_segment=2)
    frames, faces, raw = read_frames(folder), read_faces(folder), None
    raw = raw_labels(frames)
    first = segments(frames.manual, frames.time_sec)[0]
    top, left, bottom, right = faces[first.first].box
    with open_recorded_frames(folder) as pictures:
        image = next(image for number, image in pictures if number == first.first)
    tile = np.asarray(pages[0].axes[0].images[0].get_array())
    assert tile.shape == (TILE, TILE, 3)
    face = image[int(top) : int(bottom), int(left) : int(right)].mean(axis=(0, 1))
    inner = tile[int(TILE * 0.12) : int(TILE * 0.88), int(TILE * 0.12) : int(TILE * 0.88)].mean(axis=(0, 1))
    assert np.abs(face - inner).max() < 6
    written = pages[0].axes[0].texts
    at = next(i for i, text in enumerate(written) if text.get_text() == str(first.first))
    for text, label in zip(written[at + 1 : at + 3], (raw[first.first], frames.pred[first.first]), strict=True):
        assert text.get_text() == LABEL_TEXT[int(label)]
        expected = "#2a7d2a" if label == first.label else "#c0392b" if label >= 0 else "#888888"
        assert text.get_color() == expected


def test_corrections_change_the_rows(folder):
    frames = read_frames(folder)
    one, two = segments(frames.manual, frames.time_sec)[:2]
    correct(folder, [(one.first, one.last, EMOTIONS[(one.label + 1) % 7]), (two.first, two.last, "")])
    pages, note = face_pages(folder)
    assert note == "6 manual segments" and len(pages) == 1
    assert EMOTIONS[(one.label + 1) % 7] in texts(pages[0])
    assert not any(text.startswith(f"frames {two.first} ") for text in texts(pages[0]))


def test_a_truncated_video_and_segments_without_a_face_are_noted(folder):
    frames = read_frames(folder)
    runs = segments(frames.manual, frames.time_sec)
    lost = runs[1]
    lines = (folder / "faces.csv").read_text().splitlines(keepends=True)
    remaining = [x for x in lines if not x[0].isdigit() or not lost.first <= int(x.split(",")[0]) <= lost.last]
    (folder / "faces.csv").write_text("".join(remaining))
    video = (folder / "raw.mkv").read_bytes()
    (folder / "raw.mkv").write_bytes(video[: len(video) // 2])  # as after a kill or a full disk
    pages, note = face_pages(folder)
    shown = len(pages[0].axes[0].images)
    assert 8 < shown < 8 * 6 and "of them without a recorded face" in note
    assert texts(pages[0]).count("no recorded face") == int(note.split("; ")[1].split()[0]) >= 2


def test_the_note_says_why_there_is_no_page(folder, tmp_path):
    (folder / "raw.mkv").unlink()
    pages, note = face_pages(folder)
    assert pages == [] and "cannot be shown because it has no raw video: record with fer live --record raw" in note
    bare = session_factory.write_session(tmp_path / "bare", np.full(40, -1), np.full((40, 7), 1 / 7))
    pages, note = face_pages(bare)
    assert pages == [] and "no manual label: enter frames and their label in corrections" in note


def test_an_invalid_video_is_named(folder):
    (folder / "raw.mkv").write_bytes(b"not a video")
    with pytest.raises(DataError, match="raw.mkv is no video that OpenCV can read"):
        face_pages(folder)


@pytest.mark.parametrize(("count", "wanted"), [(0, 8), (1, 8), (3, 8), (8, 8), (100, 8), (100, 1)])
def test_positions_are_evenly_spaced(count, wanted):
    places = spread(count, wanted).tolist()
    assert len(set(places)) == len(places) == min(count, wanted)
    assert all(0 <= p < count for p in places) and places == sorted(places)
    if min(count, wanted) > 1:
        assert places[0] == 0 and places[-1] == count - 1 and np.ptp(np.diff(places)) <= 1
