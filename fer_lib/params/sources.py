"""Parameters of the import (01): one raw dataset each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.params.base import Count, Fraction, PhaseParams, Strict


class SourceSpec(Strict):
    """One raw dataset to import.  ``root="embedded"``: the drawn faces, written in that source's native layout."""

    source: str
    root: str = "embedded"
    name: str = ""
    mode: Literal["link", "copy"] = "link"
    votes: str = ""  # fer2013: FERPlus' fer2013new.csv, attached as soft labels
    images: str = ""  # ferplus: the fer2013.csv, or the picture tree, that its vote rows belong to
    image_map: str = ""  # fer2013/ferplus over a tree: CSV row,ferplus_image,fer2013_jpg that joins votes and pictures
    rule: Literal["majority", "plurality"] = "majority"
    tolerance: Count = 0  # bad records forgiven (still counted)
    faces: Annotated[int, Field(ge=70)] = 3000  # embedded only: how many to draw
    label_noise: Fraction = 0.0  # embedded only
    duplicates: Count = 0  # embedded only: planted exact copies within a split
    leaks: Count = 0  # embedded only: planted exact copies across splits


class ImportParams(PhaseParams):
    """01_import_datasets."""

    sources: list[SourceSpec] = [SourceSpec(source="fer2013")]
