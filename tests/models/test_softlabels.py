"""Soft labels: the ensemble's logits for exactly the reader's rows, verified when read."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import torch

from fer_lib.calibration import metrics
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models import softlabels
from fer_lib.models.bundle import derive_bundle, read_bundle
from fer_lib.models.ensemble import rank_mixes
from fer_lib.models.ensemble_folder import read_ensemble
from fer_lib.models.inference import predict_logits
from fer_lib.models.softlabels import cached_logits, export_softlabels, sharpness
from fer_lib.models.softlabels_format import FILES, read_costs, read_record, read_softlabels
from fer_lib.models.softlabels_result import ranking_figure, ranking_table
from fer_lib.params import SoftLabelParams

KEYS = {
    "alignmentreport.json": {
        "manifest_sha256", "split", "rows", "image_size", "use_clahe", "teachers", "ensemble_space", "logits_kind",
        "evalset_id", "protocol_id", "n_expected", "n_used", "sharpness", "ranking",
    },
    "ensemble_metrics.json": {
        "accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier", "evalset_id", "protocol_id", "n_expected",
        "n_used",
    },
}  # fmt: skip


def export(manifest, teachers, out, cache, **changes):
    p = SoftLabelParams(**{"batch_size": 64, "weights": [0.75, 0.25]} | changes)
    return export_softlabels(p, manifest, teachers, out, cache, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(drawn_manifest, drawn_teachers, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("softlabels")
    export(drawn_manifest, drawn_teachers, out, pack_cache)
    return out


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def reference_logits(teachers, rows, cache):
    """Flip-averaged logits of each teacher in float64, by the bundle's own model."""
    out = []
    for teacher in teachers:
        bundle = read_bundle(teacher)
        pack = open_or_build(rows, bundle.contract, cache)
        x = torch.from_numpy(bundle.contract.normalise(np.ascontiguousarray(bundle.contract.centre(pack.faces[:]))))
        with torch.no_grad():
            model = bundle.model().double()
            out.append(((model(x.double()) + model(x.double().flip(3))) / 2).numpy())
            model.float()
    return out


def test_logits_are_the_weighted_sum_of_the_teachers(folder, drawn_manifest, drawn_teachers, pack_cache):
    rows = drawn_manifest.rows(split="train")
    labels = read_softlabels(folder, rows)
    a, b = reference_logits(drawn_teachers, rows, pack_cache)
    np.testing.assert_allclose(labels.logits, 0.75 * a + 0.25 * b, rtol=0, atol=2e-4)
    assert labels.logits.dtype == np.float64 and len(labels.sha256) == 64
    assert [t["weight"] for t in labels.record["teachers"]] == [0.75, 0.25]


