"""Large feature maps in bands of rows: the numbers of the plain computation in a third of its memory, without seams.

A 3x3 convolution needs one row above and one below those that it computes, and a group norm needs of the whole map no
more than its mean and variance. So a residual block can run through its map some rows at a time: the moments are
gathered while rows are written, and what is held is the map, one intermediate map, and a band that stays in the cache.
(Overlapping tiles, the usual way, normalise every tile by itself, so that their seams have to be blended.)
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.nn.layers import Downsample, ResnetBlock, Upsample

# How many numbers a band holds. CPUs: with the decoder of SD at 512x512, in bfloat16 and float32, 2 million are a tenth
# to a fifth faster than the whole map at once, 16 million are slower than it, and a quarter of a million a tenth slower
# than 2 million. Accelerators: large enough to fill one; not measured.
BAND_ON_CPU = 1 << 21
BAND = 1 << 25
SEVERAL = 8  # bands; at 256x256, with four, a CPU loses a fifth of its speed

AHEAD = 2  # rows that are read before they are needed: even, as doubled maps come in pairs of rows


class Moments:
    """Mean and variance of every channel of a map (1, C, H, W), gathered band by band (Chan et al. 1983).

    Their table is made beforehand: small tensors that stay, between large ones that go, would scatter the heap.
    """

    def __init__(self, channels: int, height: int, device: torch.device) -> None:
        self._bands = 0
        self._rows = torch.zeros(height, 1, 1, device=device)
        self._means, self._variances = torch.zeros(2, height, channels, device=device)
        self._unused = torch.zeros(2, channels, device=device)

    def __bool__(self) -> bool:
        return self._bands > 0

    def add(self, band: Tensor) -> None:
        if band.device.type == "cpu":  # where var_mean takes thirty times as long
            mean, variance = torch.batch_norm_update_stats(band, *self._unused, 1.0)  # type: ignore[call-arg]
        else:
            variance, mean = torch.var_mean(band.float(), (0, 2, 3), correction=0)
        self._rows[self._bands] = band.shape[2]
        self._means[self._bands], self._variances[self._bands] = mean, variance
        self._bands += 1

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the group of each channel, both (C,) float32."""
        means, variances = (x.unflatten(1, (groups, -1)) for x in (self._means, self._variances))  # (H, groups, ...)
        share = self._rows / (self._rows.sum() * means.shape[2])  # of each band and channel in its group
        mean = (share * means).sum((0, 2), keepdim=True)  # (1, groups, 1)
        variance = (share * (variances + (means - mean) ** 2)).sum((0, 2), keepdim=True)
        return mean.expand_as(means[:1]).flatten(), variance.expand_as(means[:1]).flatten()


