"""Audits of a manifest: exact duplicates and near-duplicates, and label errors.

manifest_audit.py          the audit of duplicates and the manifest without leaks; result.py: its tables
hashes.py, near_duplicate_search.py, alignment.py, groups.py  the search, in this order
label_errors.py            confident learning and the rows ranked by it; figures.py: figures of both audits
"""
