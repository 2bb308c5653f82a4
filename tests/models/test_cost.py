"""Training costs of a chain of models: each ancestor counts once, and an unknown one leaves the sum unknown."""

import pytest

from fer_lib.models.bundle import derive_bundle, read_bundle, write_bundle
from fer_lib.models.cost import cost_by_model, total, training_cost


def history(*epochs):
    """Rows of a history from (seconds, images per second)."""
    rows, sum_ = [], 0.0
    for seconds, rate in epochs:
        sum_ += seconds
        rows.append({"timing": {"epoch_sec": seconds, "total_sec": sum_, "images_per_sec": rate}})
    return rows


def spent(seconds, epochs, images):
    return {"seconds": seconds, "epochs": epochs, "images": images}


def test_the_own_cost_is_that_of_the_history():
    cost = training_cost(history((2.0, 50.0), (3.0, 100 / 3)), {})
    assert cost == {"own": spent(5.0, 2, 200), "cumulative": spent(5.0, 2, 200), "ancestors": {}}


def test_an_ancestor_of_two_kinds_counts_once():
    teacher = training_cost(history((10.0, 10.0)), {})
    plain = training_cost(history((1.0, 70.0)), {})
    distilled = training_cost(history((2.0, 35.0)), cost_by_model([("t", teacher), ("p", plain)]))
    again = training_cost(history((4.0, 20.0)), cost_by_model([("t", teacher), ("d", distilled)]))
    assert again["ancestors"] == {"t": teacher["own"], "p": plain["own"], "d": distilled["own"]}
    assert again["own"] == spent(4.0, 1, 80) and again["cumulative"] == spent(17.0, 4, 320)


@pytest.mark.parametrize("order", [1, -1])
def test_an_unrecorded_ancestor_leaves_the_sum_unknown(order):
    known = training_cost(history((1.0, 7.0)), {})
    models = [("a", known), ("b", None)][::order]
    assert training_cost(history((1.0, 7.0)), cost_by_model(models))["cumulative"] is None
    assert total(cost_by_model(models).values()) is None
    child = training_cost(history((1.0, 7.0)), cost_by_model([("b", None)]))
    found = cost_by_model([("b", training_cost(history((3.0, 1.0)), {})), ("c", child)][::order])
    assert found["b"] == spent(3.0, 1, 3), "one of the two records it"


def test_a_bundle_keeps_its_cost(pieces, tmp_path):
    cost = training_cost(history((2.0, 50.0)), {"a" * 64: spent(1, 1, 1), "b" * 64: None})
    bundle = write_bundle(tmp_path / "one", **pieces, cost=cost)
    assert derive_bundle(bundle, tmp_path / "two", name="two").meta["cost"] == cost
    assert read_bundle(derive_bundle(bundle, tmp_path / "three", cost=cost | {"ancestors": {}}).path).meta["cost"] == (
        cost | {"ancestors": {}}
    )
    assert write_bundle(tmp_path / "four", **pieces).meta["cost"] is None