class Stored:
    """A map (1, C, H, W) in memory; `moments` are of what was written to it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        _, self.channels, self.height, self.width = tensor.shape
        self.moments = Moments(self.channels, self.height, tensor.device)

    @classmethod
    def for_output(cls, conv: nn.Conv2d, height: int, width: int) -> "Stored":
        shape, weight = (1, conv.out_channels, height, width), conv.weight
        return cls(torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last))

    def rows(self, start: int, stop: int) -> Tensor:
        return self.tensor[:, :, start:stop]

    def write(self, start: int, band: Tensor) -> None:
        self.rows(start, start + band.shape[2]).copy_(band)
        self.moments.add(band)


class Doubled:
    """An upsampled map that is not stored: its rows are computed from the map below whenever they are asked for.

    Where enlargement to nearest neighbours meets a 3x3 convolution, two of three neighbours are one pixel, so that
    their weights can be added: four convolutions of 2x2, one for each place in a square of four pixels, cost four
    ninths (Shi et al. 2016, ESPCN, read backwards).
    """

    def __init__(self, upsample: Upsample, below: Stored) -> None:
        self.conv, self.below = upsample.conv, below
        self.channels, self.height, self.width = self.conv.out_channels, 2 * below.height, 2 * below.width
        weight, dtype = self.conv.weight.float(), self.conv.weight.dtype
        self.weights = [  # for upper and lower pixels, each (2·C, C, 2, 2): left and right ones
            torch.cat([_folded(_folded(weight, 2, y), 3, x) for x in (0, 1)]).to(
                dtype, memory_format=torch.channels_last
            )
            for y in (0, 1)
        ]
        self.bias = None if self.conv.bias is None else self.conv.bias.repeat(2)

    def rows(self, start: int, stop: int) -> Tensor:
        out = Stored.for_output(self.conv, stop - start, self.width).tensor
        for y, weight in enumerate(self.weights):
            first, last = (start - y + 1) // 2, (stop - y + 1) // 2  # pairs of which this row is wanted
            if first < last:
                window = _within(self.below, first - 1 + y, last + y, _wraps(self.conv))
                pairs = _convolved(self.conv, window, weight, self.bias)  # (1, 2·C, rows, width below + 1)
                for x, pixels in enumerate(pairs.chunk(2, dim=1)):
                    out[:, :, 2 * first + y - start :: 2, x::2] = pixels[..., x : x + self.below.width]
        return out


Map = Stored | Doubled


def _folded(weight: Tensor, dim: int, place: int) -> Tensor:
    """The three weights along `dim` as the two that the first or second pixel of a pair needs."""
    a, b, c = weight.split(1, dim)
    return torch.cat([a, b + c] if place == 0 else [a + b, c], dim)


def _wraps(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "circular"


def _within(source: Map, start: int, stop: int, wrap: bool) -> Tensor:
    """Rows from `start` to `stop`, which may lie one outside the map: there it is empty, or comes round."""
    rows = source.rows(max(start, 0), min(stop, source.height))
    parts = [rows]
    if start < 0:
        parts.insert(0, source.rows(source.height - 1, source.height) if wrap else torch.zeros_like(rows[:, :, :1]))
    if stop > source.height:
        parts.append(source.rows(0, 1) if wrap else torch.zeros_like(rows[:, :, :1]))
    return torch.cat(parts, dim=2) if len(parts) > 1 else rows


def _convolved(conv: nn.Conv2d, window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose edge above and below is in the window already, at the sides one column is added."""
    if _wraps(conv):
        return F.conv2d(F.pad(window, (1, 1, 0, 0), mode="circular"), weight, bias)
    return F.conv2d(window, weight, bias, padding=(0, 1))


def _windows(
    source: Map, change: Callable[[Tensor], Tensor], conv: nn.Conv2d, band: int
) -> Iterator[tuple[int, Tensor]]:
    """`change(rows)` of the whole map for `conv`, a band and one row above and below at a time, and where it starts.

    Every row is changed once, and may be overwritten as soon as it has been handed out.
    """
    top = change(source.rows(0, 1))
    wrap = _wraps(conv)
    above = change(source.rows(source.height - 1, source.height)) if wrap else torch.zeros_like(top)
    held, read = above, 0  # `held` begins with the row above the next window
    for start, stop in _bands(source, conv.out_channels, band):
        ahead = min(stop + AHEAD, source.height)
        fresh = [change(source.rows(read, ahead))] if read < ahead else []
        below = [top if wrap else above] if stop == source.height else []
        window = torch.cat([held, *fresh, *below], dim=2)
        yield start, window[:, :, : stop - start + 2]
        held, read = window[:, :, stop - start :], ahead


def pays(x: Tensor, conv: nn.Conv2d, largest: int) -> bool:
    """Whether to take bands for x, which begins with `conv`, if the largest map holds so many numbers a picture: where
    that makes several bands, and nobody wants gradients.
    """
    trained = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    return not trained and largest > SEVERAL * usual_band(x.device)


def usual_band(device: torch.device) -> int:
    return BAND_ON_CPU if device.type == "cpu" else BAND


def run(
    conv_in: nn.Conv2d,
    layers: Sequence[nn.Module],
    norm_out: nn.GroupNorm,
    conv_out: nn.Conv2d,
    x: Tensor,
    band: int | None = None,
) -> Tensor:
    """conv_in, `layers`, conv_out of silu of norm_out: of x (B, C, H, W), one picture at a time.

    `band` is the size of a band, in numbers. The widest map of a decoder is the last that is upsampled; it is the only
    one that is never stored, but computed again for each of the three passes that read it.
    """
    band = band or usual_band(x.device)
    return torch.cat([_run(conv_in, layers, norm_out, conv_out, one, band) for one in x.split(1)])


