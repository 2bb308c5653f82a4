"""What the measurements share: results and goals, one core, and files dropped from the system's cache."""

import json
import os
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
