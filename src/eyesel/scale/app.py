"""The server as an application of Ray Serve: `import_path: eyesel.scale.app:build` in a config file.

Every replica is a whole server with an engine of its own, so batches form inside replicas. What they share is the
folder of jobs: whatever is finished can be read at any of them.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from eyesel.errors import SettingError
from eyesel.scale.policy import JOBS
from eyesel.serve.app import create_app
from eyesel.serve.engine import Engine
from eyesel.serve.logs import JsonLines
from eyesel.serve.options import Limits, ServerOptions

NAME = "eyesel"
GRACE = 60.0  # seconds that a replica that is no longer needed has for what it paints

T = TypeVar("T")


@serve.ingress()
class Replica:
    """One server; its name, with which the ids of its jobs begin, is that which Ray gave it."""

    def __init__(self, options: ServerOptions) -> None:
        _log_to_stderr()
        self.options = options
        self.engine = Engine(options, serve.get_replica_context().replica_id.unique_id)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.options, self.engine, GRACE)

    def check_health(self) -> None:
        """Asked by Ray, which replaces a replica for which this raises."""
        if not self.engine.alive:
            raise RuntimeError("The thread that computes has ended.")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """See `eyesel.scale.policy`."""
        return {JOBS: float(self.engine.unfinished)}


def application(options: ServerOptions, **deployment: Any) -> Application:
    """The application for `serve.run`; `deployment` are options of Ray's deployments, such as `num_replicas`."""
    router: Any = "eyesel.scale.router:JobRouter"
    replicas: Any = serve.deployment(
        name=NAME,
        # the engine's own queues refuse what is too much, with the sentence and the shape that clients know
        max_ongoing_requests=options.limits.asks + options.limits.queue,
        health_check_period_s=5,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=GRACE + 30,
        request_router_config=RequestRouterConfig(request_router_class=router),
        logging_config={"enable_access_log": False},  # the server writes its own
        **deployment,
    )
    bound: Application = replicas(Replica).bind(options)
    return bound


def autoscaling(least: int, most: int, options: ServerOptions) -> AutoscalingConfig:
    """From `least` to `most` replicas, each with half a batch of requests on its way."""
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=max(1, options.max_batch // 2),
        policy=AutoscalingPolicy(policy_function="eyesel.scale.policy:by_work"),
    )


def build(args: Mapping[str, Any]) -> Application:
    """What a config file builds; its `args` are those of `ServerOptions`, and `limits` those of `Limits`.

    Keys of the API come from the environment variable EYESEL_API_KEY, words of which are keys. How many replicas there
    are, and of what size, the file says itself, for the deployment `eyesel`.
    """
    keys = {"api_keys": tuple(os.environ.get("EYESEL_API_KEY", "").split())}
    limits = _read(Limits, args.get("limits", {}))
    return application(_read(ServerOptions, {**keys, **args, "limits": limits}))


def _read(kind: type[T], args: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in args:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}."
            raise SettingError(f"There is no option {name!r}: {advice}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    for name in ("data", "models_dir"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return kind(**values)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("eyesel.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
