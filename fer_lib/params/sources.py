"""Parameters of the import (01): one raw dataset each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

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
    # for sources that ship no split (expw_*, ckplus, jaffe); not the phase's seed, so that all runs share one split
    split_seed: Count = 1337
    split_fracs: tuple[Fraction, Fraction, Fraction] = (0.8, 0.1, 0.1)  # train, val, test
    min_confidence: float = 60.0  # expw_hq: faces below it are left out, and counted
    crop: bool = True  # expw_hq: write each face as a JPEG; false: keep photo and box
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 92
    jpeg_subsampling: Literal[0, 1, 2] = 0  # 4:4:4, 4:2:2, 4:2:0
    bbox_pad_ratio: Fraction = 0.0  # context around a crop, on each side, as a share of the box's longer side
    faces: Annotated[int, Field(ge=70)] = 3000  # embedded only: how many to draw
    label_noise: Fraction = 0.0  # embedded only
    noise_shape: Literal["symmetric", "confusions"] = "symmetric"  # of label_noise: any class, or FER2013's typical one
    duplicates: Count = 0  # embedded only: planted exact copies within a split
    leaks: Count = 0  # embedded only: planted exact copies across splits

    @field_validator("split_fracs")
    @classmethod
    def _shares_of_one(cls, value):
        if abs(sum(value) - 1.0) > 1e-9 or value[0] == 0.0:
            raise ValueError(f"split_fracs must be three shares that sum to 1, with some train, got {value}")
        return value


class ImportParams(PhaseParams):
    """01_import_datasets."""

    sources: list[SourceSpec] = [SourceSpec(source="fer2013")]
