"""The run's report: report.html and loss.png in the run's folder, made of the other files there.

`python -m trainer.report FOLDER` is a program of its own, so that neither a step nor the launcher's end waits for it or
fails with it: rank 0 and the launcher start it (process.py). Never loads torch.
"""
