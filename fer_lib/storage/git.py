"""Git commands in the checkout that this package runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def run_git(*words: str) -> str | None:
    """Output of ``git WORDS`` in the checkout; None without git, outside a checkout, or when the command fails."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
