"""Fixtures: a short video of a drawn neutral face that every detector finds, and the path of YuNet's weights."""

import numpy as np
import pytest
from live_sessions import write_video

from fer_lib.live.synthetic_session import Moment, render_frames


@pytest.fixture(scope="session")
def at_rest():
    """40 images [160, 208, 3] of a drawn neutral face, back and forth over poses that Haar detects too."""
    images = render_frames(1337, [Moment(6, 0.0, -1)] * 8)[0]
    return (images + images[::-1]) * 2 + images


@pytest.fixture(scope="session")
def clip(at_rest, tmp_path_factory):
    """60 lossless frames: 25 with a face, 10 without, 25 with it again."""
    bare = np.full_like(at_rest[0], 96)
    images = at_rest[:25] + [bare] * 10 + at_rest[:25]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", images)


@pytest.fixture(scope="session")
def yunet(shared_data):
    return shared_data / "models" / "face_detection_yunet_2023mar.onnx"
