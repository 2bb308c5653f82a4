"""The manifest and what is made of it: one row per face, its ids, splits, packed faces and batches.

manifest.py             rows, ``sample_id``, paths; parquet_io.py: the file
evalset_ids.py          ``evalset_id`` and ``protocol_id``: which scores can be compared
build.py, splits.py     from imports to a manifest with val and its roles; import_folder.py: what an import leaves
assemble.py, curate.py  joined, filtered and capped manifests; quality.py: size and sharpness; validate.py: checks
duplicate_records.py    what a manifest records of duplicates (the search for them: ``fer_lib.audit``)
provenance.py           which images and sources a model was trained on
openings.py             the log of test rows that were read
facepack.py             faces prepared once, opened and read; facepack_writer.py: written; cropping.py: faces of rows
batches.py              the batches of a training step
interchange.py          CSV for other tools (read by ``importers/csv_import.py``); sheets.py, charts.py: figures of rows
"""
