"""The plan as a Kubeflow pipeline: compiled, checked, run here without a cluster, or submitted to one."""
