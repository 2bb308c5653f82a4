"""RAF-AU (Yan et al. 2020): refused, because it labels action units instead of expressions."""

from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source


def read(builder: ImportBuilder) -> None:
    raise DataError(
        f"{builder.name}: RAF-AU ({builder.root}) labels facial action units, not one of the seven expressions, and "
        "its authors give no rule that maps one to the other: it can't be imported. Leave it out; RAF-DB and RAF-ML "
        "are imported as rafdb_basic, rafdb_compound_mapped and rafml_argmax"
    )


SOURCE = Source(read)
