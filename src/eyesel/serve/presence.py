"""Which of the servers that share a folder live: each holds a lock, which goes with its process, however that ends.

The lock is that of a write transaction on a file of SQLite of its own, which is the same on every system.
"""

import secrets
import sqlite3
import time
from pathlib import Path

STARTING = 60.0  # seconds in which a server that has made its file takes its lock, at the latest


class Presence:
    """This server, by a `name` that no other has, among those in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.name = folder / "servers", secrets.token_hex(8)
        self._folder.mkdir(exist_ok=True)
        self._held = sqlite3.connect(self._path(self.name), check_same_thread=False, isolation_level=None)
        self._held.execute("BEGIN EXCLUSIVE")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def of(self, name: str | None) -> bool:
        """Whether the server of that name lives; what is left of one that is gone is removed."""
        if name == self.name:
            return True
        path = self._path(name or "")
        if not path.exists():
            return False
        probe = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            probe.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        finally:
            probe.close()
        if time.time() - path.stat().st_mtime > STARTING:
            path.unlink(missing_ok=True)
        return False

    def alone(self) -> bool:
        others = [file.stem for file in self._folder.glob("*.lock") if file.stem != self.name]
        return not any(self.of(name) for name in others)

    def close(self) -> None:
        self._held.close()
        self._path(self.name).unlink(missing_ok=True)
