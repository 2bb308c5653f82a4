"""The raw layouts: source name in the parameters -> module that declares it.

The engine imports a module when one of its sources is used, so the cache key of an import covers no other modules.
"""

SOURCES: dict[str, str] = {
    "affectnet_yolo_format": "fer_lib.importers.affectnet_yolo",
    "ckplus": "fer_lib.importers.ckplus",
    "expw_full": "fer_lib.importers.expw",
    "expw_hq": "fer_lib.importers.expw",
    "fer2013": "fer_lib.importers.fer2013",
    "ferplus": "fer_lib.importers.ferplus",
    "jaffe": "fer_lib.importers.jaffe",
    "raf_au": "fer_lib.importers.rafdb",
    "rafdb_basic": "fer_lib.importers.rafdb",
    "rafdb_compound_mapped": "fer_lib.importers.rafdb",
    "rafml_argmax": "fer_lib.importers.rafml",
    "tree": "fer_lib.importers.tree",
}
