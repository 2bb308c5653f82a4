"""Audits: exact duplicates and near-duplicates of a manifest, and label noise."""
