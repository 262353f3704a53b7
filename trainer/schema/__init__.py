"""The contract between kctl and the trainer. Torch-free, Kubernetes-free."""
