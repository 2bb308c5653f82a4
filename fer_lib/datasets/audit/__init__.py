"""The audit of a manifest: which pictures are the same, exactly or nearly, and what follows for splits and labels."""
