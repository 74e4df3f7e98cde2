"""Sentences for people, and the field at fault for programs."""

import pytest

from eyesel.errors import CheckpointError, ImageError, SettingError
from eyesel.serve.checks import NAMES
from eyesel.serve.errors import bad_input


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (SettingError("steps is 0; it must be a whole number from 1 to 1,000,000."), "steps"),
        (SettingError("The width is 12 pixels; it must be a multiple of 8 up to 8192, such as 8."), "size"),
        (SettingError("There is no setting 'cfg': did you mean 'guidance'?"), "cfg"),
        (SettingError("A strength of 1e-09 leaves none of 2 steps: take at least 0.5, or more steps."), "strength"),
        (SettingError("There are 2 weights and 1 styles: give one for each."), "weights"),
        (SettingError("The picture came out as no numbers (NaN): take a guidance nearer to 7.5."), "guidance"),
        (SettingError("'ant' is no class of this world."), None),
        (ImageError("the mask is all black, or dark grey: paint white what is to be repainted."), "mask"),
        (ImageError("the 7 bytes given is not a picture that eyesel can read."), "image"),
        (CheckpointError("it gives scores that are no numbers; try --precision float32."), "model"),
    ],
)
def test_the_field_at_fault(error, field):
    answer = bad_input(error, NAMES)
    assert (answer.status, answer.param, answer.message) == (400, field, str(error))
