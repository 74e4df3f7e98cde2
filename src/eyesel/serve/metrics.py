"""What Prometheus reads: requests, queues, batches, latency, steps a second, memory."""

import resource
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a client can invent others
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Of one engine; two in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "eyesel_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "eyesel_request_seconds",
            "From a request to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue = Gauge("eyesel_queue_length", "What waits.", ["queue"], registry=self.registry)
        self.batch = Histogram(
            "eyesel_batch_size",
            "Pictures in a batch of the classifier.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "eyesel_batch_seconds", "Of a batch on the device.", buckets=_SECONDS, registry=self.registry
        )
        self.jobs = Counter("eyesel_jobs", "Jobs that have ended.", ["task", "state"], registry=self.registry)
        self.job_seconds = Histogram(
            "eyesel_job_seconds", "From a job to its end.", buckets=_SECONDS, registry=self.registry
        )
        self.job_wait = Histogram(
            "eyesel_job_wait_seconds", "Of a job in the queue.", buckets=_SECONDS, registry=self.registry
        )
        self.steps = Counter("eyesel_steps", "Steps of pictures.", registry=self.registry)
        self.step_seconds = Counter("eyesel_step_seconds", "Spent on steps.", registry=self.registry)
        self.speed = Gauge("eyesel_steps_per_second", "Of the last step, counted by pictures.", registry=self.registry)
        self.memory = Gauge(
            "eyesel_memory_bytes",
            "Resident memory of the process, and weights of models.",
            ["of"],
            registry=self.registry,
        )

    def batched(self, number: int, seconds: float) -> None:
        self.batch.observe(number)
        self.batch_seconds.observe(seconds)

    def stepped(self, pictures: int, seconds: float) -> None:
        self.steps.inc(pictures)
        self.step_seconds.inc(seconds)
        self.speed.set(pictures / max(seconds, 1e-9))

    def waited(self, seconds: float) -> None:
        self.job_wait.observe(seconds)

    def ended(self, task: str, state: str, seconds: float) -> None:
        self.jobs.labels(task, state).inc()
        self.job_seconds.observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self.latency.labels(route).observe(seconds)

    def text(self, queues: dict[str, int], models: dict[str, int]) -> bytes:
        """In Prometheus' format, as things stand."""
        for name, length in queues.items():
            self.queue.labels(name).set(length)
        self.memory.labels("process").set(resident())
        self.memory.labels("models").set(sum(models.values()))
        return generate_latest(self.registry)


def resident() -> int:
    """Bytes of memory that the process holds now, or where that is not told, that it held at most."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
