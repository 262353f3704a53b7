"""Is a cluster ready, and what would a config hit there? Checks over what it answered (kctl.backends.survey)."""