def _run(
    conv_in: nn.Conv2d, layers: Sequence[nn.Module], norm_out: nn.GroupNorm, conv_out: nn.Conv2d, x: Tensor, band: int
) -> Tensor:
    here: Map = _convolution(conv_in, Stored(x), lambda rows: rows, band)
    last = next((layer for layer in reversed(layers) if isinstance(layer, Upsample)), None)
    for layer in layers:
        if isinstance(layer, ResnetBlock):
            here = _resnet(layer, here, band)
        elif isinstance(layer, Upsample):
            here = Doubled(layer, _stored(here, band))
            here = here if layer is last else _stored(here, band)
        elif isinstance(layer, Downsample):
            here = _halved(layer, _stored(here, band), band)
        else:
            here = Stored(layer(_stored(here, band).tensor))
    return _convolution(conv_out, here, _activation(norm_out, here, band), band).tensor


def _bands(source: Map, channels: int, band: int) -> Iterator[tuple[int, int]]:
    """Where each band starts and stops: an even number of rows, if there is room for two of so many channels."""
    rows = band // (source.width * max(channels, source.channels))
    step = rows // 2 * 2 if rows > 1 else 1
    return ((start, min(start + step, source.height)) for start in range(0, source.height, step))


def _stored(source: Map, band: int) -> Stored:
    if isinstance(source, Stored):
        return source
    out = Stored.for_output(source.conv, source.height, source.width)
    for start, stop in _bands(out, out.channels, band):
        out.write(start, source.rows(start, stop))
    return out


def _moments(source: Map, band: int) -> Moments:
    if isinstance(source, Stored) and source.moments:
        return source.moments
    moments = Moments(source.channels, source.height, source.rows(0, 1).device)
    for start, stop in _bands(source, source.channels, band):
        moments.add(source.rows(start, stop))
    return moments


def _activation(norm: nn.GroupNorm, source: Map, band: int) -> Callable[[Tensor], Tensor]:
    """silu of the group norm of any rows: with known moments it is a batch norm."""
    mean, variance = _moments(source, band).of_groups(norm.num_groups)
    weight, bias = norm.weight.float(), norm.bias.float()
    return lambda rows: F.silu(F.batch_norm(rows, mean, variance, weight, bias, eps=norm.eps), inplace=True)


def _convolution(conv: nn.Conv2d, source: Map, change: Callable[[Tensor], Tensor], band: int) -> Stored:
    out = Stored.for_output(conv, source.height, source.width)
    for start, window in _windows(source, change, conv, band):
        out.write(start, _convolved(conv, window, conv.weight, conv.bias))
    return out


def _resnet(block: ResnetBlock, source: Map, band: int) -> Stored:
    h = _convolution(block.conv1, source, _activation(block.norm1, source, band), band)
    # the result takes the place of what nobody reads any more
    free = source if isinstance(source, Stored) and block.conv_shortcut is None else h
    out = Stored(free.tensor)
    for start, window in _windows(h, _activation(block.norm2, h, band), block.conv2, band):
        rows = _convolved(block.conv2, window, block.conv2.weight, block.conv2.bias)
        shortcut = source.rows(start, start + rows.shape[2])
        out.write(start, rows.add_(shortcut if block.conv_shortcut is None else block.conv_shortcut(shortcut)))
    return out


def _halved(downsample: Downsample, source: Stored, band: int) -> Stored:
    if not downsample.asymmetric:
        return Stored(downsample(source.tensor))
    conv = downsample.conv
    out = Stored.for_output(conv, source.height // 2, source.width // 2)
    mode = conv.padding_mode.replace("zeros", "constant")
    for start, stop in _bands(out, 4 * out.channels, band):
        window = _within(source, 2 * start, 2 * stop + 1, _wraps(conv))
        out.write(start, F.conv2d(F.pad(window, (0, 1, 0, 0), mode=mode), conv.weight, conv.bias, stride=2))
    return out
