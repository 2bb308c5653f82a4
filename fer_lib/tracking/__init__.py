"""What a person compares later: the MLflow store, the runs in it, the model registry."""
