"""Fifty times ``kill -9`` of the real command, and the page that says what they cost.

``python tests/proofs/kills.py`` kills two runs 25 times each (one on one thread, one on two), takes each to its end and
writes ``docs/results/kills.json`` and ``kills.md``; the proof does the same and holds it to its bounds.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from victim import KINDS, MINUTES, REPO, Victim

# Seconds, on two cores that do two runs: a checkpoint waits for the step or the evaluation that is under way, and the
# count begins with a start's report, a second or two before its first step.
SLACK = 3.0


def prove(folder: Path) -> dict:
    """Kill and finish a run on one thread and one on two, side by side; the kills and how they compare to unbroken."""
    victims = {threads: Victim(folder / f"killed{threads}", threads) for threads in (1, 2)}
    unbroken = {threads: Victim(folder / f"unbroken{threads}", threads) for threads in (1, 2)}
    results: dict = {}
    failures: list[BaseException] = []

    def one(threads: int) -> None:
        try:
            expected = unbroken[threads].finish()
            victims[threads].kill_all()
            results[threads] = {"expected": expected, "found": victims[threads].finish()}
        except BaseException as error:  # raised in the thread that waits
            failures.append(error)

    began = time.monotonic()
    workers = [threading.Thread(target=one, args=(threads,)) for threads in victims]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    kills = [asdict(kill) for victim in victims.values() for kill in victim.kills]
    return {
        "checkpoint_minutes": MINUTES, "slack_seconds": SLACK, "minutes": (time.monotonic() - began) / 60,
        "kills": kills, "runs": [{"threads": t, **r} for t, r in sorted(results.items())],
        "homes": {t: str(v.home) for t, v in victims.items()},
    }  # fmt: skip


def weights(result: dict) -> list[dict]:
    """The SHA-256 of every run's weights, killed and unbroken."""
    return [
        {"threads": run["threads"], "phase": phase, "unbroken": run["expected"][folder]["ids"]["weights_sha256"],
         "killed": run["found"][folder]["ids"]["weights_sha256"]}
        for run in result["runs"] for phase in ("teacher", "student")
        for folder in run["expected"] if folder.startswith(phase)
    ]  # fmt: skip


def summary(result: dict) -> dict:
    """What is published: the kills, the weights, and the bounds."""
    return {k: result[k] for k in ("checkpoint_minutes", "slack_seconds", "minutes", "kills")} | {
        "weights": weights(result)
    }


def page(result: dict) -> str:
    """Markdown of :func:`summary`."""
    kills, limit = result["kills"], 60 * result["checkpoint_minutes"]
    counts = ", ".join(f"{sum(k['kind'] == kind for k in kills)} {kind}" for kind in KINDS)
    same = all(row["unbroken"] == row["killed"] for row in result["weights"])
    lines = [
        "# What does `kill -9` cost?", "",
        "`python tests/proofs/kills.py` measures this and writes this page from [kills.json](kills.json); "
        "`make proofs` does the same and fails when a bound is missed.", "",
        f"- weights after {len(kills)} kills equal to the unbroken runs': {'yes' if same else 'NO'}",
        f"- goes on from within an epoch after {sum(k['within'] for k in kills)} of the kills: an epoch lasts "
        "several times as long as two checkpoints are apart",
        f"- most training lost to a kill: {max(k['lost'] for k in kills):.1f} s, with a checkpoint every {limit:.1f} s "
        f"(goal <= {limit + result['slack_seconds']:.1f} s, for a checkpoint waits for the step or the evaluation "
        "that is under way, and after a start the count begins before the first step)", "",
        f"Kinds of moments: {counts}. Two runs (imported faces, manifest, teacher, soft labels, student), one on one "
        "thread and one on two, each killed 25 times and started again by the same command. Moments are waited for "
        "from outside (files, open libraries, the database's journal) and drawn with a fixed seed. Compared are the "
        "best weights, the last checkpoint with its optimiser and EMA, soft labels, histories without their "
        "times and the ids of every phase.", "",
        "| threads | phase | weights' SHA-256, unbroken | after the kills |", "|---|---|---|---|",
    ]  # fmt: skip
    for w in result["weights"]:
        lines.append(f"| {w['threads']} | {w['phase']} | {w['unbroken'][:16]} | {w['killed'][:16]} |")
    lines += ["", "| # | threads | phase | moment | what died | what it left | goes on from step | seconds lost |",
              "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for number, k in enumerate(kills, 1):
        place = "" if k["within"] or not k["step"] else ", an epoch's end"
        lines.append(
            f"| {number} | {k['threads']} | {k['phase']} | {k['kind']} | {k['died']} | {k['seen']} | "
            f"{k['step']}{place} | {k['lost']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fer-kills-") as folder:
        result = summary(prove(Path(folder)))
    target = REPO / "docs" / "results" / "kills"
    target.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    target.with_suffix(".md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