def test_files_of_an_export(folder, drawn_manifest, drawn_teachers, pack_cache):
    rows, select = drawn_manifest.rows(split="train"), drawn_manifest.rows(split="val", val_role="select")
    read = {name: json.loads((folder / name).read_text()) for name in (*KEYS, "classorder.json", "hash_manifest.json")}
    for name, keys in KEYS.items():
        assert keys <= set(read[name]), f"{name}: {keys - set(read[name])}"
    assert read["classorder.json"] == list(EMOTIONS)
    for name, digest in read["hash_manifest.json"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    with np.load(folder / "softlabels.npz") as stored:
        assert stored["logits"].shape == (len(rows), 7) and stored["y"].tolist() == rows.labels.tolist()
        assert stored["logits"].dtype == np.float32 and stored["y"].dtype == np.uint8
    index = [json.loads(line) for line in (folder / "softlabels_index.jsonl").read_text().splitlines()]
    assert [set(e) for e in index] == [{"i", "sample_id", "image_path", "source", "y"}] * len(rows)
    assert [e["sample_id"] for e in index] == rows.sample_ids and [e["i"] for e in index] == list(range(len(rows)))
    record = read["alignmentreport.json"]
    assert [set(t) >= {"uri", "model", "epoch", "weight"} for t in record["teachers"]] == [True, True]
    assert record["rows"] == len(rows) and record["n_expected"] == record["n_used"] == len(select)
    a, b = reference_logits(drawn_teachers, select, pack_cache)
    expected = metrics.summary(0.75 * a + 0.25 * b, select.labels)
    scores = read["ensemble_metrics.json"]
    assert scores["nll"] == pytest.approx(expected["nll"], abs=1e-4) and scores["accuracy"] == expected["accuracy"]
    f1 = {t["model"]: t["val_select"]["macro_f1"] for t in record["teachers"]}
    assert sorted(f1, key=f1.get, reverse=True)[0] == record["ranking"][0] or len(set(f1.values())) == 1


@pytest.mark.parametrize("space", ["logit", "prob", "best"])
def test_blank_weights_are_the_best_on_val_select_in_that_space(
    drawn_manifest, drawn_teachers, pack_cache, tmp_path, space
):
    record = export(drawn_manifest, drawn_teachers, tmp_path, pack_cache, weights=[], space=space)
    select = drawn_manifest.rows(split="val", val_role="select")
    members = reference_logits(drawn_teachers, select, pack_cache)
    expected = rank_mixes(members, select.labels, ["logit", "prob"] if space == "best" else [space])[0]
    assert record["ensemble_space"] == expected.space
    assert [t["weight"] for t in record["teachers"]] == pytest.approx(expected.weights)
    scores = json.loads((tmp_path / "ensemble_metrics.json").read_text())
    assert scores["macro_f1"] == pytest.approx(expected.macro_f1) and scores["accuracy"] == expected.accuracy


def test_the_ranking_lists_every_set_of_teachers_on_one_evaluation_set(folder, drawn_teachers):
    ranking = json.loads((folder / "ensemble_ranking.json").read_text())
    scores = json.loads((folder / "ensemble_metrics.json").read_text())
    assert {k: ranking[k] for k in ("evalset_id", "n_expected", "n_used")} == {
        k: scores[k] for k in ("evalset_id", "n_expected", "n_used")
    }
    sets = ranking["sets"]
    pair = ["teacher1", "teacher2"]
    assert sorted((s["members"], s["space"]) for s in sets) == [
        (["teacher1"], "logit"), (pair, "logit"), (pair, "prob"), (["teacher2"], "logit")]  # fmt: skip
    keys = [(-s["macro_f1"], -s["accuracy"]) for s in sets]
    assert keys == sorted(keys)
    record = json.loads((folder / "alignmentreport.json").read_text())
    for alone in (s for s in sets if len(s["members"]) == 1):
        [teacher] = [t for t in record["teachers"] if t["model"] == alone["members"][0]]
        assert alone["macro_f1"] == pytest.approx(teacher["val_select"]["macro_f1"]) and alone["weights"] == [1.0]
    assert {s["protocol_id"] for s in sets if s["members"] == pair} == {scores["protocol_id"]}
    assert len({s["protocol_id"] for s in sets}) == 3, "each teacher has another image size"
    table = ranking_table(folder)
    assert table["macro_f1"].tolist() == pytest.approx([s["macro_f1"] for s in sets])
    assert table["members"].tolist() == [" + ".join(s["members"]) for s in sets]
    assert set(table["evalset_id"]) == {scores["evalset_id"]}
    [axes] = ranking_figure(folder).axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [
        [s[k] for s in sets] for k in ("macro_f1", "accuracy")
    ]
    assert [t.get_text().split("  ")[0] for t in axes.get_yticklabels()] == table["members"].tolist()


def test_the_seconds_of_a_training_are_not_part_of_the_set(
    folder, drawn_manifest, drawn_teachers, pack_cache, tmp_path
):
    """A teacher that was killed and resumed has the weights of an unbroken fit and took longer."""
    slower = []
    for number, teacher in enumerate(map(read_bundle, drawn_teachers)):
        cost = teacher.meta["cost"]
        cost |= {"own": cost["own"] | {"seconds": cost["own"]["seconds"] + 1000}}
        slower.append(derive_bundle(teacher, tmp_path / str(number) / "best", cost=cost))
    out = tmp_path / "out"
    export(drawn_manifest, [bundle.path for bundle in slower], out, pack_cache)

    def members(record):
        return [teacher | {"uri": "where it lies"} for teacher in record["teachers"]]

    own, theirs = read_record(out), read_record(folder)
    assert own | {"teachers": members(own)} == theirs | {"teachers": members(theirs)}
    expected = [(bundle.weights_sha256, bundle.meta["cost"]) for bundle in slower]
    assert read_costs(out) == expected != read_costs(folder)
    (out / "training_costs.json").unlink()
    assert read_costs(out) == [(sha256, None) for sha256, _ in expected]


def test_logits_are_in_the_row_order_of_the_reader(folder, drawn_manifest):
    rows = drawn_manifest.rows(split="train")
    reverse = Manifest(rows.frame.iloc[::-1], rows.meta, rows.path)
    part = Manifest(rows.frame.iloc[5:20], rows.meta, rows.path)
    logits = read_softlabels(folder, rows).logits
    assert np.array_equal(read_softlabels(folder, reverse).logits, logits[::-1])
    assert np.array_equal(read_softlabels(folder, part).logits, logits[5:20])


def test_logits_are_computed_once(drawn_manifest, drawn_teachers, tmp_path, monkeypatch):
    bundle, rows = read_bundle(drawn_teachers[0]), drawn_manifest.rows(split="test")
    options = dict(batch_size=8, device="cpu")
    first, pack = cached_logits(bundle, rows, tmp_path, flip_average=False, **options)
    np.testing.assert_allclose(first, predict_logits(bundle.model(), pack, 256), rtol=0, atol=1e-4)
    assert predict_logits(bundle.model(), pack, 4, max_batches=2).shape == (8, 7)
    reverse = Manifest(rows.frame.iloc[::-1], rows.meta, rows.path)
    np.testing.assert_allclose(
        cached_logits(bundle, reverse, tmp_path, flip_average=False, **options)[0], first[::-1], rtol=0, atol=1e-4
    )
    monkeypatch.setattr(softlabels, "predict_logits", lambda *a: pytest.fail("computed again"))
    assert np.array_equal(cached_logits(bundle, rows, tmp_path, flip_average=False, **options)[0], first)
    with pytest.raises(pytest.fail.Exception):  # another view is another computation
        cached_logits(bundle, rows, tmp_path, flip_average=True, **options)


def test_damaged_logits_are_computed_again(drawn_manifest, drawn_teachers, pack_cache, tmp_path):
    bundle, rows = read_bundle(drawn_teachers[0]), drawn_manifest.rows(split="test")
    options = dict(flip_average=False, batch_size=8, device="cpu")
    first, _ = cached_logits(bundle, rows, tmp_path, **options)
    [file] = tmp_path.glob("logits-*.npz")
    for content in (file.read_bytes()[:100], b"garbage", b""):
        file.write_bytes(content)
        assert np.array_equal(cached_logits(bundle, rows, tmp_path, **options)[0], first)
    assert len(file.read_bytes()) > first.nbytes


def test_restored_image_gets_logits(drawn_manifest, drawn_teachers, tmp_path):
    """The cache key depends on the rows of the pack, not on those of the manifest."""
    rows, bundle = drawn_manifest.rows(split="test"), read_bundle(drawn_teachers[0])
    images = shutil.copytree(rows.root, tmp_path / "images")
    part = Manifest(rows.frame.iloc[:6], {**rows.meta, "root": str(images), "tolerance": 1}, None)
    missing = images / part.frame["image_path"].iloc[2]
    missing.rename(tmp_path / "away")
    options = dict(flip_average=False, batch_size=8, device="cpu")
    fewer, pack = cached_logits(bundle, part, tmp_path / "cache", **options)
    assert len(fewer) == len(pack.faces) == 5
    (tmp_path / "away").rename(missing)
    shutil.rmtree(next((tmp_path / "cache").glob("pack-*")))
    logits, pack = cached_logits(bundle, part, tmp_path / "cache", **options)
    assert len(logits) == len(pack.faces) == 6
    np.testing.assert_allclose(np.delete(logits, 2, axis=0), fewer, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- errors of the reader


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_changed_or_missing_file_is_rejected(copy, drawn_manifest, name, damage):
    file = copy / name
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is missing or was changed.*06_export_softlabels"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


@pytest.mark.parametrize("content", [None, "{ not json"])
def test_folder_without_hashes_is_rejected(copy, drawn_manifest, content):
    (copy / "hash_manifest.json").unlink()
    if content:
        (copy / "hash_manifest.json").write_text(content)
    with pytest.raises(BundleError, match="holds no soft labels"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


def seal(folder, name, content):
    """Change a file and its recorded hash."""
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / "hash_manifest.json").read_text())
    hashes[name] = hashlib.sha256(content).hexdigest()
    (folder / "hash_manifest.json").write_text(json.dumps(hashes))


def test_other_class_order_is_rejected(copy, drawn_manifest):
    seal(copy, "classorder.json", json.dumps(list(EMOTIONS[::-1])).encode())
    with pytest.raises(BundleError, match="class order is not"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


def test_row_without_logits_is_rejected(copy, drawn_manifest):
    n = len(drawn_manifest.rows(split="train"))
    with pytest.raises(BundleError, match=rf"covers {n} of {len(drawn_manifest)} .*first missing"):
        read_softlabels(copy, drawn_manifest)
    with pytest.raises(BundleError, match="covers 0 of"):
        read_softlabels(copy, drawn_manifest.rows(split="test"))
    lines = (copy / "softlabels_index.jsonl").read_text().splitlines(keepends=True)
    seal(copy, "softlabels_index.jsonl", "".join(lines[:-1]).encode())
    with pytest.raises(BundleError, match=rf"the index \({n - 1} rows\), the arrays \({n}\) .*not about the same rows"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


def contract_of(folder, i=0):
    record = json.loads((folder / "alignmentreport.json").read_text())
    return FaceContract.model_validate(record["teachers"][i]["face_contract"])


def test_other_crop_settings_are_rejected(folder, drawn_manifest):
    """Size and normalisation may differ; CLAHE's settings matter only when CLAHE is on."""
    rows, contract = drawn_manifest.rows(split="train"), contract_of(folder)
    assert [contract_of(folder, i).image_size for i in (0, 1)] == [32, 40]
    for update in ({}, {"image_size": 48}, {"mean": (0.5,) * 3, "std": (0.4,) * 3}, {"clahe_clip": 3.0}):
        read_softlabels(folder, rows, contract.model_copy(update=update))
    for update in ({"align": "eyes"}, {"margin": 0.1}, {"clahe": True}, {"grey": True}):
        with pytest.raises(
            BundleError, match=rf"{folder}: teacher teacher1 was trained on faces with .*{next(iter(update))}.*export"
        ):
            read_softlabels(folder, rows, contract.model_copy(update=update))
    one, two = (FaceContract(clahe=True, clahe_clip=clip).crop_settings for clip in (2.0, 3.0))
    assert one != two


def test_crop_settings_of_every_teacher_are_checked(copy, drawn_manifest):
    record = json.loads((copy / "alignmentreport.json").read_text())
    other = contract_of(copy, 1).model_copy(update={"margin": 0.2})
    record["teachers"][1] |= {"face_contract": other.model_dump(mode="json"), "face_contract_id": other.id}
    seal(copy, "alignmentreport.json", json.dumps(record).encode())
    for contract, mismatch in ((contract_of(copy), "teacher2"), (other, "teacher1")):
        with pytest.raises(BundleError, match=f"teacher {mismatch} was trained on faces with"):
            read_softlabels(copy, drawn_manifest.rows(split="train"), contract)


def test_folder_without_contracts_is_rejected(copy, drawn_manifest):
    """Folders of earlier versions record only the contract's id, which does not give align, margin and CLAHE."""
    record = json.loads((copy / "alignmentreport.json").read_text())
    for teacher in record["teachers"]:
        del teacher["face_contract"]
    seal(copy, "alignmentreport.json", json.dumps(record).encode())
    with pytest.raises(
        BundleError, match="not record the face contract of teacher teacher1; export the soft labels again"
    ):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


def test_contract_of_an_earlier_version_is_rejected(folder, drawn_manifest, monkeypatch):
    monkeypatch.setattr("fer_lib.faces.contract.CONTRACT_VERSION", 99)
    with pytest.raises(
        BundleError, match=r"teacher1 gives other pixels in this fer-lab \(id .*train the teacher again"
    ):
        read_softlabels(folder, drawn_manifest.rows(split="train"), contract_of(folder))


def test_other_labels_are_rejected(folder, drawn_manifest):
    rows = drawn_manifest.rows(split="train")
    frame = rows.frame.copy()
    frame.loc[3, "label"] = (frame.loc[3, "label"] + 1) % 7
    with pytest.raises(BundleError, match="made with other labels"):
        read_softlabels(folder, Manifest(frame, rows.meta, rows.path))


def test_export_needs_teachers_and_one_weight_each(drawn_manifest, drawn_teachers, pack_cache, tmp_path):
    with pytest.raises(FerError, match="no teachers"):
        export(drawn_manifest, [], tmp_path, pack_cache)
    with pytest.raises(FerError, match="3 weights for 2 teachers"):
        export(drawn_manifest, drawn_teachers, tmp_path, pack_cache, weights=[1, 1, 1])


def test_sharpness_falls_with_the_temperature():
    logits = np.random.default_rng(0).normal(size=(200, 7)) * 5
    table = sharpness(logits)
    assert [row["temperature"] for row in table] == [1.0, 1.2, 2.0, 4.0, 5.0, 6.0]
    medians = [row["max_prob_q50"] for row in table]
    assert medians == sorted(medians, reverse=True)
    p = metrics.softmax(logits)
    assert table[0]["max_prob_q95"] == pytest.approx(np.quantile(p.max(1), 0.95))
    assert table[0]["entropy_q25"] == pytest.approx(np.quantile(-(p * np.log(p)).sum(1), 0.25))
    uniform = sharpness(np.zeros((3, 7)))[0]
    assert uniform["entropy_q50"] == pytest.approx(np.log(7)) and uniform["max_prob_q50"] == pytest.approx(1 / 7)


def sealed(folder, name, content):
    """Replace a file of the folder, with its hash."""
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / "hash_manifest.json").read_text())
    hashes[name] = hashlib.sha256(content).hexdigest()
    (folder / "hash_manifest.json").write_text(json.dumps(hashes))


def arrays(save=np.savez, **values) -> bytes:
    stream = io.BytesIO()
    save(stream, **values)
    return stream.getvalue()


FOREIGN = {
    "softlabels.npz": [
        b"", b"PK", b"\x80\x04.", arrays(logits=np.zeros((3, 7))), arrays(logits=np.zeros((3, 7)), y=np.zeros(3)),
        arrays(logits=np.array([{}]), y=np.zeros(1)), arrays(logits=np.array([["x"] * 7]), y=np.zeros(1)),
        arrays(np.savez_compressed, logits=np.zeros((10**6, 7)), y=np.zeros(10**6, np.uint8)),
    ],
    "softlabels_index.jsonl": [b"\xff\xfe", b"[]\n", b"{}\n", b'{"sample_id": 1, "i": 0}\n',
                               b'{"sample_id": "a", "i": -1}',
                               b'{"sample_id": "a", "i": "x"}', b"[" * 100_000],
    "classorder.json": [b"", b"\xff", b"{}", b"[" * 100_000],
    "alignmentreport.json": [b"", b"\xff", b"[]", b"{}", b'{"rows": 1, "ensemble_space": "logit", "teachers": []}',
                             b'{"rows": 1, "ensemble_space": "logit", "teachers": [{"uri": 5}]}',],
}  # fmt: skip


@pytest.mark.parametrize("name, content", [(name, content) for name, all_ in FOREIGN.items() for content in all_])
def test_a_foreign_file_with_a_matching_hash_is_a_message(copy, drawn_manifest, name, content):
    sealed(copy, name, content)
    with pytest.raises(BundleError, match="export the soft labels again|06_export_softlabels") as error:
        read_softlabels(copy, drawn_manifest.rows(split="train"))
    assert str(copy) in str(error.value) and len(str(error.value)) < 700 + len(str(copy))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"5", b"{}", b'{"evalset_id": [1], "protocol_id": "p"}',
        b'{"evalset_id": "e", "protocol_id": "p", "macro_f1": "high"}',
        b'{"evalset_id": "e", "protocol_id": "p", "ece": NaN}',
    ],
)  # fmt: skip
def test_foreign_metrics_of_an_ensemble_are_a_message(copy, content):
    sealed(copy, "ensemble_metrics.json", content)
    with pytest.raises(BundleError, match="holds no soft labels .*06_export_softlabels"):
        read_ensemble(copy)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"softlabels.npz": 5}', b"[" * 100_000])
def test_hashes_that_are_something_else_are_a_message(copy, drawn_manifest, content):
    (copy / "hash_manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="06_export_softlabels"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))


def test_logits_that_are_not_finite_are_rejected(copy, drawn_manifest):
    with np.load(copy / "softlabels.npz") as stored:
        logits, y = stored["logits"], stored["y"]
    logits[0, 0] = np.nan
    sealed(copy, "softlabels.npz", arrays(logits=logits, y=y))
    with pytest.raises(BundleError, match="finite"):
        read_softlabels(copy, drawn_manifest.rows(split="train"))
