"""Prediction: images in, calibrated class probabilities out, through the bundle's own face contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.prior_shift import prior_correction
from fer_lib.datasets.provenance import training_text
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError, FerError
from fer_lib.faces.contract import Box, FaceContract
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import YuNet, get_detector
from fer_lib.models.bundle import ONNX, Bundle, read_bundle
from fer_lib.models.ensemble_folder import Ensemble, is_ensemble, read_ensemble
from fer_lib.models.logits import logits_function

BATCH = 64
LICENCE = "LICENSE"  # a file beside weights that have terms of their own; its first line is shown


@dataclass(frozen=True)
class FacePrediction:
    """One face: box (top, left, bottom, right) in pixels, detector score (None: not detected), probabilities."""

    box: Box
    score: float | None
    label: str
    confidence: float
    probs: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


class Predictor:
    """A bundle or an ensemble, ready to predict.

    ``detector``: auto, yunet or haar, made when first needed.  ``runtime``: onnx, torch, or auto (ONNX where the bundle
    holds it).  ``target_prior``: how frequent the classes are where it is used, 7 shares; None leaves the training's.
    An ensemble has no training prior and no temperature: its probabilities are not calibrated.
    """

    def __init__(
        self,
        bundle: Bundle | Ensemble,
        detector: Literal["auto", "yunet", "haar"] = "auto",
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        target_prior: Sequence[float] | None = None,
    ):
        if runtime not in ("auto", "onnx", "torch"):
            raise FerError(f"runtime {runtime!r} is unknown: use auto, onnx or torch")
        members = bundle.bundles if isinstance(bundle, Ensemble) else [bundle]
        runtimes = [("onnx" if b.has(ONNX) else "torch") if runtime == "auto" else runtime for b in members]
        self.bundle, self.name, self.runtime = bundle, bundle.name, runtimes[0]
        self._detector_name = detector
        self._correction = np.zeros(NUM_CLASSES) if bundle.logit_bias is None else bundle.logit_bias.copy()
        if target_prior is not None:
            if isinstance(bundle, Ensemble):
                raise FerError(
                    f"{self.name} is an ensemble, which has no training prior: predict without a target prior"
                )
            self._correction += prior_correction(bundle.meta["training_prior"], target_prior)
        self._members = [(b.contract, logits_function(b, r)) for b, r in zip(members, runtimes, strict=True)]

    def describe(self) -> str:
        """Which model predicts and what it was trained on, in one line."""
        return f"{self.name} ({training_text(self.bundle.training_data)})"

    def terms(self) -> str:
        """The first line of the licence beside the weights, and its path; "" where there is none."""
        file = self.bundle.path / LICENCE
        if not file.is_file():
            return ""
        with open(file, encoding="utf-8", errors="replace") as stream:
            line = stream.readline(500)
        return f"{''.join(filter(str.isprintable, line))} ({file})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    @cached_property
    def detector(self):
        return get_detector(self._detector_name)

    @cached_property
    def _aligner(self):
        """YuNet, whatever finds the boxes: only it gives the points by which the training faces were turned."""
        return self.detector if isinstance(self.detector, YuNet) else get_detector("yunet")

    def logits(
        self,
        images: Sequence[np.ndarray],
        boxes: Sequence[Box | None] | None = None,
        points: Sequence[np.ndarray | None] | None = None,
    ) -> np.ndarray:
        """Logits before temperature, float64 [N,7], of uint8 RGB images [H,W,3].

        ``boxes`` (top, left, bottom, right) and ``points`` [5,2] belong to the image of the same position; without a
        box the whole image is the face.  A contract with ``align: eyes`` has missing points found by YuNet, as
        packing does.  Raises DataError, naming the position, for an image of another kind, FerError where YuNet is
        wanted and can't be had.
        """
        images = list(images)
        boxes = [None] * len(images) if boxes is None else list(boxes)
        points = [None] * len(images) if points is None else list(points)
        if not len(images) == len(boxes) == len(points):
            raise DataError(f"{len(images)} images, {len(boxes)} boxes, {len(points)} point sets: they must match")
        for i, image in enumerate(images):
            check_image(image, f"image {i}")
        logits = [self._logits(contract, run, images, boxes, points) for contract, run in self._members]
        if not isinstance(self.bundle, Ensemble) or not images:
            return logits[0]
        from fer_lib.models.ensemble import combine  # imports torch

        return combine(logits, self.bundle.weights, self.bundle.space)

    def _logits(self, contract: FaceContract, run: Callable, images: list, boxes: list, points: list) -> np.ndarray:
        """The logits of one bundle with this contract."""
        if contract.align == "eyes":
            points = [
                find_points(image, box, self._aligner) if p is None else p
                for image, box, p in zip(images, boxes, points, strict=True)
            ]
        out = np.empty((len(images), NUM_CLASSES), dtype=np.float64)
        items = list(zip(images, boxes, points, strict=True))
        for start in range(0, len(items), BATCH):
            faces = contract.batch(items[start : start + BATCH])
            out[start : start + len(faces)] = run(faces)
        return out

    def probs(
        self,
        images: Sequence[np.ndarray],
        boxes: Sequence[Box | None] | None = None,
        points: Sequence[np.ndarray | None] | None = None,
    ) -> np.ndarray:
        """Calibrated probabilities, float64 [N,7]: softmax of scaled logits with bias and prior correction."""
        logits = self.logits(images, boxes, points)
        temperature = self.bundle.temperature
        scaled = logits if temperature is None else temperature.apply(logits)
        return softmax(scaled + self._correction) if len(logits) else logits

    def predict(
        self, image: Path | str | bytes | np.ndarray, whole: bool = False, boxes: Sequence[Box] | None = None
    ) -> list[FacePrediction]:
        """The faces found in an image (path, encoded bytes or uint8 RGB [H,W,3]), largest first; [] without any.

        ``whole`` takes the image as one face, ``boxes`` takes these faces in this order; neither asks a detector.
        Raises DataError when the image can't be read.
        """
        if isinstance(image, np.ndarray):
            check_image(image, "the image")
        else:
            image = decode(image)
        if whole:
            boxes, scores, points = [None], [None], [None]
        elif boxes is not None:
            scores, points = [None] * len(boxes), None
        else:
            faces = self.detector.detect(image)
            boxes, scores, points = ([getattr(f, k) for f in faces] for k in ("box", "score", "points"))
        probs = self.probs([image] * len(boxes), boxes, points)
        everything = (0.0, 0.0, float(image.shape[0]), float(image.shape[1]))
        return [_prediction(b or everything, s, p) for b, s, p in zip(boxes, scores, probs, strict=True)]


def open_predictor(folder: Path, **options: Any) -> Predictor:
    """The predictor of the bundle or the ensemble in ``folder``; ``options`` as for :class:`Predictor`."""
    return Predictor(read_ensemble(folder) if is_ensemble(folder) else read_bundle(folder), **options)


def check_image(image: Any, what: str) -> None:
    """DataError unless `image` is uint8 RGB [H,W,3] with at least one pixel."""
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        actual = f"{image.dtype} {list(image.shape)}" if is_array else type(image).__name__
        raise DataError(f"{what}: expected a uint8 RGB array [H,W,3] with values 0..255, got {actual}")


def annotate(image: np.ndarray, predictions: Sequence[FacePrediction]) -> np.ndarray:
    """A copy of uint8 RGB `image` with a box, the label and its probability on each face."""
    out = np.ascontiguousarray(image).copy()
    scale = max(0.4, min(out.shape[:2]) / 700)
    width = max(1, round(2 * scale))
    for face in predictions:
        top, left, bottom, right = (round(v) for v in face.box)
        cv2.rectangle(out, (left, top), (right - 1, bottom - 1), (40, 220, 60), width)
        text = f"{face.label} {face.confidence:.2f}"
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, width)
        x = max(0, min(left, out.shape[1] - w))
        y = top - base if top - base - h >= 0 else min(bottom + h + base, out.shape[0] - base)
        cv2.rectangle(out, (x, y - h - 2), (x + w, y + base), (40, 220, 60), -1)
        cv2.putText(out, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), width, cv2.LINE_AA)
    return out


def _prediction(box: Box, score: float | None, probs: np.ndarray) -> FacePrediction:
    best = int(probs.argmax())
    return FacePrediction(
        tuple(float(v) for v in box),
        None if score is None else float(score),
        EMOTIONS[best],
        float(probs[best]),
        {name: float(p) for name, p in zip(EMOTIONS, probs, strict=True)},
    )
