"""What a request is answered with when it cannot be served; each dialect renders it in its own shape."""

import re

from eyesel.errors import CheckpointError, EyeselError, ImageError

# Subjects of the sentences of EyeselError that are not the name of the field themselves
_SUBJECTS = {"width": "size", "height": "size", "picture": "image", "mask": "mask", "prompt": "prompt"}
_NO_SETTING = re.compile(r"There is no setting '(\w+)'")
_SUBJECT = re.compile(r"(?:The |the )?(\w+)\b")


class ApiError(Exception):
    """`status` is HTTP's, `param` the field at fault, `code` a word for programs, `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after


def bad_input(error: EyeselError, names: set[str] | frozenset[str] = frozenset()) -> ApiError:
    """A 400 of one sentence. `names` are the fields of the request, of which one may be the sentence's subject."""
    return ApiError(400, str(error), _field(error, names), "invalid_request")


def _field(error: EyeselError, names: set[str] | frozenset[str]) -> str | None:
    if unknown := _NO_SETTING.match(str(error)):
        return unknown[1]
    subject = _SUBJECT.match(str(error))
    if subject is not None:
        word = subject[1]
        if word in names or word in _SUBJECTS:
            return _SUBJECTS.get(word, word)
    if isinstance(error, ImageError):
        return "image"
    return "model" if isinstance(error, CheckpointError) else None
