"""The README, followed line by line in a clean clone: its commands, its Python, its run file, its tables."""

import json
import os
import re
import subprocess
import sys

import pytest
from road import REPO, environment

from fer_lib.cli.main import COMMANDS
from fer_lib.params import KINDS

README = (REPO / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language (the empty name: those without one)."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table(head: str) -> list[list[str]]:
    """Cells of the table whose head line begins so, without back ticks."""
    lines = README[README.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clean clone, beside a home folder of the user's own that holds two raw datasets and photos."""
    from PIL import Image

    from fer_lib.synthetic.dataset import draw_faces, write_raw

    base = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "clone", "-q", str(REPO), str(base / "fer-lab")], check=True)
    write_raw(base / "user" / "faces", "tree", faces=210, seed=4)
    write_raw(base / "user" / "fer2013", "fer2013_csv", faces=210, seed=5)
    pictures, _ = draw_faces(2, seed=6, size=160)
    (base / "fer-lab" / "folder").mkdir()
    Image.fromarray(pictures[0]).save(base / "fer-lab" / "photo.jpg")
    Image.fromarray(pictures[1]).save(base / "fer-lab" / "folder" / "one.png")
    return base / "fer-lab"


def shell(clone, *words: str):
    """A command in the clone, whose code it uses; returns the process and its processor seconds."""
    before = sum(os.times()[2:4])
    user = environment(None) | {"HOME": str(clone.parent / "user"), "PYTHONPATH": str(clone)}
    done = subprocess.run([sys.executable, *words], cwd=clone, env=user, capture_output=True, text=True, timeout=3000)
    return done, sum(os.times()[2:4]) - before


def fer(clone, line: str):
    words = line.split()
    assert words[0] == "fer" and words[1] in COMMANDS, line
    return shell(clone, "-m", "fer_lib.cli.main", *words[1:])


@pytest.fixture(scope="module")
def quickstart(clone):
    [line] = {line for block in blocks("") for line in block.splitlines() if line.startswith("fer run params/q")}
    done, seconds = fer(clone, line)
    assert done.returncode == 0, done.stdout + done.stderr
    return line, done.stdout, seconds


def test_the_quickstart_shows_a_table_with_chance_and_what_to_open(clone, quickstart):
    line, said, seconds = quickstart
    print(f"{line}: {seconds:.0f} processor seconds")
    assert "chance" in said and "fer ui" in said and "fer-demo v1 @candidate" in " ".join(said.split())
    assert seconds < 2 * 180, "three minutes on two cores"
    again, took = fer(clone, line)
    assert again.returncode == 0 and again.stdout.count("re-used") >= 9 and took < 15
    for result in clone.glob("mlruns/phases/evaluate-*/evaluation.json"):
        for name, model in json.loads(result.read_text())["models"].items():
            reached = model["views"]["none"]["all"]["raw"]["accuracy"]
            assert 2 / 7 < reached < 1.0, f"{name} reaches {reached:.3f}: it clearly learns and does not know all"


def test_the_lines_about_prediction(clone, quickstart):
    [line] = [line for block in blocks("") for line in block.splitlines() if line.startswith("fer predict")]
    done, _ = fer(clone, line)
    assert done.returncode == 0, done.stderr
    assert "photo.jpg" in done.stdout and "one.png" in done.stdout and "packaged" in done.stdout
    assert done.stderr.startswith("model: packaged student_dkd (trained on 28,709 faces of fer2013)")
    assert {path.name for path in (clone / "out").iterdir()} == {"photo.png", "one.png"}
    done, _ = fer(clone, "fer predict photo.jpg folder/ --whole --json")
    assert [len(r["faces"]) for r in json.loads(done.stdout)["results"]] == [1, 1]
    [code] = blocks("python")
    images = "import numpy\nimages = [numpy.full((60, 50, 3), 90, 'uint8'), open('folder/one.png', 'rb').read()]\n"
    shown = code.replace("mlflow.pyfunc.load_model", "result = mlflow.pyfunc.load_model") + "print(result.shape)\n"
    done, _ = shell(clone, "-c", images + shown)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "(2, 7)", done.stderr


def test_your_own_data(clone, quickstart):
    [text] = blocks("yaml")
    (clone / "params" / "mine.yaml").write_text(text)
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("fer run params/mine")]
    assert [line for line in lines if line.endswith("--smoke")]
    for line in lines:
        done, _ = fer(clone, line + " --smoke -p resnet.pretrained=nowhere/weights.pth --only import")
        assert done.returncode == 0, done.stdout + done.stderr
    done, _ = fer(clone, "fer run params/mine.yaml --smoke -p resnet.pretrained=none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my-student v1 @candidate" in " ".join(done.stdout.split())
    done, _ = fer(clone, "fer models --json")
    assert {m["name"] for m in json.loads(done.stdout)} == {"fer-demo", "my-student"}


def test_nothing_of_it_is_seen_by_git(clone, quickstart):
    status = subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True)
    own = {"folder/", "photo.jpg", "out/", "params/mine.yaml"}
    assert {line.split()[-1] for line in status.stdout.splitlines()} <= own


def test_the_tables_name_what_is_there(clone):
    assert {row[0]: row[1] for row in table("notebook")} == {stem: kind for kind, (_, stem) in KINDS.items()}
    assert {row[0].split()[1] for row in table("command")} == set(COMMANDS)
    folders = [name.strip() for row in table("folder") for name in row[0].split(",")]
    assert "fer_lib/" in folders and all((clone / name).is_dir() for name in folders)
    listed = subprocess.run(["make"], cwd=clone, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"`make (\w+)", README):
        assert f"make {target} " in listed
