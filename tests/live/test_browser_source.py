"""Pictures fed from elsewhere: bounded to the newest, timed by the feeder's clock, safe against any bytes."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fer_lib.errors import DataError
from fer_lib.live import browser_source
from fer_lib.live.browser_source import BrowserSource


def jpeg(value=0, size=(64, 48), kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(stream, kind, quality=95)
    return stream.getvalue()


def taken(source, feeds):
    """What a taker gets of ``feeds`` [(jpeg, at)], each fed once the one before was taken."""
    pictures, found = iter(source), []
    for data, at in feeds:
        assert source.feed(data, at)
        found.append(next(pictures))
    return found


def test_pictures_come_out_as_they_were_fed():
    source = BrowserSource()
    found = taken(source, [(jpeg(10), 100.0), (jpeg(200), 100.04), (jpeg(90), 100.08)])
    assert [p.index for p in found] == [0, 1, 2]
    assert [round(p.time, 6) for p in found] == [0.0, 0.04, 0.08]
    assert [int(p.image.mean().round()) for p in found] == [10, 200, 90]
    assert found[0].image.shape == (48, 64, 3) and found[0].image.dtype == np.uint8
    assert all(0 <= time.perf_counter() - p.taken < 5 for p in found)
    assert source.size == source.known_size == (64, 48) and source.is_camera and not source.paced and not source.trouble


def test_only_the_newest_waits_and_the_replaced_are_counted():
    source, pictures = BrowserSource(), None
    pictures = iter(source)
    source.feed(jpeg(), 0.0)
    next(pictures)
    for k in range(1, 6):
        source.feed(jpeg(40 * k), k / 10)
    newest = next(pictures)
    assert newest.index == 5 and newest.time == pytest.approx(0.5) and source.dropped == 4


def test_what_comes_before_anybody_takes_is_no_loss_and_time_begins_with_what_is_taken():
    source = BrowserSource()
    for k in range(5):
        source.feed(jpeg(), 50.0 + k)
    first = next(iter(source))
    assert (first.index, first.time, source.dropped) == (0, 0.0, 0)


def test_time_never_falls_when_the_page_is_loaded_anew():
    source = BrowserSource()
    times = [p.time for p in taken(source, [(jpeg(), t) for t in (500.0, 500.5, 3.0, 3.1, 3.1)])]
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
        (b"\xff\xd8\xff" + bytes(1000), "picture"),
        (b"\xff\xd8\xff" + bytes(browser_source.MAX_BYTES), "above the cap"),
        (jpeg(size=(32, 48)), "has one size"),
    ],
)
def test_bad_bytes_are_refused_and_change_nothing(data, why):
    source = BrowserSource()
    pictures = iter(source)
    source.feed(jpeg(7), 1.0)
    next(pictures)
    with pytest.raises(DataError, match=why):
        source.feed(data, 1.1)
    source.feed(jpeg(9), 1.2)
    assert next(pictures).index == 1 and source.dropped == 0


def test_a_bomb_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(browser_source, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="above the cap of 100 pixels"):
        BrowserSource().feed(jpeg(), 0.0)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -float("inf")])
def test_a_time_that_is_no_number_is_refused(at):
    with pytest.raises(DataError, match="number of seconds"):
        BrowserSource().feed(jpeg(), at)


def test_closing_wakes_whoever_waits():
    source, ended = BrowserSource(), []
    taker = threading.Thread(target=lambda: ended.append(list(source)))
    taker.start()
    source.close()
    source.close()
    taker.join(10)
    assert ended == [[]]
    assert source.feed(jpeg(), 0.0) is False


def test_the_size_waits_for_the_first_picture():
    source, found = BrowserSource(), []
    asker = threading.Thread(target=lambda: found.append(source.size))
    asker.start()
    time.sleep(0.05)
    assert not found and source.known_size is None
    source.feed(jpeg(size=(80, 60)), 0.0)
    asker.join(10)
    assert found == [(80, 60)]


def test_without_a_picture_the_end_says_what_to_do():
    source = BrowserSource()
    source.close()
    with pytest.raises(DataError, match="start the camera on the page"):
        _ = source.size


def test_feeding_waits_for_nobody():
    source, data = BrowserSource(), jpeg(size=(640, 480))
    began = time.perf_counter()
    for k in range(50):
        source.feed(data, k / 30)
    assert time.perf_counter() - began < 10  # nobody takes; a queue would stand still
