"""Parameters of the import (01) of raw datasets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fer_lib.params.base import Count, Fraction, PhaseParams
from fer_lib.params.strict import Strict


class SourceSpec(Strict):
    """One raw dataset.  ``root="embedded"``: synthetic faces in the native layout of that source."""

    source: str
    root: str = "embedded"
    name: str = ""
    mode: Literal["link", "copy"] = "link"
    votes: str = ""  # fer2013: fer2013new.csv of FERPlus, whose annotator votes become soft labels
    images: str = ""  # ferplus: fer2013.csv, or the image tree, of its annotator votes
    image_map: str = ""  # with an image tree: CSV row,ferplus_image,fer2013_jpg that joins votes and images
    rule: Literal["majority", "plurality"] = "majority"
    tolerance: Count = 0  # number of bad records that are allowed; they are counted
    # for sources without a split (expw_*, ckplus, jaffe); separate from seed, so that all runs share one split
    split_seed: Count = 1337
    split_fracs: tuple[Fraction, Fraction, Fraction] = (0.8, 0.1, 0.1)  # train, val, test
    min_confidence: float = 60.0  # expw_hq: faces below it are excluded and counted
    crop: bool = True  # expw_hq: write each face as a JPEG; false: reference photo and box
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 92
    jpeg_subsampling: Literal[0, 1, 2] = 0  # 4:4:4, 4:2:2, 4:2:0
    bbox_pad_ratio: Fraction = 0.0  # margin of a crop on each side, as a share of the box's longer side
    faces: Annotated[int, Field(ge=70)] = 3000  # embedded only: how many to draw
    label_noise: Fraction = 0.0  # embedded only
    noise_shape: Literal["symmetric", "confusions"] = "symmetric"  # of label_noise: any class, or likely ones
    duplicates: Count = 0  # embedded only: exact duplicates within a split
    leaks: Count = 0  # embedded only: exact duplicates across splits

    @field_validator("split_fracs")
    @classmethod
    def _check_fractions(cls, value):
        if abs(sum(value) - 1.0) > 1e-9 or value[0] == 0.0:
            raise ValueError(f"split_fracs must be three fractions that sum to 1, train above 0, got {value}")
        return value


class ImportParams(PhaseParams):
    """01_import_datasets."""

    sources: list[SourceSpec] = [SourceSpec(source="fer2013")]
