"""How fast a run is, and what share of it waits for data."""

import time
from dataclasses import dataclass, field


@dataclass
class Speed:
    """Counts between two readings, and since the start; what is spent on evaluation and checkpoints is left out."""

    images: int = 0
    waiting: float = 0.0  # seconds
    working: float = 0.0  # seconds, waiting included
    total_images: int = 0
    total_waiting: float = 0.0
    total_working: float = 0.0
    _began: float | None = field(default=None, repr=False)

    def begin_step(self) -> None:
        self._began = time.perf_counter()

    def data_came(self, images: int) -> None:
        if self._began is not None:
            self.waiting += time.perf_counter() - self._began
        self.images += images

    def end_step(self) -> None:
        if self._began is not None:
            self.working += time.perf_counter() - self._began
            self._began = None

    def read(self) -> dict[str, float]:
        """Images a second and the share of time spent waiting for data since the last reading; empty without steps."""
        if not self.working:
            return {}
        rates = {
            "images_per_second": round(self.images / self.working, 2),
            "data_wait": round(self.waiting / self.working, 4),
        }
        self.total_images += self.images
        self.total_waiting += self.waiting
        self.total_working += self.working
        self.images, self.waiting, self.working = 0, 0.0, 0.0
        return rates

    def whole(self) -> dict[str, float]:
        """The same of the whole run."""
        self.read()
        if not self.total_working:
            return {}
        return {
            "train_images_per_second": round(self.total_images / self.total_working, 2),
            "train_data_wait": round(self.total_waiting / self.total_working, 4),
        }
