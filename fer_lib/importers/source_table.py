"""The raw layouts: name in the parameters -> module that declares it.

The engine imports a module when its source is used, so the cache key of an import covers the modules of its own
sources only.
"""

SOURCES: dict[str, str] = {
    "affectnet_yolo_format": "fer_lib.importers.affectnet_yolo_format",
    "ckplus": "fer_lib.importers.ckplus",
    "expw_full": "fer_lib.importers.expw_full",
    "expw_hq": "fer_lib.importers.expw_hq",
    "fer2013": "fer_lib.importers.fer2013",
    "ferplus": "fer_lib.importers.ferplus",
    "jaffe": "fer_lib.importers.jaffe",
    "raf_au": "fer_lib.importers.raf_au",
    "rafdb_basic": "fer_lib.importers.rafdb_basic",
    "rafdb_compound_mapped": "fer_lib.importers.rafdb_compound_mapped",
    "rafml_argmax": "fer_lib.importers.rafml_argmax",
    "tree": "fer_lib.importers.tree",
}
