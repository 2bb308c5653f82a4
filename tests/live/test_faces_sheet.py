"""Face pages: their faces and captions, and the note when there is no page."""

import shutil

import numpy as np
import pytest
import session_factory

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live import synthetic_session
from fer_lib.live.faces_sheet import TILE, face_pages, spread
from fer_lib.live.recording import recorded_frames
from fer_lib.live.score import correct, raw_labels, segments
from fer_lib.live.session_files import LABEL_TEXT, read_faces, read_frames


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return synthetic_session.write_synthetic_session(tmp_path_factory.mktemp("d") / "drawn", seed=5)


@pytest.fixture
def folder(session, tmp_path):
    return shutil.copytree(session, tmp_path / "own")


def captions(page):
    """The captions under the faces, each its frame, raw label and smoothed label."""
    return [text.get_text() for text in page.axes[0].texts]


def labels(page):
    """The texts beside the lines."""
    return [text.get_text() for text in page.axes[0].get_yticklabels()]


def test_each_segment_has_a_row_with_its_faces(folder):
    pages, note = face_pages(folder, per_segment=6, per_page=5)
    assert note == "7 manual segments on 2 pages" and [len(captions(page)) for page in pages] == [30, 12]
    frames = read_frames(folder)
    shown = {text.partition("\n")[0] for page in pages for text in captions(page)}
    for segment, label in zip(segments(frames.manual, frames.time_sec), sum(map(labels, pages), []), strict=True):
        first, last = frames.frame_index[[segment.first, segment.last]]
        assert label == f"{EMOTIONS[segment.label]}\nframes {first} to {last}\n{segment.seconds:.2f} s"
        assert {str(first), str(last)} <= shown, "with the first and the last face of a segment"


def test_a_tile_shows_the_face_of_its_frame_and_marks_other_labels(folder):
    pages, _ = face_pages(folder, per_segment=2)
    frames, faces = read_frames(folder), read_faces(folder)
    raw = raw_labels(frames)
    first = segments(frames.manual, frames.time_sec)[0]
    top, left, bottom, right = faces[first.first].box
    image = next(image for number, image in recorded_frames(folder) if number == first.first)
    tile = np.asarray(pages[0].axes[0].images[0].get_array())[:TILE, :TILE]
    face = image[int(top) : int(bottom), int(left) : int(right)].mean(axis=(0, 1))
    inner = tile[int(TILE * 0.12) : int(TILE * 0.88), int(TILE * 0.12) : int(TILE * 0.88)].mean(axis=(0, 1))
    assert np.abs(face - inner).max() < 6
    marked = 0
    for segment in segments(frames.manual, frames.time_sec):
        for position in (segment.first, segment.last):
            lines = next(text.split("\n") for page in pages for text in captions(page)
                         if text.startswith(f"{frames.frame_index[position]}\n"))  # fmt: skip
            for line, label in zip(lines[1:], (int(raw[position]), int(frames.pred[position])), strict=True):
                assert line == LABEL_TEXT[label] + " ✗" * (label not in (segment.label, -1, -2))
                marked += "✗" in line
    assert 0 < marked < 28


def test_corrections_change_the_rows(folder):
    frames = read_frames(folder)
    one, two = segments(frames.manual, frames.time_sec)[:2]
    correct(folder, [(one.first, one.last, EMOTIONS[(one.label + 1) % 7]), (two.first, two.last, "")])
    pages, note = face_pages(folder)
    assert note == "6 manual segments" and len(pages) == 1
    assert labels(pages[0])[0].startswith(f"{EMOTIONS[(one.label + 1) % 7]}\nframes {one.first} to {one.last}\n")
    assert not any(f"frames {two.first} " in label for label in labels(pages[0]))


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
    lost = captions(pages[0]).count("no recorded face")
    assert 8 < len(captions(pages[0])) - lost < 8 * 6
    assert f"; {lost} of them without a recorded face" in note and lost >= 2


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
