"""How long the phases of a run will take, from earlier runs or from what the run file declares."""

from __future__ import annotations

import time
import timeit
from collections.abc import Sequence

from fer_lib.devices import cores
from fer_lib.pipeline import folders
from fer_lib.pipeline.runfile import Phase, RunPlan

REFERENCE = 0.024  # loop_seconds of the machine on which a run file's ``seconds`` were measured
PHASE_START = 1.0  # seconds of a phase before its own clock starts and after it stops


def describe(plan: RunPlan, phases: Sequence[Phase], parallel: int = 1) -> str:
    """``10 phases to run: about 2 minutes on 2 cores``; empty when nothing is known.

    The seconds of earlier runs of these phases count, else those that the run file declares for all of its phases,
    scaled by the speed of this machine.  With ``parallel`` phases at once these are an upper bound: ``at most``.
    """
    seconds = measured_seconds(phases)
    if seconds is None and plan.seconds and len(phases) == len(plan.phases):
        seconds = plan.seconds * loop_seconds() / REFERENCE
    if seconds is None:
        return ""
    runs, count, bound = len(phases), cores(), "about" if parallel == 1 else "at most about"
    on = f"{count} core{'s' * (count > 1)}"
    return f"{runs} phase{'s' * (runs > 1)} to run: {bound} {duration(seconds)} on {on}"


def measured_seconds(phases: Sequence[Phase]) -> float | None:
    """What these phases took the last time that they ran with equal parameters; None when one never did."""
    total = 0.0
    for phase in phases:
        own = folders.own_params(phase.params)
        records = folders.finished_phases((phase.kind,), phase.name)
        earlier = next((record for record in records if record["params"] == own), None)
        if earlier is None:
            return None
        total += earlier["seconds"] + PHASE_START
    return total


def duration(seconds: float) -> str:
    """Roughly: ``30 seconds``, ``3 minutes``, ``2 hours``."""
    if seconds < 90:
        number, unit = max(10, round(seconds / 10) * 10), "second"
    elif seconds < 90 * 60:
        number, unit = round(seconds / 60), "minute"
    else:
        number, unit = round(seconds / 3600), "hour"
    return f"{number} {unit}{'s' * (number > 1)}"


def loop_seconds() -> float:
    """CPU seconds of a loop in Python, the best of three."""
    return min(timeit.repeat("sum(n * n for n in range(500_000))", timer=time.process_time, number=1, repeat=3))
