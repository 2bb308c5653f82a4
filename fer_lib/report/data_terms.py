"""Under which terms the images of each source may be used, for model cards and the licence of trained weights."""

from __future__ import annotations

UNKNOWN = "look up its terms before you use this model."
_RAF = "real-world faces with labels of many annotators. For non-commercial research only; not to be passed on."
TERMS = {  # by the source of an import
    "affectnet_yolo_format": "AffectNet (Mollahosseini et al. 2017): faces found by web image search, without asking "
    "those pictured. For non-commercial research only, under an agreement with its authors.",
    "ckplus": "CK+ (Lucey et al. 2010): posed expressions filmed in a laboratory. For research only, "
    "under an agreement.",
    "expw_full": "ExpW (Zhang et al. 2018): photos found by web image search, without asking those pictured. For "
    "non-commercial research only.",
    "fer2013": "FER2013 (Goodfellow et al. 2013): 48x48 grey faces found by web image search, without asking those "
    "pictured. For research use only; rights in the images stay with their owners.",
    "ferplus": "FERPlus (Barsoum et al. 2016): ten annotators' votes for each FER2013 image (MIT licence, "
    "votes alone).",
    "jaffe": "JAFFE (Lyons et al. 1998): posed expressions of ten women. For non-commercial research only.",
    "rafdb_basic": f"RAF-DB (Li et al. 2017): {_RAF}",
    "rafml_argmax": f"RAF-ML (Li and Deng 2019): {_RAF}",
}
TERMS |= {"expw_hq": TERMS["expw_full"], "rafdb_compound_mapped": TERMS["rafdb_basic"], "raf_au": TERMS["rafdb_basic"]}


def source_terms(name: str, source: str) -> str:
    """A sentence on the images of the imported set ``name``; ``source``: the name of its raw layout."""
    return TERMS.get(source, f"{name}: {UNKNOWN}")
