"""`eyesel serve --ray`: replicas on this machine, or on a cluster that is there already, until Ctrl-C."""

import logging
import math
import os
import signal
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eyesel.errors import SettingError
from eyesel.scale.proxy import CALLBACK
from eyesel.serve.options import ServerOptions
from eyesel.serve.pool import ModelPool
from eyesel.serve.run import address, listen

STORE = 128 * 2**20  # bytes that Ray keeps for objects: requests are all that goes through it


@dataclass(frozen=True)
class Scale:
    """From `least` to `most` replicas of `cpus` cores each (default: those there are, shared).

    `cluster` is the address of a cluster of Ray, such as "auto"; None starts Ray on this machine.
    """

    least: int = 1
    most: int = 1
    cpus: float | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise SettingError(f"There are to be from {self.least} to {self.most} replicas: 1 is the least.")
        if self.cpus is not None and self.cpus <= 0:
            raise SettingError(f"A replica is to have {self.cpus:g} cores; it needs more than 0.")

    @property
    def each(self) -> float:
        """Cores of one replica."""
        return self.cpus or max(1, _cores() // self.most)


def _cores() -> int:
    return os.cpu_count() or 1


def scale_of(
    replicas: int | None, least: int | None, most: int | None, cpus: float | None, cluster: str | None
) -> Scale:
    """A fixed number (default 2), or from `least` to `most`."""
    if replicas is not None and (least, most) != (None, None):
        raise SettingError("There is a number of replicas, and a least or most of them: give one or the other.")
    if (least, most) == (None, None):
        return Scale(replicas or 2, replicas or 2, cpus, cluster)
    return Scale(least or 1, most or max(least or 1, 2), cpus, cluster)


def run(options: ServerOptions, scale: Scale) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises `EyeselError` before that if it cannot."""
    with tempfile.TemporaryDirectory(prefix="eyesel-") as shared:
        options = replace(options, data=(options.data or Path(shared)).absolute())
        ModelPool(options)  # which refuses what is no model, before anything is started
        host, port = _free(options)
        connect(scale)
        try:
            where = deploy(replace(options, host=host, port=port), scale)
            number = f"{scale.least}" if scale.least == scale.most else f"{scale.least} to {scale.most}"
            models = ", ".join(options.models)
            print(f"eyesel serves {models} at {where}, in replicas: {number} (Ctrl-C stops)", flush=True)
            _until_stopped()
        finally:
            stop(scale)


def _free(options: ServerOptions) -> tuple[str, int]:
    """Where to listen, if nobody does: Ray would wait for a port that is taken."""
    listening = listen(options.host, options.port)
    host, port = listening.getsockname()[:2]
    listening.close()
    return host, port


def connect(scale: Scale) -> None:
    """Start Ray, or find the cluster; one that serves an eyesel already is left alone, by a `SettingError`."""
    _prepare(scale)
    import ray
    from ray import serve

    from eyesel.scale.app import NAME

    if scale.cluster is None:
        ray.init(
            num_cpus=max(_cores(), math.ceil(scale.each * scale.most)),
            object_store_memory=STORE,
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
        return
    try:
        ray.init(address=scale.cluster, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SettingError(f"--ray-address {scale.cluster} is no cluster of Ray that answers ({reason}).") from None
    if NAME in serve.status().applications:
        ray.shutdown()
        raise SettingError(f"The cluster {scale.cluster} serves an application {NAME!r} already: it was left alone.")


def deploy(options: ServerOptions, scale: Scale) -> str:
    """Deploy, and wait until requests are answered; gives the address."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    from eyesel.scale.app import NAME, application, autoscaling

    gpus = ray.cluster_resources().get("GPU", 0) if options.device in ("auto", "cuda") else 0
    share = gpus / scale.most if scale.cluster is None else gpus  # a cluster gets more of them when they are needed
    size: dict[str, Any] = {"num_replicas": scale.least}
    if scale.least < scale.most:
        size = {"autoscaling_config": autoscaling(scale.least, scale.most, options)}
    actors = {"num_cpus": scale.each, "num_gpus": min(1, share)}
    serve.start("HeadOnly", {"host": options.host, "port": options.port}, logging_config={"log_level": "WARNING"})
    serve.run(application(options, ray_actor_options=actors, **size), name=NAME, route_prefix="/")
    client = _get_global_client()
    if scale.cluster is None or client is None:
        return address(options.host, options.port)
    return str(client.root_url)  # of a Serve that may have run there before, at another port


def _prepare(scale: Scale) -> None:
    """The environment, which Ray reads when it is imported, and hands on to the processes that it starts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", CALLBACK)
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # nobody else asks what Ray's own ports offer
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if scale.cluster is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # listens to this machine alone, on any system


def stop(scale: Scale) -> None:
    """Stop what was started; a cluster that was there stays."""
    import ray
    from ray import serve

    from eyesel.scale.app import NAME

    if scale.cluster is None:
        serve.shutdown()
    else:
        serve.delete(NAME)
    ray.shutdown()


def _until_stopped() -> None:
    stopped = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.set())
    stopped.wait()
