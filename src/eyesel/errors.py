"""What can go wrong on the caller's side.

Each message is one sentence: what was wrong, the value, what to do. The command line prints it and exits with 2.
"""


class EyeselError(Exception):
    """Bad input of any kind; every error that eyesel raises on purpose is one of these."""


class ImageError(EyeselError):
    """A picture that cannot be read, or that is larger than eyesel agrees to decode."""


class CheckpointError(EyeselError):
    """A model name, folder or file whose weights or configuration cannot be used."""


class SettingError(EyeselError):
    """A parameter outside what the model or the method can do."""


class OutputError(EyeselError):
    """A place where a result cannot be written."""
