"""What the measurements share: results and goals, small fits, one core, files dropped from the system's cache."""

import json
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096  # bytes, or more
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def publish(name: str, result: dict | list, page: str) -> None:
    """``docs/results/<name>.json`` and the page rendered from it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(page)


def goal(what: str, found: float, wanted: float, form: str = ",.0f", at_most: bool = False) -> dict:
    """A goal beside what was measured; ``form`` formats both figures."""
    met = found <= wanted if at_most else found >= wanted
    sign = "<=" if at_most else ">="
    text = f"{what}: {found:{form}}, goal {sign} {wanted:{form}}: {'met' if met else 'MISSED'}"
    return {"goal": what, "found": found, "wanted": wanted, "met": met, "text": text}


def train_once(p, manifest, out: Path, work: Path, tests: dict, start: Path | None = None) -> dict:
    """Train a student into ``out``, unless that was done; its scores on each of ``tests``.

    ``p``: StudentParams; ``manifest``: its train and val rows; ``tests``: name -> manifest of test rows; ``start``: the
    fit it starts from.  Returns ``<test>_macro_f1``, ``<test>_accuracy`` and ``n_<test>`` for each test, ``seconds``,
    and ``applied`` (nested_applied_frac of the last epoch).
    """
    from fer_lib.calibration import metrics
    from fer_lib.datasets.facepack import open_or_build
    from fer_lib.datasets.openings import log_test_opening
    from fer_lib.models.bundle import read_bundle
    from fer_lib.models.inference import predict_logits
    from fer_lib.storage.atomic import write_json
    from fer_lib.training.student import train_student

    file, fields = out / "result.json", p.model_dump(mode="json")
    if file.is_file():
        result = json.loads(file.read_text())
        if result["params"] != fields:
            raise SystemExit(f"{out} was trained with other parameters: give another --work")
        return result
    applied = []
    for event in train_student(p, manifest, out, work / "cache", init_from=str(start / "best") if start else ""):
        if event["event"] == "epoch":
            applied.append(event["train"].get("nested_applied_frac"))
    best = read_bundle(out / "best")
    result = {"params": fields, "seconds": event["seconds"], "applied": applied[-1]}
    for name, rows in tests.items():
        log_test_opening(rows, {out.name: [best.weights_sha256]}, Path(sys.argv[0]).stem, work / "cache", out)
        pack = open_or_build(rows, best.contract, work / "cache")
        scores = metrics.summary(predict_logits(best.model(), pack), pack.manifest.labels)
        result |= {f"{name}_{key}": scores[key] for key in ("macro_f1", "accuracy")} | {f"n_{name}": len(rows)}
    write_json(file, result)
    return result


def paired(differences: list[float]) -> dict:
    """Mean of paired differences with Student's 95 % interval; no interval for a single one."""
    import numpy as np
    from scipy.stats import t as student_t

    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return {"value": mean, "lo": None, "hi": None}
    half = float(student_t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return {"value": mean, "lo": mean - half, "hi": mean + half}


def points(difference: dict) -> str:
    """A difference with its interval, in points."""
    if difference["lo"] is None:
        return f"{100 * difference['value']:+.1f}"
    low, high = 100 * difference["lo"], 100 * difference["hi"]
    return f"{100 * difference['value']:+.1f} ({low:+.1f} to {high:+.1f})"


@contextmanager
def one_core():
    """This process and its threads on one core, where the system can do that."""
    import torch

    threads, cores = torch.get_num_threads(), getattr(os, "sched_getaffinity", lambda _: None)(0)
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    yield
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def drop_from_cache(files: Iterable[Path | str]) -> int:
    """Contents written back and, where the system can (Linux), taken out of its cache; no mapping may be open.

    Names and inodes stay cached.  Returns the bytes of the pages that must be read again.
    """
    if hasattr(os, "sync"):
        os.sync()  # once for all: pages that are not on the disk yet can't be dropped
    pages = 0
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            pages += -(-os.fstat(handle).st_size // PAGE)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return pages * PAGE


def bytes_from_disk() -> int | None:
    """How many bytes this process has had read from a disk so far; None where the system doesn't say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def cold_reading(before: int | None, pages: int) -> dict:
    """How much of ``pages`` bytes came from the disk since ``before``: a share and in words."""
    if before is None:
        return {"from_disk": None, "words": "this system does not say what came from the disk"}
    share = min(1.0, (bytes_from_disk() - before) / max(pages, 1))
    return {"from_disk": share, "words": f"{share:.0%} from the disk"}
