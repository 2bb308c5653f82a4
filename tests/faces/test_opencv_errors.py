"""An OpenCV error's reason is its own, whatever another thread met meanwhile."""

import cv2
import numpy as np
import pytest

from fer_lib.faces.opencv_errors import LONGEST, reason


def met(call) -> cv2.error:
    with pytest.raises(cv2.error) as caught:
        call()
    return caught.value


def test_a_reason_is_the_errors_own_and_not_that_of_the_last_one_raised():
    first = met(lambda: cv2.resize(np.zeros((0, 0, 3), np.uint8), (3, 3)))
    second = met(lambda: cv2.dnn.readNetFromCaffe("no_such_file.prototxt"))
    assert first.err == second.err, "OpenCV keeps it at the class: if this changes, reason() may read it"
    assert reason(first) == "!ssize.empty()"
    assert reason(second) == 'FAILED: fs.is_open(). Can\'t open "no_such_file.prototxt"'
    assert reason(cv2.error("a bad packet")) == "a bad packet"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("a bad cable"), "a bad cable"),
        (MemoryError(), "MemoryError"),
        (ValueError("two\n  lines"), "two lines"),
    ],
)
def test_other_errors_say_their_text_or_their_name(error, said):
    assert reason(error) == said


def test_a_long_reason_is_cut():
    assert len(reason(cv2.error("x" * 1000))) == LONGEST
