"""A session writes its own files only: no link, and no file that another program puts in their place, is written."""

import os

import pytest
from live_sessions import DEFAULTS, open_session, run_images

from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.live.recording import recorded_frames
from fer_lib.live.session_files import read_faces, read_frames, read_recorded, read_session
from fer_lib.live.web import messages
from fer_lib.params import LiveParams

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows lets no program replace an open file")
FIRST = 12  # frames before the change


def count_images(folder):
    return sum(1 for _ in recorded_frames(folder))


READERS = {  # file -> how many of its entries a reader finds
    session_files.PER_FRAME: lambda folder: len(read_frames(folder).frame_index),
    session_files.FACES: lambda folder: len(read_faces(folder)),
    session_files.RECORDED: lambda folder: len(read_recorded(folder)),
    session_files.RAW_VIDEO: count_images,
}
NEEDS = {session_files.RAW_VIDEO: {session_files.RAW_VIDEO, session_files.RECORDED}}


@pytest.mark.parametrize("way", ["link", "file", "removed"])
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_replaced_ends_the_session_with_one_message(name, way, at_rest, tmp_path):
    out, victim = tmp_path / "session", tmp_path / "victim"
    victim.write_text("mine")

    def change(session, index):
        if index == FIRST:
            (out / name).unlink()
            if way == "link":
                (out / name).symlink_to(victim)
            elif way == "file":
                (out / name).write_text("not the session's")

    with pytest.raises(DataError, match=rf"{out / name} was removed or replaced .*record again"):
        run_images(out, at_rest, change, record="raw")
    assert victim.read_text() == "mine"
    assert f"{name} was removed or replaced" in read_session(out)["end"]
    for other, count in READERS.items():
        if name not in NEEDS.get(other, {other}):
            assert count(out) > FIRST // 2, f"{other} stays"  # a frame may show no face


@pytest.mark.parametrize("name", session_files.WRITTEN_ONCE)
def test_a_link_in_the_folder_before_the_session_is_refused(name, at_rest, tmp_path):
    """Also one that leads nowhere, which would make that file."""
    out = tmp_path / "session"
    out.mkdir()
    (out / name).symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match=f"{out} holds a session already .{name}"):
        open_session(LiveParams(**DEFAULTS, record="both"), out)
    assert not (tmp_path / "victim").exists()


def test_a_link_with_the_name_of_a_temporary_file_is_not_followed(at_rest, tmp_path):
    out, victim = tmp_path / "session", tmp_path / "victim"
    victim.write_text("mine")
    out.mkdir()
    names = (session_files.SESSION, session_files.EVENTS, session_files.THRESHOLDS)
    for name in names:
        (out / f".{name}.{os.getpid()}.partial").symlink_to(victim)
    run_images(out, at_rest[:3])
    assert victim.read_text() == "mine"
    assert not any((out / name).is_symlink() for name in names) and read_session(out)["frames"] == 3


def test_a_link_is_no_file_to_download_or_to_log(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / session_files.FACES).write_text("")
    (tmp_path / session_files.EVENTS).symlink_to(tmp_path / "victim")
    assert [entry["name"] for entry in messages.files(tmp_path)] == [session_files.FACES]
    assert session_files.regular_files(tmp_path, session_files.LOGS) == [tmp_path / session_files.FACES]
