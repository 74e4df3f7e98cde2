"""Embeddings put to use: an index on disk, search, duplicates, clusters and outliers."""

import importlib.util

from eyesel.errors import SettingError


def check_installed() -> None:
    """Raise `SettingError`, with what to type, where the packages of the extra `search` are missing."""
    missing = [name for name in ("lancedb", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f'the package {missing[0]} is missing: pip install "eyesel[search]".')
