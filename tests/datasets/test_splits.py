"""Val and its roles: shares, strata, whole content groups, and independence of the row order."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.errors import DataError

ROLES = (0.6, 0.2, 0.2)


def frame(contents, labels, split="train", source="a") -> pd.DataFrame:
    rows = pd.DataFrame({"content_id": list(map(str, contents)), "label": list(labels)})
    return rows.assign(split=split, source=source, val_role="", record=[f"{source}{i}" for i in range(len(rows))])


def test_val_has_its_share_of_each_label_and_no_test_row():
    train = frame(range(1000), [i % 7 if i % 20 else 1 for i in range(1000)])
    test = frame(range(2000, 2100), [0] * 100, "test")
    out = assign_val(pd.concat([train, test], ignore_index=True), 0.05, seed=1)
    val = out[out["split"] == "val"]
    for label, n in train["label"].value_counts().items():
        assert (val["label"] == label).sum() == round(0.05 * n)
    assert (out["split"] == "test").sum() == 100 and (train["split"] == "train").all()
    assert not assign_val(out, 0.05, 1)["split"].compare(out["split"]).size  # it has its own val by now


def test_a_source_keeps_its_own_val_and_seeds_differ():
    own = pd.concat([frame(range(50), [0] * 50), frame(range(50, 60), [0] * 10, "val")], ignore_index=True)
    other = frame(range(100, 300), [0] * 200, source="b")
    both = pd.concat([own, other], ignore_index=True)
    out = assign_val(both, 0.1, seed=1)
    assert out[:60]["split"].tolist() == own["split"].tolist() and (out[60:]["split"] == "val").sum() == 20
    assert set(out.index[out["split"] == "val"]) != set(both.index[assign_val(both, 0.1, 2)["split"] == "val"])


def test_a_content_of_two_sources_is_never_in_train_and_val():
    both = pd.concat([frame(range(200), [0] * 200), frame(range(100, 300), [1] * 200, source="b")], ignore_index=True)
    out = assign_val(both, 0.2, seed=3)
    assert (out.groupby("content_id")["split"].nunique() == 1).all()
    assert ((out["split"] == "val").groupby(out["source"]).sum() >= 40).all()


def test_contents_of_train_and_test_rows_are_excluded_from_val():
    """`own` has its own val; `noval` has the same images and none; of a third one the images are tested on."""
    own = [frame(range(40), [0] * 40, source="own"), frame(range(40, 44), [0] * 4, "val", "own")]
    noval = frame([*range(44), *range(100, 140)], [0] * 84, source="noval")
    tested = frame(range(100, 110), [0] * 10, "test", "third")
    both = pd.concat([*own, noval, tested], ignore_index=True)
    assert excluded_from_val(both) == {*map(str, range(40)), *map(str, range(100, 110))}
    out = assign_val(both, 0.2, seed=1)
    selected = out[(out["split"] == "val") & (out["source"] == "noval")]
    assert len(selected) == round(0.2 * 84), "the quota is that of all rows"
    assert set(selected["content_id"]) <= {*map(str, range(40, 44)), *map(str, range(110, 140))}
    few = pd.concat([*own, noval[:40]], ignore_index=True)
    assert (assign_val(few, 0.2, 1)["split"] == few["split"]).all(), "nothing is free: nothing is chosen"


def test_small_classes_have_one_val_row_and_single_contents_stay():
    out = assign_val(frame(range(5), [0, 0, 0, 0, 1]), 0.05, seed=1)
    assert (out["split"] == "val").groupby(out["label"]).sum().tolist() == [1, 0]
    assert (assign_val(frame(range(5), [0] * 5), 0.0, 1)["split"] == "train").all()
    with pytest.raises(DataError, match="val_fraction 1.0"):
        assign_val(frame(range(5), [0] * 5), 1.0, 1)


def test_roles_share_val_sixty_twenty_twenty_in_every_label():
    labels = [0] * 500 + [1] * 60 + [2] * 250 + [3] * 900 + [4] * 600 + [5] * 400 + [6] * 600
    out = assign_val_roles(frame(range(len(labels)), labels, "val"), ROLES, seed=1)
    for _, rows in [(None, out), *out.groupby("label")]:
        for role, share in zip(("select", "temperature", "conformal"), ROLES, strict=True):
            assert abs((rows["val_role"] == role).sum() - share * len(rows)) <= 1
    assert (assign_val_roles(frame(range(9), [0] * 9), ROLES, 1)["val_role"] == "").all()
    assert set(assign_val_roles(frame(range(9), [0] * 9, "val"), (0.0, 1.0, 0.0), 1)["val_role"]) == {"temperature"}


rows = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=20, deadline=None)
@given(rows=rows, seed=st.integers(0, 5), data=st.data())
def test_splits_follow_the_content_and_not_the_row_order(rows, seed, data):
    for assign, split, column in (
        (lambda f: assign_val(f, 0.3, seed), "train", "split"),
        (lambda f: assign_val_roles(f, ROLES, seed), "val", "val_role"),
    ):
        straight = frame(*zip(*rows, strict=True), split)
        shuffled = straight.iloc[data.draw(st.permutations(range(len(rows))))].reset_index(drop=True)
        one, two = assign(straight), assign(shuffled)
        assert one.set_index("record")[column].sort_index().equals(two.set_index("record")[column].sort_index())
        assert (one.groupby("content_id")[column].nunique() == 1).all()
        if column == "val_role":
            assert set(one["val_role"]) <= {"select", "temperature", "conformal"}
