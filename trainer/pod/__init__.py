"""How one pod lives and ends: environment, ownership, attempts, ranks, outcome. Torch-free."""
