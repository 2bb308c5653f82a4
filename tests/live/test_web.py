"""The live page's server: access control, images, commands, downloads and errors."""

import csv
import io
import json
import time
import zipfile

import cv2
import numpy as np
import pytest
import websocket
from live_sessions import open_session
from page_client import TOKEN, Page, get, serve_page

from fer_lib.cli.live_page import serve
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.live import session_files
from fer_lib.live.session_files import read_frames, read_session
from fer_lib.live.web import messages, server
from fer_lib.params import LiveParams

PLAIN = dict(detector="haar", detect_every=1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "session"


@pytest.fixture
def camera(folder):
    """(address, hub) of a session over the page's own camera."""
    p = LiveParams(source="browser", **PLAIN)
    with serve_page(
        lambda source: open_session(p, folder, source), True, {"folder": str(folder), "record": "none"}
    ) as server_and_hub:
        yield server_and_hub


@pytest.fixture
def file(folder, clip):
    """(address, hub) of a session over a file that the server plays at its own speed."""
    p = LiveParams(source=str(clip), paced=True, **PLAIN)
    with serve_page(lambda source: open_session(p, folder, source), False) as server_and_hub:
        yield server_and_hub


@pytest.fixture(scope="session")
def jpegs(at_rest):
    return [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in at_rest]


def send_frames(page, jpegs, start=0.0):
    """Send images like the page: the next one after the answer and the state of the one before."""
    for k, jpeg in enumerate(jpegs):
        before = page.index
        page.feed(jpeg, start + k / 25)
        assert page.wait("ack") == {"ack": True}
        page.wait("state", lambda state, before=before: state["index"] > before)


# ---- access control


def test_a_socket_without_the_key_is_closed_and_starts_nothing(camera):
    address, hub = camera
    for token in ("", "x", TOKEN + "x", TOKEN.upper()):
        with Page(address, token=token) as page:
            opcode, data = page.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE and int.from_bytes(data[:2], "big") == server.NO_KEY
    assert hub.phase == "waiting"


def test_a_socket_of_another_origin_is_refused_even_with_the_key(camera):
    address, hub = camera
    for origin in ("http://evil.example", "http://127.0.0.1:1", "http://localhost", "null", "file://", ""):
        options = {"suppress_origin": True} if not origin else {"origin": origin}
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Page(address, **options)
        assert refused.value.status_code == 403 and hub.phase == "waiting", origin


def test_a_foreign_host_name_is_refused(camera):
    address, _ = camera
    port = address.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", f"10.0.0.1:{port}", "localhost:x"):
        status, _, body = get(address, "/", {"Host": host})
        assert status == 403 and b"localhost only" in body, host
        with pytest.raises(websocket.WebSocketBadStatusException):
            Page(address, host=host, origin=f"http://{host}")


def test_a_tunnel_on_another_port_is_allowed(camera):
    address, _ = camera
    with Page(address, host="localhost:9999", origin="http://localhost:9999") as page:
        assert page.wait("hello")["classes"] == list(EMOTIONS)


def test_responses_are_not_cached_and_load_nothing_from_other_hosts(camera):
    address, _ = camera
    for path in ["/", *(f"/{name}" for name in server.PAGE if name), "/nothing", "/files/x", "/docs", "/openapi.json"]:
        status, headers, body = get(address, path)
        wanted = 200 if path.lstrip("/") in server.PAGE else 403 if path.startswith("/files") else 404
        assert status == wanted, path
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'self'")
        foreign = [word for word in (b"http:", b"https:", b"//cdn") if word in body.replace(b"http://www.w3.org", b"")]
        assert wanted != 200 or path.endswith("camera.js") or not foreign, (path, foreign)


# ---- images of the browser


def test_frames_from_the_page_are_predicted_and_only_logs_are_written(camera, folder, jpegs):
    address, hub = camera
    with Page(address) as page:
        hello = page.wait("hello")
        assert hello["from_browser"] and hello["phase"] == "running" and hello["size"] is None
        assert len(hello["colours"]) == 7 and set(hello["ranges"]) == set(server.messages.LIMITS)
        send_frames(page, jpegs[:20])
        page.feed(jpegs[20], 20 / 25)
        state = page.wait("state", lambda s: s["index"] == 20)
        assert state["time"] == pytest.approx(0.8) and state["manual"] == -1 and state["latency_ms"] > 0
        assert len(state["probs"]) == 7 and sum(state["smoothed"]) == pytest.approx(1, abs=1e-3)
        (face,) = state["boxes"]
        assert all(-0.2 < v < 1.2 for v in face["box"]) and face["box"][0] < face["box"][2]
        page.ask({"end": True})
        over = page.wait("over")
    assert not over["error"] and ["Frames logged", "21"] in over["facts"]
    assert {file["name"] for file in over["files"]} == {p.name for p in folder.iterdir() if p.name != ".lock"}
    assert {p.suffix for p in folder.iterdir() if p.name != ".lock"} == {".csv", ".json"}
    frames = read_frames(folder)
    assert frames.frame_index.tolist() == list(range(21)) and frames.time_sec[-1] == pytest.approx(0.8)
    assert read_session(folder)["size"] == [208, 160] and hub.result()["frames"] == 21


def test_an_invalid_image_is_answered_and_the_session_continues(camera, jpegs):
    address, _ = camera
    broken = bytes(8) + b"\xff\xd8\xff" + bytes(500)
    not_a_time = b"\xff" * 8 + jpegs[0]
    with Page(address) as page:
        send_frames(page, jpegs[:1])
        bad = {b"": "header", bytes(8): "header", bytes(9): "no JPEG", broken: "JPEG", not_a_time: "number"}
        for k, (data, why) in enumerate(bad.items()):
            page.socket.send_binary(data)
            answer = page.wait("ack")
            assert answer["ack"] and why in answer["error"]
            send_frames(page, jpegs[k : k + 1], start=k + 1.0)


def test_a_too_large_message_closes_the_socket_but_not_the_session(camera, jpegs):
    address, hub = camera
    with Page(address) as page:
        send_frames(page, jpegs[:1])
        with pytest.raises((websocket.WebSocketException, OSError, AssertionError)):
            page.socket.send_binary(bytes(5_000_000))
            page.wait("ack", seconds=5)
    with Page(address) as page:
        assert page.wait("hello")["size"] == [208, 160]
        send_frames(page, jpegs[1:3], start=2.0)
    assert hub.phase == "running"


def test_one_page_is_the_camera_and_another_can_watch_and_control(camera, jpegs):
    address, _ = camera
    with Page(address) as first, Page(address) as second:
        send_frames(first, jpegs[:2])
        second.feed(jpegs[2], 0.1)
        assert "another page is this session's camera" in second.wait("ack")["error"]
        second.ask({"label": 3})
        assert first.wait("setting", lambda s: s["label"] == 3)
        first.feed(jpegs[3], 0.2)
        assert second.wait("state", lambda s: s["manual"] == 3)
        first.socket.close()
        for _ in range(100):  # until the server has noticed
            second.feed(jpegs[4], 0.3)
            if "error" not in second.wait("ack"):
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the camera was not released")


def test_a_reloaded_page_shows_the_current_session(camera, jpegs):
    address, _ = camera
    with Page(address) as page:
        send_frames(page, jpegs[:3])
        page.ask({"smoothing": {"vote_window": 33}})
        page.wait("setting", lambda s: s["smoothing"]["vote_window"] == 33)
    with Page(address) as page:
        assert page.wait("hello")["size"] == [208, 160]
        assert page.wait("setting")["smoothing"]["vote_window"] == 33
        assert page.wait("state")["index"] == 2


# ---- commands


def test_commands_change_the_setting_and_the_logs(camera, folder, jpegs):
    address, _ = camera
    with Page(address) as page:
        send_frames(page, jpegs[:2])
        commands = [
            ({"label": 3}, lambda s: s["label"] == 3),
            ({"smoothing": {"ema_alpha": 0.25, "vote_min_count": 2}}, lambda s: s["smoothing"]["ema_alpha"] == 0.25),
            ({"smoothing": {"vote_window": 1e9}}, lambda s: s["smoothing"]["vote_window"] == 101),
            ({"overlay": False}, lambda s: s["overlay"] is False),
            ({"key": "]"}, lambda s: s["smoothing"]["ema_alpha"] == 0.3),
        ]
        for command, holds in commands:
            page.ask(command)
            page.wait("setting", holds)
        send_frames(page, jpegs[2:5], start=1.0)
        page.ask({"key": "5"})
        page.wait("setting", lambda s: s["label"] == 4)
        send_frames(page, jpegs[5:7], start=2.0)
        page.ask({"key": "c"})
        page.wait("setting", lambda s: s["label"] == -1)
        send_frames(page, jpegs[7:9], start=3.0)
        page.ask({"key": "q"})
        page.wait("over")
    assert read_frames(folder).manual.tolist() == [-1, -1, 3, 3, 3, 4, 4, -1, -1]
    rows = list(csv.DictReader((folder / session_files.EVENTS).open()))
    assert [(r["label"], r["start_frame"], r["end_frame"], r["source"]) for r in rows] == [
        ("Happy", "2", "4", "page"), ("Sad", "5", "6", "key")]  # fmt: skip
    thresholds = json.loads((folder / session_files.THRESHOLDS).read_text())
    assert thresholds == {"ema_alpha": 0.3, "hysteresis_delta": 0.08, "vote_window": 101, "vote_min_count": 2,
                     "show_emo_ratio": False}  # fmt: skip


def test_invalid_commands_are_answered_without_effect(camera, jpegs):
    address, hub = camera
    commands = (
        "", "no json", "[]", "3", "{}", '{"label": 1, "end": true}', '{"label": 7}', '{"label": -2}', '{"label": true}',
        '{"label": "1"}', '{"label": 1e400}', '{"smoothing": {"self": 1}}', '{"smoothing": {"alpha": 1}}',
        '{"smoothing": {"ema_alpha": "x"}}', '{"smoothing": {"ema_alpha": NaN}}', '{"smoothing": 3}', '{"overlay": 1}',
        '{"close": false}', '{"key": ""}', '{"key": "z"}', '{"key": "12"}', '{"end": false}', '{"nothing": 1}',
        "[" * 100_000,
    )  # fmt: skip
    with Page(address) as page:
        page.wait("setting")
        before = hub.session.controls.now
        for command in commands:
            page.ask(command)
            assert page.wait("error"), command[:50]
            assert hub.session.controls.now == before and not hub.session.controls.ended, command[:50]
        send_frames(page, jpegs[:1])


def test_ending_before_the_camera_starts_is_an_error(camera):
    address, hub = camera
    with Page(address) as page:
        page.wait("setting")
        page.ask({"end": True})
        over = page.wait("over")
    assert "no image came" in over["error"]
    with pytest.raises(DataError, match="no image came"):
        hub.result()


# ---- a file that the server plays


def test_a_file_is_played_with_previews_to_its_end(file, folder):
    address, hub = file
    with Page(address) as page:
        hello = page.wait("hello")
        assert not hello["from_browser"]
        states = [page.wait("state", lambda s: s["index"] >= 5)]
        page.feed(b"\xff\xd8\xff", 0.0)
        assert "come from the server" in page.wait("ack")["error"]
        over = page.wait("over")
    assert states[0]["skipped"] >= 0 and not over["error"] and ["Frames logged", "60"] in over["facts"]
    assert len(page.previews) >= 5
    picture = cv2.imdecode(np.frombuffer(page.previews[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (160, 208, 3)
    assert hub.result()["frames"] == 60 and len(read_frames(folder).frame_index) == 60


def test_a_wide_preview_is_resized(at_rest):
    wide = cv2.resize(at_rest[0], (1600, 900))
    picture = cv2.imdecode(np.frombuffer(messages.preview(wide), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (360, 640, 3)


def test_downloads_are_exactly_the_logs(file, folder):
    address, _ = file
    with Page(address) as page:
        page.wait("state")
        status, _, body = get(address, f"/files/{session_files.PER_FRAME}?token={TOKEN}")
        assert status == 409 and b"end the session first" in body
        over = page.wait("over")
    names = {file["name"] for file in over["files"]}
    assert names == set(session_files.LOGS) - {session_files.RECORDED, session_files.ANNOTATED_LIST}
    for name in names:
        status, headers, body = get(address, f"/files/{name}?token={TOKEN}")
        assert status == 200 and body == (folder / name).read_bytes()
        assert headers["content-disposition"] == f'attachment; filename="{name}"'
    status, headers, body = get(address, f"/files/{server.ARCHIVE}?token={TOKEN}")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert status == 200 and archive.testzip() is None
        assert {name.partition("/")[2] for name in archive.namelist()} == names
        assert archive.read(f"session/{session_files.PER_FRAME}") == (folder / session_files.PER_FRAME).read_bytes()


def test_other_files_and_requests_without_the_key_are_refused(file, folder):
    address, _ = file
    (folder.parent / "beside.txt").write_text("not for you")
    names = ("../beside.txt", "..%2Fbeside.txt", "%2e%2e%2fbeside.txt", "....//beside.txt", "%2Fetc%2Fpasswd", ".lock",
             "..%5Cbeside.txt", "per_frame.csv%00", "per_frame.csv/", "..")  # fmt: skip
    with Page(address) as page:
        page.wait("state")
        page.ask({"end": True})
        page.wait("over")
    for name in names:
        status, _, body = get(address, f"/files/{name}?token={TOKEN}")
        assert status == 404 and b"not for you" not in body and b"root:" not in body, name
    (folder / session_files.EVENTS).unlink()
    (folder / session_files.EVENTS).symlink_to(folder.parent / "beside.txt")
    status, _, body = get(address, f"/files/{session_files.EVENTS}?token={TOKEN}")
    assert status == 404 and b"not for you" not in body, "a link"
    for token in ("", "?token=", "?token=x", f"?token={TOKEN}x"):
        for name in (session_files.PER_FRAME, server.ARCHIVE, "nothing"):
            status, _, body = get(address, f"/files/{name}{token}")
            assert status == 403 and b"key" in body


# ---- errors and the end


def test_an_error_is_shown_on_the_page_and_raised(camera):
    def broken():
        raise FerError("the store is gone: put it back")

    address, hub = camera
    hub.on_start = broken
    with Page(address) as page:
        assert page.wait("over")["error"] == "the store is gone: put it back"
        page.ask({"label": 1})
        assert "is over" in page.wait("error")
    with Page(address) as page:  # a later page gets it too
        assert page.wait("hello")["phase"] == "over" and page.wait("over")["error"]
    with pytest.raises(FerError, match="the store is gone"):
        hub.result()


def test_an_error_in_the_page_closes_the_logs(file, folder, monkeypatch):
    address, hub = file
    original = messages.state

    def broken(view, skipped):
        if view.index > 5:
            raise RuntimeError("broken state")
        return original(view, skipped)

    monkeypatch.setattr(messages, "state", broken)
    with Page(address) as page:
        assert "RuntimeError: broken state" in page.wait("over")["error"]
    assert hub.session.ended and read_session(folder)["ended"]
    assert 5 < len(read_frames(folder).frame_index) == read_session(folder)["frames"] < 60
    with pytest.raises(RuntimeError, match="broken state"):
        hub.result()


def test_a_page_can_close_the_program(camera, folder, jpegs):
    address, hub = camera
    with Page(address) as page:
        send_frames(page, jpegs[:3])
        page.ask({"close": True})
        opcode = None
        while opcode != websocket.ABNF.OPCODE_CLOSE:
            opcode, data = page.socket.recv_data()
    assert int.from_bytes(data[:2], "big") == 1012  # the close code that the page expects
    hub.finish()
    assert len(read_frames(folder).frame_index) == 3


def test_closing_the_server_ends_the_session_with_complete_logs(folder, jpegs):
    p = LiveParams(source="browser", **PLAIN)
    with serve_page(lambda source: open_session(p, folder, source), True) as (address, hub):
        with Page(address) as page:
            send_frames(page, jpegs[:3])
    assert hub.phase == "over" and hub.result()["frames"] == 3
    assert read_session(folder)["end"] == "it was over or ended by hand"


def test_a_page_that_nobody_opened_is_an_error(folder):
    p = LiveParams(source="browser", **PLAIN)
    with serve_page(lambda source: open_session(p, folder, source), True) as (_, hub):
        pass
    with pytest.raises(FerError, match="nobody opened the page"):
        hub.result()


def test_a_port_in_use_is_reported_before_the_session_opens(folder):
    listening = server.listen(0)
    port = listening.getsockname()[1]
    assert listening.getsockname()[0] == "127.0.0.1"
    with listening, pytest.raises(FerError, match=f"port {port} is in use"):
        serve(LiveParams(source="browser", **PLAIN), folder, port, False)
    assert not folder.exists()


def test_recordings_are_offered_but_not_in_the_archive(folder, jpegs):
    p = LiveParams(source="browser", record="raw", **PLAIN)
    with serve_page(lambda source: open_session(p, folder, source), True) as (address, _):
        with Page(address) as page:
            send_frames(page, jpegs[:3])
            page.ask({"end": True})
            names = {file["name"] for file in page.wait("over")["files"]}
        assert {session_files.RAW_VIDEO, session_files.RECORDED} <= names
        status, _, body = get(address, f"/files/{server.ARCHIVE}?token={TOKEN}")
        assert status == 200 and b"raw.mkv" not in body and b"recorded.csv" in body
