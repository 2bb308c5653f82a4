"""Run files are validated; messages have the key, the phase and the closest valid name."""

import pytest

from fer_lib.errors import ParamsError
from fer_lib.pipeline.runfile import Phase, load_run

GOOD = """
name: demo
seed: 42
phases:
  import: {sources: [{source: fer2013, faces: 700}]}
  manifest: {}
  teacher_a: {kind: teacher, epochs: 3, seed: 7}
  teacher_b: {kind: teacher, augment: {flip: 0.25}}
  softlabels: {}
  ce: {kind: student}
  kd: {kind: student, mode: kd, init_from: ce}
  evaluate: {}
  export: {}
smoke:
  teacher: {image_size: 32}
"""

ABLATION = GOOD.replace("  export: {}\n", "  ablation: {variants: {a: [ce], b: [kd]}}\n")


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))

    def write(text):
        (tmp_path / "run.yaml").write_text(text)
        return tmp_path / "run.yaml"

    return write


def names(values):
    return [v.name if isinstance(v, Phase) else v for v in values]


def test_phases_keep_their_order_and_take_defaults(write):
    plan = load_run(write(GOOD))
    assert [p.name for p in plan.phases] == ["import", "manifest", "teacher_a", "teacher_b", "softlabels", "ce", "kd",
                                             "evaluate", "export"]  # fmt: skip
    assert plan.experiment == "fer" and plan.name == "demo"
    assert plan.phase("teacher_a").params.epochs == 3 and plan.phase("teacher_b").params.epochs == 60
    assert plan.phase("teacher_a").params.seed == 7 and plan.phase("kd").params.seed == 42
    assert plan.phase("ce").notebook == "07_train_student"


def test_blank_inputs_use_earlier_phases(write):
    plan = load_run(write(GOOD))
    inputs = {phase.name: {k: names(v) for k, v in phase.inputs.items()} for phase in plan.phases}
    assert inputs["manifest"] == {"imports": ["import"], "manifests": []}
    assert inputs["softlabels"] == {"manifest": ["manifest"], "teachers": ["teacher_a", "teacher_b"]}
    assert inputs["ce"] == {"manifest": ["manifest"], "softlabels": [], "init_from": []}
    assert inputs["kd"]["softlabels"] == ["softlabels"] and inputs["kd"]["init_from"] == ["ce"]
    assert inputs["evaluate"]["models"] == ["teacher_a", "teacher_b", "ce", "kd"]
    assert inputs["evaluate"]["ensembles"] == ["softlabels"]
    assert inputs["export"] == {"evaluation": ["evaluate"], "manifest": ["manifest"], "candidates": ["ce", "kd"]}


