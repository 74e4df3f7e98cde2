from pathlib import Path
from typing import Annotated

import typer

from eyesel.cli.options import Device, Offline, Precision
from eyesel.cli.painting import ModelsDir
from eyesel.errors import SettingError

EXTRA = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
GIGABYTE = 2**30


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="As in the other commands; may be repeated, and the first is the default: tiny."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; others than this machine's need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_keys: Annotated[
        list[str] | None,
        typer.Option("--api-key", envvar="EYESEL_API_KEY", help="What clients have to know; may be repeated."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer without a key on any address, and under any name.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="A folder that keeps jobs and pictures; default one that is gone at the end.")
    ] = None,
    web: Annotated[
        bool | None, typer.Option("--web/--no-web", help="The web page at /; default if gradio is installed.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(help="An index of pictures, in which the page finds what is like another.", metavar="DB"),
    ] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures from public addresses.")] = False,
    cors: Annotated[
        list[str] | None, typer.Option(help="A web site that may ask, such as https://example.org; may be repeated.")
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests a minute that one client may send.")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Jobs that may wait; half of them may be one client's.")] = 64,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps that one picture may take.")] = 150,
    max_n: Annotated[int, typer.Option("--max-n", min=1, help="Pictures that one job may ask for.")] = 10,
    max_side: Annotated[
        int, typer.Option(min=8, help="Painted pictures are as large as a square of this side.")
    ] = 2048,
    max_body: Annotated[int, typer.Option(min=1, help="Megabytes of one request.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds of work on one job.")] = 600,
    max_batch: Annotated[int, typer.Option(min=1, help="Pictures that are classified together.")] = 16,
    max_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a batch waits for what is to come.")] = 20,
    paint_batch: Annotated[int, typer.Option(min=1, help="Pictures that are painted together.")] = 4,
    memory: Annotated[
        float | None, typer.Option(min=0, help="Gigabytes of models; the least recently used go first.")
    ] = None,
    kept: Annotated[int, typer.Option(min=1, help="Finished jobs whose pictures are kept.")] = 1000,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log, too.")] = False,
    models_dir: ModelsDir = None,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
    ray: Annotated[bool, typer.Option("--ray", help="In several replicas, by Ray Serve.")] = False,
    replicas: Annotated[int | None, typer.Option(min=1, help="How many, with --ray; default 2.")] = None,
    min_replicas: Annotated[int | None, typer.Option(min=1, help="As few, where there is little to do.")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="As many, where there is much to do.")] = None,
    replica_cpus: Annotated[float | None, typer.Option(help="Cores of one; default those there are, shared.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Of a cluster of Ray, or auto; default one of its own on this machine.")
    ] = None,
) -> None:
    """Serve models over HTTP, to the clients that people have, until Ctrl-C.

    Example: eyesel serve --model tiny --port 8000
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in EXTRA):
        raise SettingError("The server needs packages of its own: pip install 'eyesel[serve]'.")
    page = find_spec("gradio") is not None and find_spec("eyesel.web") is not None if web is None else web
    from eyesel.serve.options import LOOPBACK, Limits, ServerOptions

    if host not in LOOPBACK and not api_keys and not insecure:
        raise SettingError(
            f"host is {host}, which others can reach: set an --api-key, or say --insecure if they may all ask."
        )

    told = (replicas, min_replicas, max_replicas, replica_cpus, ray_address)
    if not ray and any(value is not None for value in told):
        raise SettingError("Replicas, their cores and --ray-address are Ray's: say --ray, too, or leave them out.")
    if ray and find_spec("ray") is None:
        raise SettingError("Replicas need packages of their own: pip install 'eyesel[scale]'.")
    if ray and web:
        raise SettingError("The web page speaks to one server, not to replicas: leave out --web or --ray.")

    from eyesel.serve.run import run

    limits = Limits(
        body=max_body * 2**20,
        painted=max_side**2,
        steps=max_steps,
        n=max_n,
        batch=paint_batch,
        queue=queue,
        timeout=timeout,
        memory=None if memory is None else int(memory * GIGABYTE),
        kept=kept,
        rate=rate,
    )
    options = ServerOptions(
        models=tuple(models or ("tiny",)),
        data=data,
        api_keys=tuple(api_keys or ()),
        host=host,
        port=port,
        web=page and not ray,
        index=index,
        limits=limits,
        allow_urls=allow_urls,
        cors=tuple(cors or ()),
        max_batch=max_batch,
        max_wait_ms=max_wait,
        models_dir=models_dir,
        offline=offline,
        device=device,
        precision=precision,
        log_prompts=log_prompts,
        insecure=insecure,
    )
    if ray:
        from eyesel.scale.run import run as run_replicas
        from eyesel.scale.run import scale_of

        run_replicas(options, scale_of(replicas, min_replicas, max_replicas, replica_cpus, ray_address))
    else:
        run(options)
