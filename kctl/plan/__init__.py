"""What a run needs, takes and costs, before anything is submitted. Arithmetic alone: no cluster, nothing is trained."""