def test_overrides_set_nested_keys_list_items_and_whole_kinds(write):
    path = write(GOOD)
    plan = load_run(path, ["teacher.epochs=5", "teacher_b.augment.flip=0.3", "import.sources.0.faces=99",
                           "teacher_a.augment.scale=[0.5, 1.0]", "kd.lr=3e-4"])  # fmt: skip
    assert [plan.phase(f"teacher_{x}").params.epochs for x in "ab"] == [5, 5]
    assert plan.phase("teacher_b").params.augment.flip == 0.3
    assert plan.phase("teacher_a").params.augment.scale == (0.5, 1.0)
    assert plan.phase("teacher_a").params.augment.flip == 0.5
    source = plan.phase("import").params.sources[0]
    assert source.faces == 99 and source.root == "embedded"
    assert plan.phase("kd").params.lr == 3e-4
    assert load_run(path, ["import.sources.0.faces=99"]).phase("import").params.sources[0].source == "fer2013"


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        (GOOD.replace("epochs: 3", "epoch: 3"), [], ["'teacher_a'", "'epoch'", "closest: 'epochs'"]),
        (GOOD.replace("epochs: 3", "epochs: three"), [], ["'teacher_a'", "'epochs'", "integer", "'three'"]),
        (GOOD.replace("flip: 0.25", "filp: 0.25"), [], ["'teacher_b'", "'augment.filp'", "closest: 'flip'"]),
        (GOOD.replace("faces: 700", "face: 700"), [], ["'import'", "'sources.0.face'", "closest: 'faces'"]),
        (GOOD.replace("flip: 0.25", "flip: 25"), [], ["'teacher_b'", "'augment.flip'", "less than or equal to 1"]),
        (GOOD.replace("kind: student, mode", "kind: studnet, mode"), [], ["'kd'", "'studnet'", "closest: 'student'"]),
        (GOOD.replace("kind: student, mode", "kind: [student], mode"), [], ["'kd'", "['student']", "kind: KIND"]),
        (GOOD.replace("kind: student, mode", "kind: {a: 1}, mode"), [], ["'kd'", "unknown kind"]),
        ("name: " + "x" * 500 + "\nphases: {check: {}}\n", [], ["'name'", "at most 200"]),
        ('name: "a\\0"\nphases: {check: {}}\n', [], ["not valid YAML", "line 1"]),
        (GOOD.replace("init_from: ce", "init_from: cee"), [], ["'kd'", "'init_from'", "'cee'", "closest: 'ce'"]),
        (GOOD.replace("init_from: ce", "init_from: export"), [], ["'kd'", "'export'", "is neither a phase before"]),
        (GOOD.replace("seed: 42", "sede: 42"), [], ["'sede'", "closest: 'seed'"]),
        (GOOD.replace("  manifest: {}\n", ""), [], ["'teacher_a'", "'manifest'", "no manifest or audit phase"]),
        (GOOD.replace("  teacher: {image_size: 32}", "  techer: {image_size: 32}"), None, ["techer", "'teacher'"]),
        (GOOD, ["techer_a.epochs=3"], ["'techer_a'", "closest: 'teacher_a'"]),
        (GOOD, ["teacher.epocs=3"], ["'teacher_a'", "'epocs'", "closest: 'epochs'"]),
        (GOOD, ["teacher_a.epochs=[1"], ["not valid YAML"]),
        (GOOD, ["teacher_a.epochs"], ["phase.key=value"]),
        (GOOD, ["teacher_a.epochs.x=1"], ["deeper"]),
        (GOOD, ["teacher_a.batch_size=8"], ["'teacher_a'", "batch_size >= 14"]),
        ("phases:\n  import: {}\n  import: {}\n", [], ["line 3", "'import' occurs twice"]),
        ("phases:\n  import: {sources: [}\n", [], ["line 2", "not valid YAML"]),
        ("- a\n", [], ["mapping"]),
        ("name: x\n", [], ["'phases'"]),
        ("name: [1]\nphases: {import: {}}\n", [], ["'name'", "text"]),
        ("phases: {a.b: {kind: import}}\n", [], ["'a.b'", "letters"]),
        ("phases: {import: 3}\n", [], ["'import'", "mapping"]),
        ("phases:\n  ? [a, b]\n  : {}\n", [], ["line 2", "key must be a text"]),
        (GOOD, ["teacher_a.epochs=true"], ["'teacher_a'", "'epochs'", "number", "True"]),
        (GOOD, ["ce.alpha=false"], ["'ce'", "'alpha'", "number", "False"]),
        (GOOD, ["ce.lr=.inf"], ["'ce'", "'lr'", "finite"]),
        (GOOD, ["softlabels.weights=[1, -1]"], ["'softlabels'", "'weights.1'", "greater than or equal to 0"]),
        (GOOD, ["ce.augment.scale=[1.0, 0.5]"], ["'ce'", "'augment.scale'", "smaller first"]),
        (GOOD, ["ce.augment.ratio=[2.0, 0.5]"], ["'ce'", "'augment.ratio'", "smaller first"]),
        (GOOD, ["export.alias=v1"], ["'export'", "'alias'", "not latest or v1"]),
        (GOOD, ["export.registered_name=a/b"], ["'export'", "'registered_name'", "without"]),
        (GOOD, ["kd.softlabels=teacher_a"], ["'kd'", "'softlabels'", "kind 'teacher'", "not softlabels"]),
        (GOOD, ["kd.init_from=manifest"], ["'kd'", "'init_from'", "kind 'manifest'", "not teacher or student"]),
        (ABLATION.replace("[kd]", "[kdd]"), [], ["'ablation'", "'variants'", "'kdd'", "'evaluate'", "closest: 'kd'"]),
        (ABLATION.replace("[kd]", "[kd, ce]"), [], ["'ablation'", "one per seed", "a 1, b 2"]),
        (ABLATION.replace("b: [kd]", "b/c: [kd]"), [], ["'ablation'", "'b/c'"]),
        (ABLATION, ["ablation.control=c"], ["'ablation'", "no variant 'c'"]),
        (GOOD, ["student.name=same"], ["'ce' and 'kd'", "'same'", "'evaluate'"]),
    ],
)
def test_wrong_values_are_named(write, text, overrides, parts):
    with pytest.raises(ParamsError) as caught:
        load_run(write(text), overrides or [], smoke=overrides is None)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_model_has_the_name_of_its_phase_by_default(write):
    plan = load_run(write(GOOD.replace("ce: {kind: student}", "ce: {kind: student, name: mine}")))
    assert [plan.phase(p).params.name for p in ("teacher_a", "teacher_b", "ce", "kd")] == [
        "teacher_a", "teacher_b", "mine", "kd"]  # fmt: skip


