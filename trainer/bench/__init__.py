"""How fast this trainer is on this machine's GPU, beside what else there is: `python -m trainer.bench`."""
