"""Every module that no phase's cache key covers is on record, so that none leaves the keys unnoticed.

A key leaves out the modules below certain names, and those that the phase's notebook does not reach.  A module that
affects results and comes to lie among them would let a changed library pass for the old one.
"""

import json
from pathlib import Path

from fer_lib.importers.source_table import SOURCES
from fer_lib.pipeline.cache_key import PACKAGE, notebook_code, reachable, source_imports
from fer_lib.pipeline.cache_key import UNHASHED_MODULES as UNHASHED

UNCOVERED = Path(__file__).with_name("uncovered_modules.json")
NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))


def every_module() -> set[str]:
    """Dotted names of the package's modules and packages."""
    files = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {".".join(file.parts).removesuffix(".__init__") for file in files}


def is_left_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in UNHASHED)


def uncovered() -> dict[str, list[str]]:
    """Modules that are in no phase's key: left out by name, and reached by no notebook."""
    covered = set().union(*(reachable(notebook_code(notebook)) for notebook in NOTEBOOKS))
    covered |= set(reachable(source_imports("import", {"sources": [{"source": name} for name in SOURCES]})))
    modules = sorted(every_module() - covered)
    return {
        "left out by name": [module for module in modules if is_left_out(module)],
        "reached by no notebook": [module for module in modules if not is_left_out(module)],
    }


def test_every_name_that_is_left_out_is_a_module():
    assert UNHASHED
    missing = sorted(UNHASHED - every_module())
    assert not missing, f"the cache key leaves out {missing}, which are no modules: give the names that they have now"


def test_no_module_leaves_every_key_unnoticed():
    assert len(NOTEBOOKS) > 10
    recorded, found = json.loads(UNCOVERED.read_text()), uncovered()
    for why in found:
        new, gone = sorted({*found[why]} - {*recorded[why]}), sorted({*recorded[why]} - {*found[why]})
        assert found[why] == recorded[why], (
            f"{why}: new {new}, gone {gone}. No change of a new one invalidates a finished phase: see that it does not "
            "affect results, then: python tests/golden/test_golden_cache_key.py"
        )


if __name__ == "__main__":
    UNCOVERED.write_text(json.dumps(uncovered(), indent=1) + "\n")
    print(f"{UNCOVERED.name}: look at what changed (git diff) before committing it")