def test_a_manifest_joins_only_the_named_ones(write, tmp_path):
    (tmp_path / "old").mkdir()
    more = "  wide: {kind: manifest, manifests: [manifest, OLD]}\n".replace("OLD", str(tmp_path / "old"))
    plan = load_run(write(GOOD.replace("  manifest: {}\n", "  manifest: {}\n" + more)), smoke=True)
    assert plan.phase("manifest").inputs["manifests"] == [] and not plan.phase("manifest").params.curate.cap_splits[1:]
    assert plan.phase("wide").inputs["manifests"] == [plan.phase("manifest"), str(tmp_path / "old")]
    caps = plan.phase("wide").params.curate
    assert caps.max_per_class_and_source == 60 and caps.cap_splits == ["train", "val", "test"], "--smoke shrinks these"
    with pytest.raises(ParamsError, match="'manifests': 'import' is a phase of kind 'import', not manifest or audit"):
        load_run(write(GOOD), ["manifest.manifests=[import]"])
    plan = load_run(write(GOOD), ["manifest.curate.selection=test_all_sources", "manifest.curate.min_box=20"])
    assert plan.phase("manifest").params.curate.selected.splits == ("test",)
    with pytest.raises(ParamsError, match="'curate.min_bux'.*closest: 'min_box'"):
        load_run(write(GOOD.replace("  manifest: {}\n", "  manifest: {curate: {min_bux: 3}}\n")))


def test_a_missing_file_is_named_with_the_closest_one(write, tmp_path):
    write(GOOD)
    with pytest.raises(ParamsError, match=r"runn.yaml.*closest: 'run.yaml'"):
        load_run(tmp_path / "runn.yaml")


def test_inputs_may_be_folders_and_uris(write, tmp_path):
    (tmp_path / "made").mkdir()
    text = "phases:\n  s: {kind: student, manifest: made, init_from: 'models:/fer-student@champion'}\n"
    inputs = load_run(write(text)).phase("s").inputs
    assert inputs["manifest"] == ["made"] and inputs["init_from"] == ["models:/fer-student@champion"]


def test_smoke_shrinks_every_phase_and_overrides_win(write):
    plan = load_run(write(GOOD), ["kd.epochs=2"], smoke=True)
    assert all(phase.params.smoke for phase in plan.phases)
    for phase in plan.phases:
        if phase.kind in ("teacher", "student"):
            p = phase.params
            assert p.epochs == (2 if phase.name == "kd" else 1) and getattr(p, "onnx", "best") == "best"
            assert p.image_size == (32 if phase.kind == "teacher" else 48)
            assert 0 < p.max_train_batches <= 4 and 0 < p.max_val_batches <= 2 and 14 <= p.batch_size <= 32
    assert plan.phase("import").params.sources[0].faces == 400
    assert plan.phase("evaluate").params.resamples == 100
    assert plan.phase("manifest").params.val_fraction == 0.25, "5 of 20 train rows, so that each role of val has some"
    none = load_run(write(GOOD.replace("manifest: {}", "manifest: {val_fraction: 0.0}")), smoke=True)
    assert none.phase("manifest").params.val_fraction == 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("plain_epochs: 5, ramp_end: 0.5", {"plain_epochs": 5 / 60, "ramp_end": 0.5, "image_size": 48}),
        ("plain_epochs: 6, ramp_end: 30", {"plain_epochs": 0.1, "ramp_end": 0.5, "embed_dim": 64}),
        ("processes: 24, batch_size: 96", {"batch_size": 48, "processes": 24}),
        ("init_from: 'models:/fer-teacher@champion', embed_dim: 512", {"embed_dim": 512, "image_size": 48}),
        ("backbone: hrnet_w18_small", {"image_size": 224}),  # it takes multiples of 32 only
        ("backbone: vit_base_patch16_384, image_size: 384", {"image_size": 48}),
    ],
)
def test_smoke_keeps_parameters_consistent(write, params, expected):
    text = f"phases:\n  import: {{}}\n  manifest: {{}}\n  t: {{kind: teacher, {params}}}\n"
    p = load_run(write(text), smoke=True).phase("t").params
    assert {key: getattr(p, key) for key in expected} == pytest.approx(expected)


def test_smoke_keeps_small_values(write):
    text = GOOD.replace("epochs: 3", "epochs: 1, max_train_batches: 2").replace("faces: 700", "faces: 70")
    plan = load_run(write(text), smoke=True)
    assert plan.phase("teacher_a").params.max_train_batches == 2 and plan.phase("import").params.sources[0].faces == 70
