"""What a finished phase leaves, as plain values: a room returns it, ``tracking.PhaseRun.finish`` logs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PhaseResult:
    """The result of one phase.

    Attributes:
        ids: name -> id; the cache keys of later phases depend on them, and each is a tag ``fer.id.NAME`` of the run.
        headline: name -> number or text, nested or not; ``fer run`` prints it.
        bundle: the folder of the model that the phase made.
        note: ``action``, ``result``, ``decision`` and ``next``, the parts of the run's description.
        metrics: numbers by name; a nested key becomes ``outer/inner``.
        artifacts: files and folders to attach to the run.
        artifact_folders: where in the run's artifacts an artifact lies, if not at the top.
        tags: further tags of the run.
        warnings: sentences, printed and logged as the tag ``fer.warning``.
    """

    ids: Mapping[str, Any] = field(default_factory=dict)
    headline: Mapping[str, Any] = field(default_factory=dict)
    bundle: Path | None = None
    note: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Sequence[Path] = ()
    artifact_folders: Mapping[Path, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Registration:
    """A new version of a registered model.

    ``alias``: the alias that moved to it, "" for none; ``message``: a sentence about that; ``refusal``: why it did not
    take the alias that was asked for, "" where it did.
    """

    name: str
    version: int
    alias: str
    message: str
    refusal: str = ""

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def text(self) -> str:
        """``fer-student v3 @candidate``."""
        return f"{self.name} v{self.version}" + (f" @{self.alias}" if self.alias else "")

    @property
    def warnings(self) -> list[str]:
        """The refusal as a warning; empty without one."""
        return [f"{self.refusal}; it is registered without it."] if self.refusal else []
