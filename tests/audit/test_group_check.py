"""Large groups are compared with their central image: many crops of one image are no chain, a sliding window is."""

import numpy as np
import pandas as pd
import pytest
from altered import ALTERED, hash_faces

from fer_lib.audit import groups
from fer_lib.cli.data_views import audit_tables
from fer_lib.synthetic.dataset import draw_face

rng = np.random.default_rng(5)


def sliding(n, step=5, size=96):
    """Images that are each shifted by ``step`` pixels: similar to their neighbours, not to distant ones."""
    strip = np.concatenate([draw_face(3, i, size=size).image for i in range(2 + n * step // size)], axis=1)
    return [np.ascontiguousarray(strip[:, i * step : i * step + size]) for i in range(n)]


def altered_copies(n):
    """One face, as it is and in altered copies."""
    face = draw_face(4, 0, size=96).image
    kinds = [change for kind, change in ALTERED.items() if kind != "mirrored and cropped"]
    return [face, *(np.ascontiguousarray(kinds[i % len(kinds)](face, rng)) for i in range(n - 1))]


def duplicates_of(images):
    images = [*images, *(draw_face(6, i, size=96).image for i in range(30))]
    names = [f"s{i:03d}" for i in range(len(images))]
    frame = pd.DataFrame({"sample_id": names, "content_id": names})
    return groups.find_duplicates(frame, hash_faces(images), True, 0.92)


def test_a_chain_has_a_warning_that_names_it():
    found = duplicates_of(sliding(24))
    [line] = found.large.to_dict("records")
    assert len(set(found.group[:24])) == 1 and line["group"] == found.group[0] and line["pictures"] == 24
    assert line["middle"] in range(24) and line["compared"] == 23
    assert line["unlike"] > 12 and line["least"] < 0.5
    text = groups.chain_warning(line | {"middle": "face7"})
    assert f"group {line['group']} (24 images, face7 in the middle)" in text and "raise similarity" in text


def test_many_copies_of_one_image_are_no_chain():
    [line] = duplicates_of(altered_copies(24)).large.to_dict("records")
    assert line["pictures"] >= 12 and line["unlike"] <= 1
    assert groups.chain_warning(line) is None


def test_small_groups_are_not_checked_and_huge_ones_in_part(monkeypatch):
    assert duplicates_of(altered_copies(6)).large.empty
    monkeypatch.setattr(groups, "COMPARED", 8)
    [line] = duplicates_of(sliding(24)).large.to_dict("records")
    assert line["pictures"] == 24 and line["compared"] == 8 and line["unlike"] > 4


@pytest.mark.parametrize("unlike, warned", [(0, False), (5, False), (6, True), (10, True)])
def test_a_warning_needs_a_majority_of_unlike_images(unlike, warned):
    line = {"group": 3, "pictures": 11, "middle": "a", "compared": 10, "unlike": unlike, "least": 0.1}
    assert (groups.chain_warning(line) is not None) == warned


def test_the_table_names_the_largest_group_and_the_warnings():
    counts = dict.fromkeys(("groups", "rows", "largest"), 2)
    summary = {"exact": counts, "with_near": counts, "leaks": {}, "largest_group": 7, "warnings": ["group 7 is odd"]}
    caption = str(audit_tables(summary)[0].caption)
    assert caption == "The largest is group 7.\nWarning: group 7 is odd."
    assert audit_tables(summary | {"largest_group": None})[0].caption is None
