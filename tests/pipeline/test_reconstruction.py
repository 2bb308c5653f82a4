"""The run files of the five backbones, of two-stage training and of two sources: each can be planned, as intended.

All but the last run in tests/proofs/test_reconstruction_runs.py.
"""

import pytest

from fer_lib.params import TeacherParams
from fer_lib.pipeline.runfile import load_run

BACKBONES = ("resnet18", "resnet50", "tf_efficientnet_b3", "convnext_tiny", "vit_base_patch16_384")
SEEDS = (1337, 42, 2025)
UNIFIED = ("unified", "unified_pilot", "ablation", "ingredients")
FILES = ("two_stage", *UNIFIED, *(f"reconstruction/{name}" for name in ("data", *BACKBONES, "ensemble", "students")))


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
@pytest.mark.parametrize("name", FILES)
def test_every_file_can_be_planned(repo, name, smoke):
    plan = load_run(repo / "params" / f"{name}.yaml", smoke=smoke)
    assert plan.phases and all(phase.params.smoke == smoke for phase in plan.phases)
    if smoke:
        sizes = [p.params.image_size for p in plan.phases if p.kind in ("teacher", "student")]
        assert all(size == 48 for size in sizes), "of patches of 16 and 32 pixels a multiple"


def test_the_unified_run_joins_the_parts_of_a_source_and_audits_before_it_trains(repo):
    plan = load_run(repo / "params" / "unified.yaml")
    parts = [(s.name, s.splits) for s in plan.phase("import").params.sources if s.source == "affectnet_yolo_format"]
    assert parts == [("affectnet", ["train"]), ("affectnet", ["val", "test"])]
    fits = [phase for phase in plan.phases if phase.kind in ("teacher", "student")]
    assert len(fits) == 5 and {phase.inputs["manifest"][0].name for phase in fits} == {"audit"}


@pytest.mark.parametrize(("name", "count"), [("ablation", 6), ("ingredients", 7)])
def test_an_ablation_has_equal_seeds_and_one_change_at_a_time(repo, name, count):
    plan = load_run(repo / "params" / f"{name}.yaml")
    p = plan.phase("ablation").params
    assert len(p.variants) == count and p.control == next(iter(p.variants))
    settings = {}
    for variant, models in p.variants.items():
        fits = [plan.phase(model) for model in models]
        assert [fit.params.seed for fit in fits] == list(SEEDS)
        assert {fit.inputs["manifest"][0].name for fit in fits} == {"small_audit"}
        own = [fit.params.model_dump(exclude={"seed", "name"}) for fit in fits]
        assert own[0] == own[1] == own[2]
        settings[variant] = own[0]
    changed = {v: {k for k in own if own[k] != settings[p.control][k]} for v, own in settings.items()}
    if name == "ablation":
        names = {"ce": set(), "kd": {"mode", "alpha"}, "dkd": {"mode"}}
        names |= {f"{mode}_negl": changes | {"negative"} for mode, changes in names.items()}
        assert {own["epochs"] for own in settings.values()} == {12}
    else:
        steps = {"exclude_sources", "epochs", "warmup_epochs"}
        names = {"all": set(), "no_identity": {"pretrained"}, "no_votes": {"soft_label_weight"}}
        names |= {"no_mixup": {"mixup"}, "half_epochs": {"epochs", "warmup_epochs"}}
        names |= {"one_source": {"exclude_sources"}, "one_source_steps": steps}
        assert plan.phase("on_val").params.split == "val"
    assert changed == names
    expw = plan.phase("import_expw").params.sources[0]
    assert (expw.name, expw.split_fracs) == ("expw", (0.0, 0.0, 1.0)), "no model is trained or chosen on it"


