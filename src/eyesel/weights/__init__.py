"""From a name to a model and back: the only place that knows file formats and the hub."""
