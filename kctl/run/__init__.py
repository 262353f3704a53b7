"""What people ask of runs, on either backend: find, submit, follow, logs, pull."""
