"""The YAML that ships with speechexp: the groups task, model, data, trainer and experiment."""
