"""Raw datasets become rows and image folders: one declaration per raw layout, one engine for all of them."""

from typing import Any

__all__ = ["ImportResult", "import_all", "import_source", "read_imports"]  # noqa: F822


def __getattr__(name: str) -> Any:  # lazy: the source table is read where nothing is imported
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import fer_lib.importers.engine as engine

    return getattr(engine, name)
