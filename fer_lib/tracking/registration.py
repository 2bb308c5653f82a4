"""Registration of a phase's model: the new version, its alias, and a message about both."""

from __future__ import annotations

from fer_lib.models.bundle import Bundle
from fer_lib.storage.phase_result import Registration
from fer_lib.tracking.registry import alias_message, alias_version, permitted_alias, register_bundle


def register_model(
    bundle: Bundle, name: str, alias: str, run_id: str, smoke: bool = False, description: str = ""
) -> Registration:
    """Register ``bundle`` as a new version of ``name`` and move ``alias`` to it, unless the alias is not permitted.

    ``run_id``: the run that made it; ``smoke``: whether that run is a rehearsal.
    Raises FerError when MLflow refuses the name or the alias.
    """
    permitted, refusal = permitted_alias(bundle, name, alias, smoke)
    before = alias_version(name, permitted)
    version = register_bundle(bundle, name, permitted, run_id, description=description)
    message = alias_message(name, permitted, version, before, bundle)
    return Registration(name, version, permitted, message, refusal)
