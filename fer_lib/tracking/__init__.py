"""MLflow: the store, the runs in it and the model registry."""
