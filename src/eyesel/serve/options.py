"""How a server is set up: one frozen object, made from the command line or in Python."""

from dataclasses import dataclass, field
from pathlib import Path

from eyesel.errors import SettingError

LOOPBACK = ("127.0.0.1", "::1", "localhost")  # addresses that this machine alone can reach
ALIASES = ("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2")


@dataclass(frozen=True)
class Limits:
    """What one request, one client and the whole server may take; what is over it is refused, never cut."""

    body: int = 64 * 2**20  # bytes of a request
    bodies: int = 2**30  # of all requests that are being read or answered
    pixels: int = 64_000_000  # of a picture that comes in, by its header
    painted: int = 2048 * 2048  # pixels of a picture that is painted
    images: int = 64  # pictures in one request to a classifier
    steps: int = 150
    n: int = 10  # pictures of one job
    batch: int = 4  # pictures that are painted at once
    prompt: int = 10_000  # characters
    queue: int = 64  # jobs that wait
    queued_pixels: int = 256_000_000  # of the pictures that waiting and running jobs start from
    held_pixels: int = 512_000_000  # of these, and of those that requests hold which are no jobs yet
    asks: int = 1024  # pictures that wait for a classifier
    share: float = 0.5  # of either queue, for one client
    wait: float = 600.0  # seconds in the queue
    timeout: float = 600.0  # seconds of work on a job, from its start
    memory: int | None = None  # bytes of loaded models; None is no limit
    kept: int = 1000  # finished jobs in the store
    rate: int | None = None  # requests a minute and client


@dataclass(frozen=True)
class ServerOptions:
    """`models` are names as `load` takes them; the first classifier and the first painter are the defaults.

    `insecure` says that everybody may ask who reaches the server, be it by another name than this machine's own.

    `data` keeps jobs and their pictures over a restart; None is a temporary folder. `max_wait_ms` is how long a batch
    waits for pictures that are to be expected, and no longer than one took.
    """

    models: tuple[str, ...] = ("tiny",)
    data: Path | None = None
    api_keys: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    web: bool = False
    index: Path | None = None  # of pictures, in which the page finds what is like another
    limits: Limits = field(default_factory=Limits)
    allow_urls: bool = False
    cors: tuple[str, ...] = ()
    max_batch: int = 16
    max_wait_ms: float = 20.0
    aliases: tuple[str, ...] = ALIASES
    models_dir: Path | None = None
    offline: bool = False
    device: str = "auto"
    precision: str = "auto"
    log_prompts: bool = False
    warm_up: bool = True
    insecure: bool = False

    def __post_init__(self) -> None:
        """Raises `SettingError` for a key that nobody could send, or anybody."""
        for key in self.api_keys:
            if not key or key != key.strip() or not (key.isascii() and key.isprintable()):
                raise SettingError(
                    "An API key is empty, or is not all of printable ASCII characters without spaces around them: "
                    "choose another one."
                )

    @property
    def private(self) -> bool:
        """Whether the server is for the programs of this machine alone, which need no key."""
        return not (self.api_keys or self.insecure) and self.host in LOOPBACK
