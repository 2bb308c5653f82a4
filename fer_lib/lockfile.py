"""Writes ``requirements.lock`` from the environment it runs in: ``make lock``.

The lock holds every distribution that the project, with its extras, reaches through the installed metadata, and
nothing that merely happens to be installed.  Two kinds are left to pip on purpose: the CUDA libraries, which torch
itself pins exactly, and the few packages that only another platform needs and that are therefore not installed here.
"""

import importlib.metadata as metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from fer_lib.errors import FerError

PROJECT = "fer-lab"
EXTRAS = ("test", "weights")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
}
HEADER = """\
# Exact pins of everything that the project (with its extras test and weights) was tested with. Written by `make lock`.
# Local build tags (+cpu, +cu130) are left out: the pins fit CPU and CUDA builds. torch pins its own CUDA libraries.
"""


def _requirements(name: str, extras: frozenset[str], platform: str):
    """The requirements of an installed distribution that apply on ``platform``."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if name == "torch" and "platform_system" in str(requirement.marker):
            continue  # the CUDA libraries of the Linux build
        environments = [{**PLATFORMS[platform], "extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def closure(platform: str) -> dict[str, str | None]:
    """Canonical name -> installed version (None where absent) of all that the project reaches on ``platform``."""
    found: dict[str, str | None] = {}
    seen, queue = set(), [(PROJECT, frozenset(EXTRAS))]
    while queue:
        name, extras = item = queue.pop()
        if item in seen:
            continue
        seen.add(item)
        try:
            found[name] = metadata.version(name)
            queue.extend(_requirements(name, extras, platform))
        except metadata.PackageNotFoundError:
            found[name] = None
    found.pop(PROJECT)
    return found


def marker(name: str, reached: dict[str, dict]) -> str:
    """The platforms and the newest Python of a pin, as a marker; blank where it is for all of them."""
    conditions = []
    if name not in reached["win32"] or name not in reached["darwin"]:
        conditions.append('sys_platform != "win32"' if name in reached["darwin"] else 'sys_platform == "linux"')
    # what newer Pythons bring themselves (backports) does not install there; a bound at the next major says nothing
    for bound in SpecifierSet(metadata.metadata(name).get("Requires-Python") or ""):
        if bound.operator == "<" and Version(bound.version) < Version("4"):
            conditions.append(f'python_version < "{bound.version}"')
    return f" ; {' and '.join(conditions)}" if conditions else ""


def render() -> str:
    """The text of the lock.

    Raises FerError where something that the project needs here is not installed."""
    reached = {platform: closure(platform) for platform in PLATFORMS}
    here = reached["linux"]
    missing = sorted(name for name, version in here.items() if version is None)
    if missing:
        raise FerError(f"not installed in {sys.prefix}: {', '.join(missing)}. Install them, then write the lock again.")
    pins = (f"{name}=={Version(version).public}{marker(name, reached)}\n" for name, version in sorted(here.items()))
    return HEADER + "".join(pins)


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("the lock is written on Linux: its markers are worked out from there")
    try:
        lock = render()
    except FerError as stopped:
        sys.exit(str(stopped))
    (Path(__file__).resolve().parents[1] / "requirements.lock").write_text(lock)