def test_the_list_of_files_matches_the_folder(repo):
    found = {f"reconstruction/{p.stem}" for p in (repo / "params" / "reconstruction").glob("*.yaml")}
    assert found == set(FILES) - {"two_stage", *UNIFIED}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_has_two_stages_per_seed(repo, backbone):
    plan = load_run(repo / "params" / "reconstruction" / f"{backbone}.yaml")
    default = TeacherParams()
    protocol = ("arcface_s", "arcface_m", "plain_epochs", "ramp_end", "epochs", "batch_size", "min_per_class",
                "imbalance", "weight_decay", "warmup_epochs", "min_lr", "embed_dim", "dropout")  # fmt: skip
    assert [getattr(default, key) for key in protocol] == [
        30, 0.35, 5, 15, 60, 64, 2, "balanced", 0.05, 2, 1e-5, 512, 0.2]  # fmt: skip
    fits = {p.name: p for p in plan.phases if p.kind == "teacher"}
    assert set(fits) == {f"{backbone}_{stage}_{seed}" for stage in "ab" for seed in SEEDS}
    for seed in SEEDS:
        a, b = (fits[f"{backbone}_{stage}_{seed}"] for stage in "ab")
        assert (a.params.image_size, a.params.lr, a.params.exclude_sources) == (224, 3e-4, [])
        assert (b.params.image_size, b.params.lr, b.params.exclude_sources) == (384, 1e-4, ["ferplus"])
        assert b.inputs["init_from"] == [a] and a.inputs["init_from"] == []
        for fit in (a, b):
            assert (fit.params.backbone, fit.params.seed, fit.params.clahe) == (backbone, seed, True)
            assert all(getattr(fit.params, key) == getattr(default, key) for key in protocol)
            assert [m.name for m in fit.inputs["manifest"]] == ["audit"]
    [evaluation] = [p for p in plan.phases if p.kind == "evaluate"]
    assert evaluation.inputs["models"] == list(fits.values()) and evaluation.params.exclude_sources == ["ferplus"]
    assert evaluation.params.split == "val", "test rows are for the end"


def test_the_backbone_files_differ_only_in_the_name(repo):
    """A change in one file has to be made in all five."""
    texts = set()
    for backbone in BACKBONES:
        lines = (repo / "params" / "reconstruction" / f"{backbone}.yaml").read_text().splitlines()
        texts.add("\n".join(line for line in lines if not line.startswith("#")).replace(backbone, "BACKBONE"))
    assert len(texts) == 1


def test_the_students_learn_from_the_ensemble_of_their_seed(repo):
    plan = load_run(repo / "params" / "reconstruction" / "students.yaml")
    assert sum(p.kind == "teacher" for p in plan.phases) == 30
    for seed in SEEDS:
        soft = plan.phase(f"five_{seed}")
        assert [t.name for t in soft.inputs["teachers"]] == [f"{backbone}_b_{seed}" for backbone in BACKBONES]
        before = None
        for mode, epochs in (("ce", 10), ("kd", 20), ("dkd", 10)):
            student = plan.phase(f"{mode}_{seed}")
            p = student.params
            assert (p.backbone, p.mode, p.epochs, p.seed) == ("mobilenetv3_large_100", mode, epochs, seed)
            assert (p.batch_size, p.lr, p.image_size) == (256, 1e-3, 224)
            assert student.inputs["softlabels"] == ([] if mode == "ce" else [soft])
            assert student.inputs["init_from"] == ([] if before is None else [before])
            before = student
    assert len(plan.phase("export").inputs["candidates"]) == 9
    legacy = plan.phase("legacy_rafdb").params
    assert (legacy.include_sources, legacy.calibration, legacy.fixed_temperature) == (["rafdb_basic"], "fixed", 1.2)


def test_two_stages_share_one_evaluation(repo):
    plan = load_run(repo / "params" / "two_stage.yaml")
    a, b = plan.phase("stage_a"), plan.phase("stage_b")
    assert (a.params.image_size, b.params.image_size, b.params.lr) == (224, 384, 1e-4)
    assert b.inputs["init_from"] == [a] and b.params.exclude_sources == ["ferplus"] and not a.params.exclude_sources
    for name in ("on_val", "on_test"):
        assert plan.phase(name).inputs["models"] == [a, b]
        assert plan.phase(name).params.exclude_sources == ["ferplus"]
