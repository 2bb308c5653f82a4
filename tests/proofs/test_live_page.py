"""``fer live --web`` as a person uses it: a browser, a camera, keys, clicks, sliders, downloads, and its end."""

import csv
import json
import signal
import time
import zipfile
from urllib.parse import urlsplit

import browser
import live_page
import pytest
from PIL import Image, ImageSequence

from fer_lib.emotions import EMOTIONS
from fer_lib.live import session_files
from fer_lib.live.session_files import read_frames, read_session

pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="no chromium here: apt-get install chromium")
SETTINGS = "JSON.stringify([...document.querySelectorAll('#sliders input')].map(i => Number(i.value)))"


@pytest.fixture(scope="module")
def clip(shared_data, tmp_path_factory):
    """A filmed face as a fake camera."""
    import numpy as np

    with Image.open(shared_data / "media" / "head-pose-face-detection-male.gif") as gif:
        images = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    return live_page.write_camera(tmp_path_factory.mktemp("camera") / "clip.mjpeg", images, 12.5)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def live(home, tmp_path):
    with live_page.live(home, tmp_path / "session", "--detect-every", "1") as running:
        yield running


@pytest.fixture
def tab(clip):
    with browser.Browser(*live_page.fake_camera(clip)) as found:
        found.call("Network.enable")
        found.call("Runtime.enable")
        found.call("Log.enable")
        yield found


def value(tab, name):
    """Of an element with this id: its text."""
    return tab.evaluate(f"document.getElementById('{name}').textContent")


def pressed_label(tab):
    return tab.evaluate("(document.querySelector('#labels [aria-pressed=true] .name') || {}).textContent || ''")


