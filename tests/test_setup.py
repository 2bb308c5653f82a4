"""pyproject.toml, requirements.lock, environment.yml, the README and the imports agree."""

import ast
import contextlib
import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from fer_lib import __version__
from fer_lib.params import KINDS
from fer_lib.pipeline.runfile import load_run

IMPORTED_AS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
    "websocket": "websocket-client",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}


CUDA_LIBRARY = re.compile("cuda-|triton|nvidia-(cu|nccl|nv)")  # torch itself pins these
PLATFORMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
]


@pytest.fixture(scope="module")
def project(repo) -> dict:
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def declared(project) -> list[Requirement]:
    """The requirements of the project and of the extras that the lock installs: not those under LGPL."""
    extras = [text for extra in ("test", "weights") for text in project["optional-dependencies"][extra]]
    return [Requirement(text) for text in project["dependencies"] + extras]


@pytest.fixture(scope="module")
def lock(repo) -> dict[str, Requirement]:
    """The pins of both files, torch's first."""
    files = (repo / "requirements-torch.txt", repo / "requirements.lock")
    lines = [line for file in files for line in file.read_text().splitlines()]
    pins = [Requirement(line.removesuffix(" \\")) for line in lines if re.match(r"\w", line)]
    assert len(pins) == len({pin.name for pin in pins}), "a package is pinned twice"
    return {canonicalize_name(pin.name): pin for pin in pins}


def test_the_lock_is_plain_pins_without_host_path_or_local_version(lock):
    for pin in lock.values():
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and pin.url is None, f"{pin} is not a plain pin"
        assert Version(specifier.version).local is None, f"{pin} names a local build"


def test_every_pin_has_hashes_but_those_of_torch(repo):
    torch = (repo / "requirements-torch.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in torch] == ["torch", "torchvision"]
    for name in ("requirements.lock", "requirements-uv.txt", "requirements-headless.txt"):
        text = (repo / name).read_text()
        pins = re.findall(r"^(\w\S*)==.*?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE)
        assert pins and all(hashes for _, hashes in pins), [pin for pin, hashes in pins if not hashes]
        assert not {pin for pin, _ in pins} & {"torch", "torchvision"}


def test_the_lock_satisfies_every_range_of_pyproject(declared, lock):
    for requirement in declared:
        pin = lock.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is declared and not pinned: make lock"
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version), f"{requirement} refuses the pin {version}: make lock"


def reached(requirements: list[Requirement], platform: dict[str, str]) -> set[str]:
    """All that ``requirements`` need on ``platform``, by the metadata of what is installed here."""
    found, queue = set(), [(requirement, "") for requirement in requirements]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if CUDA_LIBRARY.match(name) or (
            requirement.marker and not requirement.marker.evaluate(platform | {"extra": extra})
        ):
            continue
        for extra in {"", *requirement.extras} - {e for n, e in found if n == name}:
            found.add((name, extra))
            with contextlib.suppress(metadata.PackageNotFoundError):  # what only another platform needs
                queue += [(Requirement(text), extra) for text in metadata.requires(name) or ()]
    return {name for name, _ in found}


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform["sys_platform"])
def test_the_lock_has_every_dependency_and_no_other(declared, lock, platform):
    pinned = {name for name, pin in lock.items() if pin.marker is None or pin.marker.evaluate(platform)}
    assert pinned == reached(declared, platform), "the lock is out of date: make lock"


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0", "3.14.0"])
def test_every_pin_installs_on_every_python_from_the_oldest_on(lock, python):
    """Debian 12 has 3.11.2: a pin that wants 3.11.5 would leave its users without a set-up."""
    for name in set(lock) & {canonicalize_name(d.name) for d in metadata.distributions()}:
        if lock[name].marker and not lock[name].marker.evaluate(
            {"python_version": python.rpartition(".")[0], "python_full_version": python}
        ):
            continue
        wanted = metadata.metadata(name).get("Requires-Python") or ""
        assert SpecifierSet(wanted).contains(python), f"{lock[name]} wants Python {wanted}"


def test_conda_installs_the_lock_and_the_project(repo, project, lock):
    environment = yaml.safe_load((repo / "environment.yml").read_text())
    *plain, last = environment["dependencies"]
    assert environment["name"] == project["name"]
    *pins, editable = last["pip"]
    assert editable == "-e ." and [Requirement(pin) for pin in pins] == list(lock.values()), "make lock writes both"
    python = next(item for item in plain if item.startswith("python="))
    assert Requirement("python" + project["requires-python"]).specifier.contains(python.split("=")[1])


def test_versions_agree(repo, project):
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert project["version"] == __version__ == str(citation["version"])
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (repo / "LICENSE").read_text()


def test_the_readme_has_the_current_versions_and_commands(repo, project, lock):
    text = (repo / "README.md").read_text()
    for name in ("torch", "torchvision"):
        versions = set(re.findall(rf"\b{name}==([\w.]+)", text))
        assert versions == {next(iter(lock[name].specifier)).version}, f"{name} in the README"
    assert "Python " + project["requires-python"].removeprefix(">=") in text
    targets = set(re.findall(r"^([a-z]+):.*##", (repo / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`| )make ([a-z]+)\b(?=`|$| FRESH)", text, re.M))
    assert {"demo", "test", "proofs"} <= named <= targets
    assert re.search(r"^pip install -e \.$", text, re.M) and "fer run params/quickstart.yaml" in text


def test_the_readmes_run_files_are_valid(repo, tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (repo / "README.md").read_text(), re.M | re.S)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert load_run(path).phases


def test_the_readmes_commands_exist(repo):
    commands = sorted(set(re.findall(r"^\| `fer ([a-z]+)", (repo / "README.md").read_text(), re.M)))
    assert "run" in commands
    for command in commands:
        code = "from fer_lib.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"fer {command}: {done.stderr}"


def test_the_readmes_paths_and_notebooks_exist(repo):
    text = (repo / "README.md").read_text()
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    folders = re.findall(r"`((?:fer_lib|notebooks|params|tests|docs|benchmarks|mlruns)/(?:\w+/)*)`", text)
    assert linked and folders
    absent = [path for path in linked + folders if not (repo / path).exists()]
    assert not absent, absent
    rows = dict(re.findall(r"^\| `(\d\d_\w+)` \| `(\w+)` \|", text, re.M))
    assert rows == {stem: kind for kind, (_, stem) in KINDS.items()}


def _third_party(path) -> set[str]:
    """Top-level packages that a module imports, at any depth of its code, but for the standard library and itself."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"fer_lib"}


FOLDERS = {"fer_lib": ["weights", "archives"], "benchmarks": ["test"], "tests": ["test", "weights", "archives"]}


@pytest.mark.parametrize("folder, extras", FOLDERS.items())
def test_every_imported_package_is_declared(repo, project, folder, extras):
    texts = project["dependencies"] + [text for extra in extras for text in project["optional-dependencies"][extra]]
    known = {canonicalize_name(Requirement(text).name) for text in texts}
    local = {path.stem for path in (repo / folder).rglob("*.py")} if folder != "fer_lib" else set()
    files = sorted((repo / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in _third_party(path) - local - {"tests"}:
            distribution = canonicalize_name(IMPORTED_AS.get(name, name))
            assert distribution in known, f"{path.relative_to(repo)} imports {name}: not declared in pyproject.toml"
