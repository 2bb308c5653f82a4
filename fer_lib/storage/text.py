"""Numbers formatted for people."""

from __future__ import annotations

DASH = "–"


def duration(seconds: float | None) -> str:
    """``48 s``, ``12.3 min`` or ``1.25 h``."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"