def rows(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def end_by_page(tab):
    tab.press("q", "q")
    tab.wait("document.getElementById('ask').open", 10)
    tab.evaluate("document.getElementById('ask-yes').click()")
    tab.wait("!document.getElementById('over').hidden", 60)


def test_a_person_labels_moves_a_slider_and_finds_it_all_in_the_logs(live, tab, tmp_path):
    live_page.open_page(tab, live.address)
    assert "not stored" in value(tab, "privacy") and value(tab, "shown") == "–"
    live_page.start_camera(tab)
    tab.wait(f"{json.dumps(EMOTIONS)}.includes(document.getElementById('shown').textContent)", 60)
    assert value(tab, "votes").endswith("8 needed")

    tab.press("4", "4")
    tab.wait("document.querySelector('#labels [aria-pressed=true]')", 10)
    assert pressed_label(tab) == "Happy"
    time.sleep(1.0)
    tab.evaluate("[...document.querySelectorAll('#labels button')].find(b => b.textContent.includes('Sad')).click()")
    tab.wait("document.querySelector('#labels [aria-pressed=true]').textContent.includes('Sad')", 10)
    time.sleep(1.0)
    tab.press("c", "c")
    tab.wait("!document.querySelector('#labels [aria-pressed=true]')", 10)
    for key in ("]", "=", "b", "n"):
        tab.press(key, key)
    tab.wait(f"{SETTINGS} == '[0.75,0.1,17,7]'", 10)
    tab.evaluate("(i => { i.value = 0.4; i.dispatchEvent(new Event('input')); })(document.getElementById('ema_alpha'))")
    tab.press("O", "O")  # Caps Lock is on
    tab.wait("!document.getElementById('overlay-on').checked", 10)
    time.sleep(1.0)
    tab.picture(tmp_path / "page.png")

    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
    end_by_page(tab)
    assert not list(tab.evaluate("document.getElementById('over-error').textContent"))
    tab.evaluate("document.querySelector('#over-files a').click()")
    archive = tmp_path / "downloads" / "session.zip"
    until = time.monotonic() + 30
    while not archive.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None and f"session/{session_files.PER_FRAME}" in found.namelist()

    folder = live.folder
    frames = read_frames(folder)
    assert len(frames.frame_index) > 60 and (frames.pred >= 0).mean() > 0.5
    seen = [int(k) for k, before in zip(frames.manual, [-9, *frames.manual], strict=False) if k != before]
    assert [k for k in seen if k >= 0] == [EMOTIONS.index("Happy"), EMOTIONS.index("Sad")]
    events = [(row["label"], row["source"]) for row in rows(folder / session_files.EVENTS)]
    assert events == [("Happy", "key"), ("Sad", "page")]
    settings = {"ema_alpha": 0.4, "hysteresis_delta": 0.1, "vote_window": 17, "vote_min_count": 7}
    assert json.loads((folder / session_files.THRESHOLDS).read_text()) == settings | {"show_emo_ratio": False}
    assert not [file.name for file in folder.iterdir() if file.suffix not in (".csv", ".json") and file.name != ".lock"]
    about = read_session(folder)
    assert about["input"] == "browser camera" and about["latency_ms"]["p50"] < 500

    asked = [event["request"]["url"] for name, event in tab.events if name == "Network.requestWillBeSent"]
    asked += [event["url"] for name, event in tab.events if name == "Network.webSocketCreated"]
    assert len(asked) >= 6 and {urlsplit(url).hostname for url in asked if not url.startswith("blob:")} == {"127.0.0.1"}
    wrong = [event for name, event in tab.events if name in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not wrong, wrong

    tab.evaluate("document.getElementById('close').click()")
    assert live.process.wait(timeout=60) == 0 and "frames/s" in live.said


def focused(tab):
    """What has the focus, in a word: its id, or its text."""
    return tab.evaluate("(e => e === document.body ? '' : e.id || e.textContent.trim())(document.activeElement)")


def test_everything_can_be_done_by_keyboard_alone(live, tab):
    live_page.open_page(tab, live.address)
    tab.press("Tab")
    assert focused(tab) == "Skip to the labels"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    walk = []
    for _ in range(30):
        tab.press("Tab")
        walk.append(focused(tab))
        assert not walk[-1] or tab.evaluate(outline) == "solid", f"no visible focus on {walk[-1]}"
    wanted = ["end", "start", "overlay-on", "mirror", "shortcuts"]
    wanted += [*(f"{k + 1}{name}" for k, name in enumerate(EMOTIONS)), "cNone"]
    wanted += ["ema_alpha", "hysteresis_delta", "vote_window", "vote_min_count", "Keys"]
    assert [w for w in walk if w in wanted][: len(wanted)] == wanted
    while focused(tab) != "start":
        tab.press("Tab")
    tab.press("Enter", "\r")
    tab.wait("document.querySelector('#bars .number').textContent.includes('%')", 60)
    while focused(tab) != "2Disgust":
        tab.press("Tab")
    tab.press(" ", " ")
    tab.wait("document.querySelector('#labels [aria-pressed=true]')", 10)
    assert pressed_label(tab) == "Disgust"
    while focused(tab) != "vote_window":
        tab.press("Tab")
    tab.press("ArrowRight")
    tab.wait(f"JSON.parse({SETTINGS})[2] == 16", 10)
    while focused(tab) != "shortcuts":
        tab.press("Tab", modifiers=8)
    tab.press(" ", " ")
    tab.press("5", "5")
    time.sleep(0.5)
    assert pressed_label(tab) == "Disgust", "single keys do nothing once they are turned off"
    tab.press("Tab", modifiers=8)
    while focused(tab) != "end":
        tab.press("Tab", modifiers=8)
    tab.press("Enter", "\r")
    tab.wait("document.getElementById('ask').open", 10)
    tab.press("Escape")
    tab.wait("!document.getElementById('ask').open", 10)
    assert focused(tab) == "end"
    tab.press("Enter", "\r")
    tab.press("Tab")
    assert focused(tab) == "ask-yes"
    tab.press("Enter", "\r")
    tab.wait("!document.getElementById('over').hidden", 60)
    assert focused(tab) == "over"
    tab.press("Tab")
    assert "zip" in focused(tab)
    names = tab.evaluate(
        "[...document.querySelectorAll('button, input, select, a, canvas:not([aria-hidden])')].filter(e => !("
        "e.innerText || e.labels?.[0]?.innerText || e.getAttribute('aria-label'))).map(e => e.id || e.outerHTML)"
    )
    assert [name for name in names if tab.evaluate(f"!!document.getElementById('{name}')?.offsetParent")] == []


@pytest.mark.parametrize("width, height", [(1280, 800), (400, 800)])
def test_nothing_is_cut_off(live, tab, width, height):
    live_page.open_page(tab, live.address, (width, height))
    live_page.start_camera(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelector('details').open = true")
    end_by_page(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_ctrl_c_closes_the_logs_and_the_page_says_so(live, tab):
    live_page.open_page(tab, live.address)
    live_page.start_camera(tab)
    time.sleep(1.0)
    assert live.end(signal.SIGINT) == 0, live.said
    tab.wait("document.getElementById('notices').textContent.includes('The program has ended')", 30)
    about, frames = read_session(live.folder), read_frames(live.folder)
    assert about["end"] == "it was over or ended by hand" and about["frames"] == len(frames.frame_index)


def test_sigterm_is_as_good_as_ctrl_c(live, tab):
    live_page.open_page(tab, live.address)
    live_page.start_camera(tab)
    assert live.end(signal.SIGTERM) == 0, live.said
    assert read_session(live.folder)["ended"]


def test_trouble_is_said_with_the_next_step(live):
    with browser.Browser() as tab:  # without a camera
        tab.call("Page.navigate", url=live.address.partition("#")[0])
        tab.wait("document.getElementById('notices')?.textContent.includes('lacks its key')", 30)
        tab.call("Page.navigate", url="about:blank")
        tab.wait("location.href == 'about:blank'", 10)
        live_page.open_page(tab, live.address)
        tab.evaluate("document.getElementById('start').click()")
        tab.wait("document.getElementById('notices').textContent.includes('no camera here')", 30)
        live.process.kill()
        tab.wait("document.getElementById('notices').textContent.includes('connection was lost')", 30)


def test_a_lost_connection_is_taken_up_again(live, tab):
    live_page.open_page(tab, live.address)
    live_page.start_camera(tab)
    tab.press("3", "3")
    tab.wait("document.querySelector('#labels [aria-pressed=true]')", 10)
    tab.call("Page.reload")
    tab.wait("document.getElementById('link')?.textContent == 'Connected'", 30)
    tab.wait("document.querySelector('#labels [aria-pressed=true]')", 10)
    assert pressed_label(tab) == "Fear"
    live_page.start_camera(tab)
    time.sleep(1.0)
    end_by_page(tab)
    assert not value(tab, "over-error")
    assert len(read_frames(live.folder).frame_index) > 10


def test_a_file_of_the_server_is_shown_and_ends_by_itself(home, tmp_path, at_rest_clip):
    with live_page.live(home, tmp_path / "session", "--source", str(at_rest_clip)) as live, browser.Browser() as tab:
        live_page.open_page(tab, live.address)
        tab.wait("!document.getElementById('preview').hidden && document.getElementById('preview').width == 640", 60)
        tab.wait("!document.getElementById('over').hidden", 120)
        assert read_session(live.folder)["frames"] == 60


@pytest.fixture
def at_rest_clip(tmp_path):
    import cv2

    from fer_lib.live.synthetic_session import FPS, Moment, render_frames

    images = render_frames(1337, [Moment(6, 0.0, -1)] * 60)[0]
    file = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (832, 640))
    for image in images:
        video.write(cv2.resize(image[..., ::-1], (832, 640)))
    video.release()
    return file
