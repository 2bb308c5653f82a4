"""Options that several commands take alike."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH, a bundle folder, or packaged. "
        "Default: the registry's fer-student@champion where there is one, else packaged."
    ),
]
