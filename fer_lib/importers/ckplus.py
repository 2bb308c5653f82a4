"""CK+ (Lucey et al. 2010) in class folders: ``<class>/S010_004_00000017.png``.

The person is S and three digits; the split goes by person.
"""

import re

from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.image_files import class_images
from fer_lib.importers.subject_splits import OPTIONS, add_by_subject

NAME = re.compile(r"(?P<subject>S\d{3})_")


def read(builder: ImportBuilder) -> None:
    add_by_subject(class_images(builder), NAME, builder)


DECLARATIONS = {"ckplus": Source(read, OPTIONS)}
