"""What can be set about a style transfer, checked in one place, and the one dial that sets the rest."""

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Annotated, Any

from eyesel.errors import SettingError
from eyesel.fields import Count, check_fields

PRESETS = {"content": 0.25, "balanced": 0.5, "style": 0.8}  # "balanced" and "style": gamma 0.75 and 0.3 of StyleID
COLORS = {"content": 0.0, "style": 1.0}
MOST_TEMPERATURE = 100.0


@dataclass(frozen=True)
class StyleSettings:
    """The settings of `StableDiffusion.stylize`.

    The dial
        strength: from 0, the content as it is, to 1, or one of `PRESETS`
        gamma: how much of the content's queries is kept, 0 to 1; None is what the dial says
        temperature: of the attention on the style, above 1 is sharper; None is what the dial says
        match: which latents take the styles' means and deviations: 0 the first ones, pure noise, as in StyleID; 1 the
            finished ones, which takes more of the style and keeps more of the content; between, each in part. None is
            1, and 0 where gamma or temperature is given or the run is faithful: what StyleID says is then all there is

    Up to a strength of 0.5 the style takes over from the content: in the attention (its share rises to 1), in the
    statistics of the latents and in the temperature (from 1 to 1.5); gamma falls to 0.75, and the fine detail that the
    autoencoder loses of the content fades. From there gamma falls to 0. Gamma and temperature at 0.5 are the defaults
    of StyleID.

    The method
        layers: of the decoder, by number (6 is output_blocks.6 of the original code) or by name; None is the last two
            thirds of those that attend, which are 6 to 11 in SD 1.x and 2.x
        steps: of the inversion, and again of the way back
        looks: how often the inversion asks the network in each step; more is slower and more exact
        color: "style", "content", or how much of the style's colours to take, 0 to 1
        guidance: how closely to follow the prompt, if there is one; None is the checkpoint's own, else 7.5
        longest: the content is brought to this many pixels on its longer side; None leaves it as it is
        keep_features: keep the references' queries, keys and values in half precision, instead of computing them anew
            in every step: for many results of the same pictures, where there is memory for it
        faithful: do what StyleID's code does, whose inversion is less exact and which leaves out the first step
    """

    strength: float | str = 0.5
    gamma: float | None = None
    temperature: float | None = None
    match: float | None = None
    layers: tuple[Count | str, ...] | None = None
    steps: Annotated[int, range(1, 1001)] = 50
    looks: Annotated[int, range(1, 101)] = 1
    color: float | str = "style"
    guidance: float | None = None
    longest: Annotated[int, range(1, 8193)] | None = None
    keep_features: bool = False
    faithful: bool = False

    def __post_init__(self) -> None:
        check_fields(self, SettingError)
        _named(self, "strength", PRESETS)
        _named(self, "color", COLORS)
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise SettingError(f"gamma is {self.gamma:g}; it must lie between 0 (the style's way) and 1 (the content).")
        if self.temperature is not None and not 0 < self.temperature <= MOST_TEMPERATURE:
            raise SettingError(
                f"temperature is {self.temperature:g}; it must be above 0 and at most {MOST_TEMPERATURE:g}."
            )
        if self.match is not None and not 0 <= self.match <= 1:
            raise SettingError(f"match is {self.match:g}; it must lie between 0 and 1.")
        if self.faithful and self.looks != StyleSettings.looks:
            raise SettingError(f"looks is {self.looks}, and the faithful inversion looks once: leave one of them out.")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "StyleSettings":
        """From keywords; an unknown name is refused with its neighbour."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                near = get_close_matches(name, known, 1, 0)[0]
                raise SettingError(f"There is no setting {name!r} of style transfer; the nearest is {near!r}.")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        return cls(**values)

    @property
    def dial(self) -> float:
        return _named(self, "strength", PRESETS)

    @property
    def colors(self) -> float:
        """How much of the style's colours is taken."""
        return _named(self, "color", COLORS)

    @property
    def share(self) -> float:
        """Of the styles, in the attention and in the statistics of latents; the rest is the content's."""
        return min(2 * self.dial, 1.0)

    @property
    def own_gamma(self) -> float:
        if self.gamma is not None:
            return self.gamma
        return round(1 - self.dial / 2 if self.dial <= 0.5 else 1.5 * (1 - self.dial), 9)

    @property
    def own_temperature(self) -> float:
        return 1 + 0.5 * self.share if self.temperature is None else self.temperature

    @property
    def own_match(self) -> float:
        if self.match is not None:
            return self.match
        return 0.0 if self.faithful or self.gamma is not None or self.temperature is not None else 1.0


def _named(settings: StyleSettings, name: str, names: dict[str, float]) -> float:
    """A number from 0 to 1, or what one of `names` stands for."""
    value = getattr(settings, name)
    if isinstance(value, str):
        if value not in names:
            raise SettingError(f"{name} is {value!r}; choose a number from 0 to 1, or one of {', '.join(names)}.")
        return names[value]
    if not 0 <= value <= 1:
        raise SettingError(f"{name} is {value:g}; it must lie between 0 and 1.")
    return float(value)
