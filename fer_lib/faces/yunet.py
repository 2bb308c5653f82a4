"""YuNet (Wu, Peng and Yu 2023), run by ONNX Runtime.  Its file, pinned by SHA-256, is part of this package.

OpenCV has the same net as ``FaceDetectorYN``; on one core ONNX Runtime takes two fifths of its time.  The decoding of
the net's outputs follows OpenCV's modules/objdetect/src/face_detect.cpp, and a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_lib.faces.align import eyes_level, transform_points
from fer_lib.faces.detector_interface import Face, fitted, largest_first, read_model
from fer_lib.onnx_session import open_session

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_URL = f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{YUNET_FILE}"
STRIDES = (8, 16, 32)  # pixels a cell of the net's three grids
KINDS = ("cls", "obj", "bbox", "kps")  # its outputs, each for every grid: cls_8, cls_16, ...
MAX_BOXES = 5000  # boxes that the suppression of overlaps begins with


class YuNet:
    """The detector, with five points a face.  One object serves any number of threads.

    On faces under some 150 pixels its five points hardly follow a tilted head: of a planted 30 degrees they show 3 on
    video and 12 on FER2013 crops.  So each face is run again, enlarged and turned by the tilt so far.  That leaves
    errors of 1 to 3 degrees and costs about 10 ms a look.
    """

    name = "yunet"
    # Pixels of the longer side; images are resized into this range because YuNet was trained on faces of 10 to 300.
    # Of 190 FER2013 crops it finds 148 at their own 48 pixels and 186 at 160; of 189 ExpW boxes 187 at 1024.
    SIDES = (160, 1024)
    LOOKS = 2  # closer looks at a face
    VIEW = 384  # side of such a look in pixels; the box fills half of it

    def __init__(self, file: Path | str | None = None, min_score: float = 0.6, nms: float = 0.3):
        """``file``: the ONNX file, by default the package's; FerError unless it is the pinned one.

        ``nms``: the overlap (intersection over union) from which two boxes show one face.
        """
        model = read_model(Path(file or Path(__file__).with_name(YUNET_FILE)), YUNET_URL, YUNET_SHA256)
        # one thread: the other cores classify the image before, or detect in other images
        self._net, self.min_score, self.nms = open_session(_of_any_size(model), threads=1), min_score, nms
        self._outputs = [f"{kind}_{stride}" for stride in STRIDES for kind in KINDS]

    def detect(self, image: np.ndarray, refine: bool = True) -> list[Face]:
        small, scale = fitted(image, *self.SIDES)
        faces = []
        for row in self._run(small):
            points = row[4:14].reshape(5, 2)
            if refine:
                # a face that is large enough in the resized image needs no more pixels
                source, up = (small, 1.0) if max(row[2:4]) >= self.VIEW / 2 else (image, scale)
                points = self._look_closer(source, points * up, max(row[2:4]) * up) / up
            x, y, width, height = (float(v) for v in row[:4] * scale)
            faces.append(Face((y, x, y + height, x + width), float(row[14]), (points * scale).astype(np.float32)))
        return largest_first(faces, image)

    def _run(self, image: np.ndarray) -> np.ndarray:
        """float32 [n, 15]: x, y, width, height, five (x, y), score."""
        blob = cv2.dnn.blobFromImage(_padded(image), swapRB=True)  # float32 BGR [1, 3, H, W], 0..255
        outputs = self._net.run(self._outputs, {"input": blob})
        grids = [outputs[i : i + len(KINDS)] for i in range(0, len(outputs), len(KINDS))]
        rows = np.concatenate(
            [
                _decoded(*(out[0] for out in grid), stride, blob.shape[3] // stride, self.min_score)
                for stride, grid in zip(STRIDES, grids, strict=True)
            ]
        )
        if len(rows) < 2:
            return rows
        # whole pixels, as OpenCV does, so that the same boxes are kept
        indices = cv2.dnn.NMSBoxes(np.trunc(rows[:, :4]).tolist(), rows[:, 14].tolist(), 0.0, self.nms, top_k=MAX_BOXES)
        return rows[np.asarray(indices, np.intp).ravel()]

    def _look_closer(self, image: np.ndarray, points: np.ndarray, longer: float) -> np.ndarray:
        """The points [5, 2] of one face, from enlarged and levelled views; ``longer``: its longer side in pixels."""
        side = max(1, round(2 * longer))
        for _ in range(self.LOOKS):
            left, top = points.mean(axis=0) - side / 2
            view, turn = eyes_level(image, points, (round(float(top)), round(float(left)), side))
            zoom = self.VIEW / len(view)
            method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
            rows = self._run(cv2.resize(view, (self.VIEW, self.VIEW), interpolation=method))
            candidates = rows[:, 4:14].reshape(-1, 5, 2)
            off = np.linalg.norm(candidates.mean(axis=1) - self.VIEW / 2, axis=1)
            if not len(off) or off.min() > self.VIEW / 4:
                break  # not detected again: the points so far are the result
            in_view = (candidates[off.argmin()] + 0.5) / zoom - 0.5
            points = transform_points(in_view, cv2.invertAffineTransform(turn))
        return points


def _of_any_size(model: bytes) -> bytes:
    """The net for images of any height and width; its file fixes both."""
    import onnx

    proto = onnx.load_from_string(model)
    for name, axis in (("height", 2), ("width", 3)):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in proto.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = f"cells_{output.name}"
    del proto.graph.value_info[:]
    return proto.SerializeToString()


def _padded(image: np.ndarray) -> np.ndarray:
    """The image, padded with black at the right and the bottom to whole cells of the coarsest grid."""
    down, right = (-side % STRIDES[-1] for side in image.shape[:2])
    return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT) if down or right else image


def _decoded(cls, obj, bbox, kps, stride: int, columns: int, min_score: float) -> np.ndarray:
    """The rows [n, 15] of one grid's cells that score at least ``min_score``, in the grid's order.

    ``cls`` and ``obj`` are float32 [cells, 1], ``bbox`` [cells, 4], ``kps`` [cells, 10].  A score is the geometric mean
    of class and object; a box is its middle's offset from the cell and its size's logarithm, a point its offset, all in
    cells.
    """
    scores = np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))[:, 0]
    cells = np.flatnonzero(scores >= min_score)
    corner = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    middle = (corner + bbox[cells, :2]) * stride
    size = np.exp(bbox[cells, 2:]) * stride
    points = (kps[cells].reshape(-1, 5, 2) + corner[:, None]) * stride
    rows = [middle - size / 2, size, points.reshape(-1, 10), scores[cells, None]]
    return np.concatenate(rows, axis=1).astype(np.float32)
