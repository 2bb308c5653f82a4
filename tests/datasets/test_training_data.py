"""The training data record, from the import through manifests and buffers to its text."""

import json

import pytest

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.curate import merge
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import (
    SourceRows,
    StartingWeights,
    TrainingData,
    join_training_data,
    not_for_photos,
    training_text,
)
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import write_raw

ROLES = ManifestParams(val_roles=(0.5, 0.3, 0.2))


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    """Drawn faces by ``root: embedded``, and a folder of the user's own."""
    folder = tmp_path_factory.mktemp("imports")
    raw = write_raw(folder / "raw", "tree", faces=140, seed=5, size=32)
    specs = [
        SourceSpec(source="fer2013", root="embedded", faces=140),
        SourceSpec(source="tree", name="own", root=str(raw)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(folder))
        import_all(specs, folder / "imports")
    return folder / "imports"


def test_embedded_faces_are_recorded_as_drawn_through_manifests(imports, tmp_path):
    manifest = build_manifest(ROLES, imports, tmp_path / "both")
    assert manifest.meta["drawn"] == {"fer2013": True, "own": False}
    again = Manifest.read(tmp_path / "both" / "manifest.parquet").rows(split="train")
    record = TrainingData.of(again, smoke=False)
    counts = again.frame["source"].value_counts()
    assert {name: source.rows for name, source in record.sources.items()} == counts.to_dict()
    assert record.drawn and "fer2013 (drawn), own" in training_text(record)
    own = TrainingData.of(again.rows(include_sources=["own"]), smoke=False)
    assert not own.drawn and training_text(own) == f"trained on {counts['own']} faces of own"


def test_an_import_of_an_earlier_version_is_unknown(imports, tmp_path):
    report = imports / "own" / "report.json"
    before = report.read_text()
    report.write_text(json.dumps({k: v for k, v in json.loads(before).items() if k != "drawn"}))
    try:
        manifest = build_manifest(ROLES, imports, tmp_path / "old")
    finally:
        report.write_text(before)
    assert manifest.meta["drawn"] == {"fer2013": True}
    own = TrainingData.of(manifest.rows(include_sources=["own"]), smoke=False)
    assert own.sources["own"].drawn is None and "whether own is drawn is not recorded" in training_text(own)


def test_a_source_drawn_in_one_joined_manifest_counts_as_drawn(imports, tmp_path):
    drawn = build_manifest(ROLES, imports, tmp_path / "one")
    half = Manifest(drawn.frame.iloc[::2].reset_index(drop=True), {**drawn.meta, "drawn": {"own": False}}, drawn.path)
    assert merge([drawn, half])[0].meta["drawn"] == {"fer2013": True, "own": False}
    assert merge([half, half])[0].meta["drawn"] == {"own": False}
    unknown = Manifest(half.frame, {**half.meta, "drawn": {}}, half.path)
    assert merge([half, unknown])[0].meta["drawn"] == {}, "what one of them does not know is not known of both"


def sources(**values):
    return {name: SourceRows(rows=rows, drawn=drawn) for name, (rows, drawn) in values.items()}


def test_training_data_includes_that_of_the_starting_model():
    real = TrainingData(sources=sources(fer2013=(28709, False)))
    few = TrainingData(sources=sources(fer2013=(90, False), live=(90, True)))
    both = join_training_data([few, real])
    assert both.sources == sources(fer2013=(28709, False), live=(90, True)) and both.drawn and both.complete
    smoke = real.model_copy(update={"smoke": True})
    assert join_training_data([real, smoke]).smoke and not join_training_data([real, real]).smoke
    unknown = join_training_data([real, None])
    assert not unknown.complete and not_for_photos(unknown) == ""
    assert not join_training_data([few, unknown]).complete


def test_training_data_keeps_the_weights_at_the_beginning_of_the_chain():
    start = StartingWeights(name="faces", origin="npm faces 1.0", licence="MIT", terms="research use")
    assert start.text == "faces (npm faces 1.0; licence MIT; research use)"
    assert StartingWeights(name="w.pt").text == "w.pt (licence not recorded; terms not recorded)"
    first = TrainingData(sources=sources(fer2013=(28709, False)), starting_weights=start)
    second = join_training_data([TrainingData(sources=sources(live=(90, False))), first])
    assert second.starting_weights == start and TrainingData.model_validate(second.record()) == second
    assert "; started from faces (research use)" in training_text(second)
    plain = TrainingData(sources=sources(live=(90, False)))
    assert set(plain.record()) == {"sources", "smoke", "complete"}, "as bundles of earlier versions"


@pytest.mark.parametrize(
    ("data", "text", "why"),
    [
        (None, "its bundle does not record what it was trained on", ""),
        (TrainingData(sources=sources(fer2013=(28709, False))), "trained on 28,709 faces of fer2013", ""),
        (
            TrainingData(sources=sources(fer2013=(2000, True))),
            "trained on 2,000 drawn faces; a demonstration on drawn faces, not for photos",
            "a demonstration on drawn faces, not for photos",
        ),
        (
            TrainingData(sources=sources(a=(5, False), b=(6, None)), smoke=True, complete=False),
            "trained on 11 faces of a, b; a --smoke rehearsal, not for photos; whether b is drawn is not recorded; "
            "what its starting model was trained on is not recorded",
            "a --smoke rehearsal, not for photos",
        ),
    ],
)
def test_training_data_as_text(data, text, why):
    assert training_text(data) == text and not_for_photos(data) == why


def test_models_together_have_the_terms_of_all_their_starting_weights():
    rows = {"s": SourceRows(rows=5)}
    starts = [
        StartingWeights(name="faces", licence="MIT", terms="research only"),
        StartingWeights(name="images", licence="Apache-2.0", terms="ImageNet's"),
        None,
        StartingWeights(name="faces", licence="MIT", terms="research only"),
    ]
    joined = join_training_data([TrainingData(sources=rows, starting_weights=start) for start in starts])
    assert joined.starting_weights == StartingWeights(
        name="faces; images", licence="MIT; Apache-2.0", terms="research only; ImageNet's"
    )
    assert join_training_data([TrainingData(sources=rows)] * 2).starting_weights is None
