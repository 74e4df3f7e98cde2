"""What a request is answered with when it cannot be served; each dialect renders it in its own shape."""

import re

from eyesel.errors import CheckpointError, EyeselError, ImageError

# What EyeselError says, where it is not the name of the field itself
_MEANT = {"width": "size", "height": "size", "brackets": "prompt", "styles": "style", "canvas": "expand"}
_NO_SETTING = re.compile(r"There is no setting '(\w+)'")


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
    """The first word of the sentence that is one, the sentence being about it."""
    if unknown := _NO_SETTING.match(str(error)):
        return unknown[1]
    if isinstance(error, ImageError):
        return "mask" if re.match(r"the mask\b", str(error), re.IGNORECASE) else "image"
    if isinstance(error, CheckpointError):
        return "model"
    words = (_MEANT.get(word, word) for word in re.findall(r"\w+", str(error)))
    return next((word for word in words if word in names), None)
