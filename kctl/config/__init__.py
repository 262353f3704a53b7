"""Run configs and cluster profiles: reading, inheriting, overriding, checking."""
