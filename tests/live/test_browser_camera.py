"""Frames of a browser: only the latest waits, times follow the browser's clock, invalid bytes are refused."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fer_lib.errors import DataError
from fer_lib.live.web import browser_camera
from fer_lib.live.web.browser_camera import BrowserSource


def jpeg(value=0, size=(64, 48), kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(stream, kind, quality=95)
    return stream.getvalue()


def read_each(source, feeds):
    """The frames read of ``feeds`` [(jpeg, at)], each sent after the one before was read."""
    frames, result = iter(source), []
    for data, at in feeds:
        assert source.feed(data, at)
        result.append(next(frames))
    return result


def test_frames_are_read_in_the_order_they_were_sent():
    source = BrowserSource()
    frames = read_each(source, [(jpeg(10), 100.0), (jpeg(200), 100.04), (jpeg(90), 100.08)])
    assert [p.index for p in frames] == [0, 1, 2]
    assert [round(p.time, 6) for p in frames] == [0.0, 0.04, 0.08]
    assert [int(p.image.mean().round()) for p in frames] == [10, 200, 90]
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image.dtype == np.uint8
    assert all(0 <= time.perf_counter() - p.captured_at < 5 for p in frames)
    assert source.size == source.current_size == (64, 48)
    assert source.is_camera and not source.paced and not source.failure


def test_only_the_latest_frame_waits_and_replaced_frames_count_as_dropped():
    source = BrowserSource()
    frames = iter(source)
    source.feed(jpeg(), 0.0)
    next(frames)
    for k in range(1, 6):
        source.feed(jpeg(40 * k), k / 10)
    latest = next(frames)
    assert latest.index == 5 and latest.time == pytest.approx(0.5) and source.dropped == 4


def test_frames_before_first_read_are_not_dropped():
    source = BrowserSource()
    for k in range(5):
        source.feed(jpeg(), 50.0 + k)
    first = next(iter(source))
    assert (first.index, first.time, source.dropped) == (0, 0.0, 0)


def test_time_increases_after_a_page_reload():
    source = BrowserSource()
    times = [p.time for p in read_each(source, [(jpeg(), t) for t in (500.0, 500.5, 3.0, 3.1, 3.1)])]
    assert all(b > a for a, b in zip(times, times[1:], strict=False))
    assert times[:2] == [0.0, 0.5] and times[2] < 5.0  # by the server's clock across the gap
    assert times[3] - times[2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "no JPEG"),
        (b"GET / HTTP/1.1", "no JPEG"),
        (jpeg(kind="PNG"), "no JPEG"),
        (jpeg()[:200], "broken or truncated"),
        (b"\xff\xd8\xff" + bytes(1000), "JPEG"),
        (b"\xff\xd8\xff" + bytes(browser_camera.MAX_BYTES), "above the cap"),
        (jpeg(size=(32, 48)), "has one size"),
    ],
)
def test_invalid_bytes_are_refused_without_effect(data, why):
    source = BrowserSource()
    frames = iter(source)
    source.feed(jpeg(7), 1.0)
    next(frames)
    with pytest.raises(DataError, match=why):
        source.feed(data, 1.1)
    source.feed(jpeg(9), 1.2)
    assert next(frames).index == 1 and source.dropped == 0


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(browser_camera, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="above the cap of 100 pixels"):
        BrowserSource().feed(jpeg(), 0.0)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -float("inf")])
def test_a_time_that_is_not_finite_is_refused(at):
    with pytest.raises(DataError, match="number of seconds"):
        BrowserSource().feed(jpeg(), at)


def test_closing_wakes_a_waiting_reader():
    source, ended = BrowserSource(), []
    reader = threading.Thread(target=lambda: ended.append(list(source)))
    reader.start()
    source.close()
    source.close()
    reader.join(10)
    assert ended == [[]]
    assert source.feed(jpeg(), 0.0) is False


def test_size_waits_for_the_first_frame():
    source, sizes = BrowserSource(), []
    reader = threading.Thread(target=lambda: sizes.append(source.size))
    reader.start()
    time.sleep(0.05)
    assert not sizes and source.current_size is None
    source.feed(jpeg(size=(80, 60)), 0.0)
    reader.join(10)
    assert sizes == [(80, 60)]


def test_closing_before_the_first_frame_names_the_next_step():
    source = BrowserSource()
    source.close()
    with pytest.raises(DataError, match="start the camera on the page"):
        _ = source.size


def test_feeding_does_not_wait_for_a_reader():
    source, data = BrowserSource(), jpeg(size=(640, 480))
    start = time.perf_counter()
    for k in range(50):
        source.feed(data, k / 30)
    assert time.perf_counter() - start < 10  # nobody reads; a bounded queue would block
