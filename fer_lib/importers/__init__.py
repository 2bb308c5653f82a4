"""Raw datasets become rows and image folders: one declaration per source, one engine for all of them.

To add a source, copy a declaration that is like it: ``tree.py`` and ``ckplus.py`` read class folders, ``rafml.py`` a
list of files and labels, ``expw.py`` photos with boxes.  docs/adding-a-source.md shows a complete one.  What several
declarations read alike is in ``*_files.py``, ``archives.py``, ``crops.py``, ``pixel_rows.py``, ``votes.py`` and
``subject_splits.py``.  ``csv_import.py`` makes a manifest of an interchange CSV.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_lib.importers.engine import ImportResult, import_all, import_source, read_imports

__all__ = ["ImportResult", "import_all", "import_source", "read_imports"]


def __getattr__(name: str) -> Any:  # lazy: the cache key reads the source table without loading the engine
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import fer_lib.importers.engine as engine

    return getattr(engine, name)
