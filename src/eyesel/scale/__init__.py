"""The server in several replicas, by Ray Serve (docs.ray.io/en/latest/serve), which starts, watches and scales them."""
