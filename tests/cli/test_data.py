"""``fer data``: the road from raw trees to a curated manifest, and what it says to a person who errs."""

import json

import pytest

from fer_lib.cli.main import main
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.dataset import write_raw


@pytest.fixture
def fer(capsys, monkeypatch):
    """Run ``fer data WORDS``: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["data", *map(str, words)])
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return call


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw") / "tree", "tree", faces=84, seed=5, size=24)


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    """Folders of imports and of the manifest built of them."""
    folder = tmp_path_factory.mktemp("built")
    for words in (["import", "--source", "tree", "--root", str(raw), "-o", str(folder / "imports")],
                  ["build", str(folder / "imports"), "-o", str(folder / "manifest")]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main(["data", *words])
        assert not end.value.code
    return folder


def test_import_by_name_and_by_file_give_the_same_rows(fer, raw, tmp_path):
    code, out, err = fer("import", "--source", "tree", "--root", raw, "-p", "name=own", "-o", tmp_path / "a")
    assert code == 0 and "84 rows in" in out and "own" in out and err == ""
    for text in (f"sources: [{{source: tree, root: '{raw}', name: own}}]",
                 f"phases: {{import: {{sources: [{{source: tree, root: '{raw}', name: own}}]}}}}"):  # fmt: skip
        (tmp_path / "in.yaml").write_text(text)
        code, out, _ = fer("import", tmp_path / "in.yaml", "-o", tmp_path / "b")
        assert code == 0 and "84 rows in" in out
        assert (tmp_path / "a/own/rows.parquet").read_bytes() == (tmp_path / "b/own/rows.parquet").read_bytes()
    report = json.loads((tmp_path / "a" / "clean_report.json").read_text())
    assert report["manifest"]["rows"] == 84


def test_bars_and_contact_sheets_lie_beside_every_report(fer, built, tmp_path):
    short = tmp_path / "m.csv"
    fer("export-csv", built / "manifest", short, "--form", "short")
    short.write_text(short.read_text().replace(",tree", ",=my set/1"))
    fer("import-manifest", short, "--root", built / "imports", "-o", tmp_path / "csv")
    fer("curate", built / "manifest", "-o", tmp_path / "curated")
    pages = {built / "imports": {"imported_rows", "contact_tree"}, built / "manifest": {"rows", "contact_tree"},
             tmp_path / "curated": {"rows", "contact_tree"},
             tmp_path / "csv": {"rows", "contact__my_set_1"}}  # fmt: skip
    for folder, wanted in pages.items():
        assert {path.stem for path in folder.glob("*.png")} == wanted
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


def test_progress_without_a_terminal_is_a_line_now_and_then(fer, raw, tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lib.pipeline.progress.LINE_SECONDS", 0.001)
    monkeypatch.setattr("fer_lib.storage.progress.INTERVAL", 0.0)
    two = ", ".join(f"{{source: tree, root: '{raw}', name: {name}}}" for name in ("one", "two"))
    (tmp_path / "in.yaml").write_text(f"sources: [{two}]")
    code, _, err = fer("import", tmp_path / "in.yaml", "-o", tmp_path / "imports")
    assert code == 0 and "import 50 %  dataset 2/2  importing two" in err and "\x1b" not in err
    _, _, err = fer("build", tmp_path / "imports", "-o", tmp_path / "manifest")
    assert "checking images 0/168" in err


def test_a_relative_root_is_the_callers(fer, raw, tmp_path, monkeypatch):
    monkeypatch.chdir(raw.parent)
    assert fer("import", "--source", "tree", "--root", raw.name, "-o", tmp_path / "a")[0] == 0


def test_what_was_left_out_is_shown(fer, raw, tmp_path):
    (raw.parent / "odd" / "train").mkdir(parents=True)
    for name in ("happy", "contempt"):
        (raw.parent / "odd" / "train" / name).symlink_to(raw / "train" / "happiness")
    code, out, err = fer("import", "--source", "tree", "--root", raw.parent / "odd", "-o", tmp_path / "a")
    assert code == 0 and "excluded (train)" in out and "contempt" in out
    assert "warning: tree: split train has no Angry" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import", "-o", "x"], 2, "either a params file or --source"),
        (["import", "some.yaml", "--source", "tree", "-o", "x"], 2, "either a params file or --source"),
        (["import", "some.yaml", "--root", "y", "-o", "x"], 2, "belong to --source"),
        (["import", "none.yaml", "-o", "x"], 2, "cannot read none.yaml"),
        (["import", "--source", "tree", "-o", "x"], 2, "needs --root"),
        (["import", "--source", "tree", "--root", "nowhere", "-o", "x"], 1, "does not exist"),
        (["import", "--source", "treee", "--root", "embedded", "-o", "x"], 1, "unknown source 'treee'"),
        (
            ["import", "--source", "tree", "--root", "embedded", "-p", "tolerence=1", "-o", "x"],
            2,
            "closest: 'tolerance'",
        ),
        (["import", "--source", "tree", "--root", "embedded", "-p", "tolerance", "-o", "x"], 2, "key=value"),
        (["import", "--source", "tree", "--root", "embedded", "-p", "name=[", "-o", "x"], 2, "not valid YAML"),
        (["import", "--source", "tree", "--root", "embedded"], 2, "--out"),
        (["build", "nowhere", "-o", "x"], 1, "no imported dataset"),
        (["build", "nowhere", "-o", "x", "-p", "val_fraction=2"], 2, "val_fraction"),
        (["build", "nowhere", "-o", "x", "-p", "output_dir=y"], 2, "the command's own"),
        (["build", "nowhere", "-o", "x", "-p", "manifests=[y]"], 2, "joined by fer data curate"),
        (["build", "nowhere", "-o", "x", "-p", "curate={min_blur: -1}"], 2, "curate.min_blur"),
        (["import", "--source", "tree", "--root", "embedded", "-p", "name=2024-13-45", "-o", "x"], 2, "2024-13-45"),
        (["curate", "nowhere", "-o", "x"], 1, "nowhere is missing"),
        (["curate", "nowhere", "-o", "x", "--selection", "all"], 2, "classification_manifest"),
        (["curate", "nowhere", "-o", "x", "-p", "min_bluur=3"], 2, "closest: 'min_blur'"),
        (["curate", "-o", "x"], 2, "MANIFEST"),
        (["validate", "nowhere"], 1, "nowhere is missing"),
        (["validate", "nowhere", "--allow", "across_split"], 2, "closest: 'across_splits'"),
        (["validate", "."], 1, "neither manifest.parquet nor imported datasets"),
        (["stats", "nowhere"], 1, "nowhere is missing"),
        (["stats"], 2, "manifest"),
        (["import-manifest", "none.csv", "--root", ".", "-o", "x"], 1, "none.csv: No such file"),
        (["import-manifest", "none.csv", "--root", ".", "-o", "x", "--rebase", "noequals"], 2, "OLD=NEW"),
        (["export-csv", "nowhere", "a.csv"], 1, "nowhere is missing"),
        (["export-csv", "nowhere", "a.csv", "--form", "long"], 2, "long"),
        (["valdate", "x"], 2, "valdate"),
    ],
)
def test_errors_are_told_in_a_line_with_their_exit_code(fer, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    found, _, err = fer(*words)
    assert found == code and said in err, err
    assert "Traceback" not in err and list(tmp_path.glob("x/*.*")) == []


def test_build_and_stats_count_alike(fer, built):
    code, out, _ = fer("stats", built / "manifest", "--json")
    found = json.loads(out)
    manifest = Manifest.read(built / "manifest" / "manifest.parquet")
    assert code == 0 and found["sha256"] == manifest.sha256 and found["facts"]["rows"] == len(manifest) == 84
    assert sum(found["counts"]["tree"]["train"].values()) == (manifest.frame["split"] == "train").sum()
    assert json.loads((built / "manifest" / "outputs.json").read_text())["ids"]["manifest_sha256"] == manifest.sha256
    code, out, _ = fer("stats", built / "manifest" / "manifest.parquet")
    assert code == 0 and all(name in out for name in (*EMOTIONS, "train", "val", "test", "84"))
    code, out, _ = fer("stats", built / "imports")
    assert code == 0 and "84" in out


def test_curate_says_what_each_step_took(fer, built, tmp_path):
    words = ("curate", built / "manifest", built / "manifest", "-o", tmp_path / "out", "-p", "max_per_class=3")
    code, out, _ = fer(*words, "--selection", "classification_manifest")
    assert code == 0 and "at most 3 of each class in train" in out
    kept = Manifest.read(tmp_path / "out" / "manifest.parquet")
    train = kept.frame[kept.frame["split"] == "train"]
    assert train.groupby("label").size().max() == 3
    assert all(kept.resolve(path).is_file() for path in kept.frame["image_path"])
    code, _, err = fer("curate", built / "manifest", "-o", tmp_path / "no", "--selection", "uncleaned_test_all_sources",
                       "-p", "deduplicate=true")  # fmt: skip
    assert code == 2 and "keeps every row" in err
    code, _, err = fer("curate", built / "manifest", "-o", tmp_path / "no", "--selection",
                       "classification_manifest_eval_only")  # fmt: skip
    assert code == 1 and "lack expw_full" in err and not (tmp_path / "no").exists()


def test_validate_finds_what_is_wrong(fer, raw, tmp_path):
    victim = raw.parent / "worse"
    write_raw(victim, "tree", faces=84, seed=5, size=24, leaks=2)
    imports, manifest = tmp_path / "imports", tmp_path / "manifest"
    fer("import", "--source", "tree", "--root", victim, "-p", "mode=copy", "-o", imports)
    fer("build", imports, "-o", manifest)
    code, out, err = fer("validate", manifest)
    assert code == 1 and "across_splits 2" in err and "contents that stand in more than one split" in out
    code, out, _ = fer("validate", manifest, "--allow", "across_splits", "--allow", "conflicting_labels")
    assert code == 0 and "valid but for what was allowed" in out
    paths = Manifest.read(manifest / "manifest.parquet").frame["image_path"]
    (imports / paths[0]).unlink()
    (imports / paths[1]).write_text("no image")
    code, out, err = fer("validate", manifest, "--allow", "across_splits", "--allow", "conflicting_labels")
    assert code == 1 and "missing 1, undecodable 1" in err and paths[0] in out and paths[1] in out
    code, out, _ = fer("validate", manifest, "--json")
    report = json.loads(out)
    assert code == 1 and (report["rows_total"], report["rows_valid"], report["missing_paths"]) == (86, 84, 1)
    assert report["decode"] == {"attempted": 85, "ok": 84, "fail": 1}
    wanted = {"manifest", "root", "rows_total", "rows_valid", "bad_labels", "missing_paths", "decode", "boxes_outside",
              "duplicates", "counts", "canonical"}  # fmt: skip
    assert wanted <= set(report) and {"exact", "near", "across_splits"} <= set(report["duplicates"])


def test_a_box_that_leaves_its_photo_is_told_but_not_wrong(fer, tmp_path):
    raw = write_raw(tmp_path / "raw", "expw", faces=84, seed=5, size=24)
    lines = (raw / "label.lst").read_text().splitlines()
    name, face, top, *rest = lines[0].split()
    (raw / "label.lst").write_text("\n".join([" ".join((name, face, "-3", *rest)), *lines[1:]]))
    assert fer("import", "--source", "expw_full", "--root", raw, "-o", tmp_path / "imports")[0] == 0
    assert fer("build", tmp_path / "imports", "-o", tmp_path / "manifest")[0] == 0
    code, out, err = fer("validate", tmp_path / "manifest")
    assert code == 0 and err == "" and "boxes_outside" in out and "(not wrong)" in out and "valid" in out
    code, out, _ = fer("validate", tmp_path / "manifest", "--json")
    assert code == 0 and json.loads(out)["boxes_outside"] >= 1


def test_a_sound_manifest_is_valid(fer, built):
    code, out, err = fer("validate", built / "manifest")
    assert code == 0 and "valid" in out and err == ""


def test_csv_out_and_in_through_another_machines_paths(fer, built, tmp_path):
    code, out, _ = fer("export-csv", built / "manifest", tmp_path / "m.csv", "--form", "short")
    assert code == 0 and "84 rows" in out
    lines = (tmp_path / "m.csv").read_text().splitlines()
    windows = [lines[0]] + [f"E:\\sets\\{line.replace('/', chr(92))}" for line in lines[1:]]
    (tmp_path / "w.csv").write_text("\n".join(windows))
    code, out, err = fer("import-manifest", tmp_path / "w.csv", "--rebase", "e:\\sets=.", "--root", built / "imports",
                         "-o", tmp_path / "out", "-p", "val_fraction=0")  # fmt: skip
    assert code == 0 and "rebased: {'e:\\\\sets=.': 84}" in out, err
    back, before = (Manifest.read(p / "manifest.parquet").frame for p in (tmp_path / "out", built / "manifest"))
    columns = ["image_path", "label", "split", "source", "content_id"]
    assert sorted(map(tuple, back[columns].to_numpy())) == sorted(map(tuple, before[columns].to_numpy()))
    code, _, err = fer("import-manifest", tmp_path / "w.csv", "--root", built / "imports", "-o", tmp_path / "no")
    assert code == 1 and "w.csv: 84 bad records" in err and "line 2: image_path" in err and "--rebase OLD=NEW" in err
    assert not (tmp_path / "no").exists()


def test_the_audit_lists_copies_and_writes_the_manifest_without_them(fer, tmp_path):
    raw = write_raw(tmp_path / "raw", "tree", faces=84, seed=6, size=48, leaks=5, duplicates=4)
    assert fer("import", "--source", "tree", "--root", raw, "-o", tmp_path / "imports")[0] == 0
    assert fer("build", tmp_path / "imports", "-o", tmp_path / "manifest")[0] == 0
    code, out, err = fer("audit", tmp_path / "manifest", "-o", tmp_path / "audited", "-p", "remove=all")
    assert code == 0, err
    report = json.loads((tmp_path / "audited" / "audit.json").read_text())
    assert report["exact"]["across_splits"] == 5 and report["exact"]["groups"] >= 9
    assert len(Manifest.read(tmp_path / "audited" / "manifest.parquet")) == 93 - report["removed"]["rows"] <= 84
    assert "Groups of equal images" in out and "rows that are also in train" in out
    assert (tmp_path / "audited" / "matrices.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "audited" / "across_splits.png").is_file()


def test_an_audit_refuses_what_it_does_not_know(fer, built, tmp_path):
    code, _, err = fer("audit", built / "manifest", "-o", tmp_path / "a", "-p", "remove=some")
    assert code == 2 and "remove" in err and not (tmp_path / "a").exists()
    code, _, err = fer("audit", built / "manifest", "-o", tmp_path / "a", "-p", "nosie=true")
    assert code == 2 and "nosie" in err and "noise" in err
    code, _, err = fer("audit", tmp_path / "none", "-o", tmp_path / "a")
    assert code == 1 and str(tmp_path / "none") in err
