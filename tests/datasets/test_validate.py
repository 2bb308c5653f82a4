"""Validation reports every kind of problem, with examples."""

import cv2
import numpy as np
import pandas as pd
from watched_steps import counts, watched_steps

from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.validate import PROBLEMS, validate


def test_each_problem_is_found_once(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    (tmp_path / "text.png").write_text("no image")
    rows = [("a", "train", 0, "x"), ("a", "test", 0, "x"), ("b", "train", 1, "y"), ("b", "train", 2, "y"),
            ("c", "train", 3, "z"), ("c", "train", 3, "w"), ("gone", "train", 4, "u"),
            ("text", "train", 5, "v")]  # fmt: skip
    frame = pd.DataFrame([{"sample_id": str(i), "content_id": content, "source": "s", "record": str(i), "label": label,
                           "image_path": f"{name}.png", "split": split, "val_role": ""}
                          for i, (name, split, label, content) in enumerate(rows)])  # fmt: skip
    boxes = np.full((len(rows), 4), np.nan)
    boxes[4], boxes[5], boxes[0] = (0, 0, 21, 30), (0, 30, 10, 40), (0, 0, 20, 30)
    frame[list(BOX)] = boxes
    with watched_steps() as records:
        report, findings = validate(Manifest(frame, {"root": str(tmp_path)}))
    by_kind = {f.kind: (f.count, f.examples) for f in findings}
    assert set(by_kind) == set(PROBLEMS)
    assert {kind for kind, (count, _) in by_kind.items() if count != 1} == {"boxes_outside"}
    assert by_kind["missing"][1] == ("gone.png",) and "text.png" in by_kind["undecodable"][1][0]
    assert by_kind["boxes_outside"] == (2, ("c.png", "c.png")) and by_kind["boxes_beyond"][1] == ("c.png",)
    assert by_kind["across_splits"][1] == ("a.png (train, Angry) = a.png (test, Angry)",)
    assert by_kind["conflicting_labels"][1] == ("b.png (train, Disgust) = b.png (train, Fear)",)
    assert (report["rows_total"], report["rows_valid"], report["boxes_outside"]) == (8, 6, 2)
    assert report["decode"] == {"attempted": 4, "ok": 3, "fail": 1} and counts(records)[-1] == (5, 5)
    clean, none = validate(Manifest(frame[:1], {"root": str(tmp_path)}))
    assert none == [] and clean["rows_valid"] == 1
