from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyesel.cli import painting as p
from eyesel.cli.adapter import Adapter, AdapterImages, AdapterScale, ImageEncoder, image_prompt, noted
from eyesel.cli.options import (
    Device,
    Ema,
    Json,
    Model,
    Offline,
    Precision,
    PredictionType,
    Vae,
    ZeroTerminalSnr,
    print_json,
    progress,
)
from eyesel.errors import EyeselError, OutputError, SettingError

if TYPE_CHECKING:
    from eyesel.picture import Picture
    from eyesel.stable_diffusion import StableDiffusion

STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTINGS = (
    *("strength", "gamma", "temperature", "layers", "steps", "looks", "color", "match", "guidance"),
    *("longest", "keep_features", "faithful"),
)


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _layers(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def stylize(
    context: typer.Context,
    content: Annotated[str, typer.Argument(help="A picture, a folder or a glob.", metavar="CONTENT")],
    style: Annotated[
        str | None, typer.Argument(help="A picture; a folder or a glob is a batch, a result for each.", metavar="STYLE")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP; several are named after their pictures.")
    ] = Path("picture.png"),
    styles: Annotated[
        list[str] | None,
        typer.Option("--style", metavar="FILE[:WEIGHT]", help="One of several styles to mix; give it for each."),
    ] = None,
    model: Model = "tiny",
    strength: Annotated[
        Any,
        typer.Option(
            parser=_number_or_name,
            metavar="NUMBER",
            help="From 0, the content, to 1, the style; or content (0.25), balanced (0.5), style (0.8).",
        ),
    ] = 0.5,
    gamma: Annotated[
        float | None, typer.Option(help="How much of the content's queries is kept, 0 to 1; default as --strength has.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the attention on the style, sharper above 1; default as --strength has.")
    ] = None,
    layers: Annotated[
        Any,
        typer.Option(
            parser=_layers,
            metavar="LAYER,...",
            help="Of the decoder: 6,7,8 or up_blocks.2; default the last two thirds, 6 to 11 in SD 1.x and 2.x.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of the inversion, and again of the way back.")] = 50,
    looks: Annotated[
        int, typer.Option(help="How often the inversion asks the network in each step; more is more exact.")
    ] = 1,
    color: Annotated[
        Any,
        typer.Option(
            parser=_number_or_name, metavar="NUMBER", help="Whose colours: content (0), style (1), or between."
        ),
    ] = "style",
    match: Annotated[
        float | None,
        typer.Option(
            help="Which latents take the style's statistics: 0 the first, as StyleID; 1 the finished; default 1, and 0 "
            "with --gamma, --temperature or --faithful."
        ),
    ] = None,
    content_mask: Annotated[
        str | None,
        typer.Option(help="Restyle only where this picture is white; elsewhere all stays as it is.", metavar="FILE"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the result shows.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt; default the checkpoint's own, else 7.5.")
    ] = None,
    loras: p.Loras = None,
    adapter: Adapter = None,
    adapter_images: AdapterImages = None,
    adapter_scale: AdapterScale = None,
    image_encoder: ImageEncoder = None,
    longest: Annotated[
        int | None, typer.Option(help="Bring the content to this many pixels on its longer side.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep inversions in this folder: a picture is inverted once.", metavar="FOLDER")
    ] = None,
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Keep features in memory, for many results of the same pictures.")
    ] = False,
    faithful: Annotated[
        bool, typer.Option("--faithful", help="Do what StyleID's code does: a plain inversion, one step left out.")
    ] = False,
    grid: Annotated[
        Path | None, typer.Option(help="Write a sheet, too: contents down, styles across.", metavar="FILE")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Write a row of strengths from 0 to 1, too.", metavar="FILE")
    ] = None,
    slider: Annotated[
        Path | None, typer.Option(help="Write a page to slide between before and after, too.", metavar="HTML")
    ] = None,
    enlarge: p.Enlarge = 1,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    models_dir: p.ModelsDir = None,
    offload: p.Offload = False,
    variant: p.Variant = None,
    vae: Vae = None,
    ema: Ema = False,
    prediction_type: PredictionType = None,
    zero_terminal_snr: ZeroTerminalSnr = None,
    offline: Offline = False,
) -> None:
    """Give a picture the style of another, without training.

    Example: eyesel stylize photo.jpg painting.jpg --strength 0.6 --longest 768 -o restyled.png
    """
    from eyesel.cli import sheets
    from eyesel.images import WRITABLE, check_writable, find_images, open_image, save_image, written_whole
    from eyesel.picture import check_enlargement
    from eyesel.stable_diffusion import StableDiffusion
    from eyesel.stylize import Inversions, StyleSettings
    from eyesel.stylize.pictures import pictures_of

    settings = {name: context.params[name] for name in SETTINGS}
    chosen = StyleSettings.of(settings)
    contents, batch, weights = find_images(content), *_styles(style, styles)
    if len(contents) * len(batch) > 1 and (strip or slider):
        raise SettingError("--strip and --slider show one result, and there are several: name one content, one style.")
    outputs = _outputs(output, contents, batch)
    shared = {name: value for name, value in (("--grid", grid), ("--strip", strip), ("--slider", slider)) if value}
    for path in (*outputs, *(path for name, path in shared.items() if name != "--slider")):
        check_writable(path, WRITABLE)
    if slider is not None:
        check_writable(slider, [".html", ".htm"])
    _check_distinct([*outputs, *shared.values()])
    prompted, shown = image_prompt(context.params), [Path(name).expanduser() for name in adapter_images or ()]
    masks = [] if content_mask is None else [Path(content_mask).expanduser()]
    inputs = [*contents, *masks, *shown, *(one for each in batch for one in each)]
    _check_no_input([*outputs, *shared.values()], inputs)
    pictures = {path: open_image(path) for path in dict.fromkeys([*contents, *(one for each in batch for one in each)])}
    for path in contents:  # all that may be wrong with pictures, before the first is restyled
        for each in batch:
            canvas, *_ = pictures_of(path, each, weights, content_mask, chosen.longest)
        check_enlargement(canvas.whole.size, enlarge)

    loading = {name: context.params[name] for name in p.LOADING}
    inversions, easel = Inversions(cache), StableDiffusion.load(model, **loading)
    if loras:
        easel = easel.with_loras([p.named_lora(text, easel.library) for text in loras])
    if prompted is not None:
        easel = easel.with_image_prompt(**prompted)
    common = {**settings, "weights": weights, "mask": content_mask, "prompt": prompt}
    pairs = [(path, each) for path in contents for each in batch]
    done: list[tuple[Path, Picture]] = []
    others = [s for s in STRIP if s != chosen.dial] if strip else []
    try:
        with progress("restyling", len(pairs) + len(others)) as advance:
            for path, (one, each) in zip(outputs, pairs, strict=True):
                picture = _restyled(easel, one, each, {**common, "inversions": inversions}, advance)
                picture = replace(picture, settings=picture.settings | noted(context.params))
                picture.save(path, enlarge)
                done.append((path, picture))
            row = {chosen.dial: done[0][1].image}
            for s in others:
                again = {**common, "inversions": inversions, "strength": s}
                row[s] = _restyled(easel, *pairs[0], again, advance).image
    except KeyboardInterrupt:
        _report(done, json)
        typer.echo(f"eyesel: interrupted; {len(done)} of {len(pairs)} pictures are finished.", err=True)
        raise typer.Exit(p.INTERRUPTED) from None
    except EyeselError:  # what is finished is said all the same
        if done:
            _report(done, json)
        raise
    results = [picture.enlarged(enlarge) for _, picture in done]
    if grid is not None:
        save_image(
            sheets.grid([pictures[one] for one in contents], [pictures[each[0]] for each in batch], results), grid
        )
    if strip is not None:
        save_image(sheets.sheet([[row[s] for s in sorted(row)]]), strip)
    if slider is not None:
        canvas, *_ = pictures_of(contents[0], batch[0], weights, content_mask, chosen.longest)
        with written_whole(slider) as trial:
            trial.write_text(sheets.slider(canvas.whole, done[0][1].image), encoding="utf-8")
    _report(done, json)
    for name, path in shared.items() if not json else ():
        typer.echo(f"{path}: {name.removeprefix('--')}")


def _styles(style: str | None, several: list[str] | None) -> tuple[list[list[Path]], list[float] | None]:
    """The styles of each result, and their weights."""
    from eyesel.images import find_images

    if (style is None) == (not several):
        raise SettingError("Give either one STYLE (a picture, a folder, a glob), or --style for each of those to mix.")
    if style is not None:
        return [[path] for path in find_images(style)], None
    files, weights = [], []
    for text in several or []:
        name, colon, weight = text.rpartition(":")
        if not colon or Path(text).expanduser().is_file():
            name, weight = text, "1"
        try:
            weights.append(float(weight))
        except ValueError:
            raise SettingError(f"The style {text!r} cannot be read; write FILE or FILE:WEIGHT.") from None
        files.append(Path(name).expanduser())
    return [files], weights


def _outputs(output: Path, contents: list[Path], batch: list[list[Path]]) -> list[Path]:
    """Named after what is several: name-STYLE.png, name-CONTENT.png or name-CONTENT-STYLE.png."""
    outputs = []
    for content in contents:
        for each in batch:
            parts = [output.stem]
            parts += [content.stem] if len(contents) > 1 else []
            parts += [each[0].stem] if len(batch) > 1 else []
            outputs.append(output.with_stem("-".join(parts)))
    numbered: dict[Path, int] = {}
    for i, path in enumerate(outputs):  # two pictures of one name in different folders
        numbered[path] = numbered.get(path, 0) + 1
        if numbered[path] > 1:
            outputs[i] = path.with_stem(f"{path.stem}-{numbered[path]}")
    return outputs


def _check_distinct(paths: list[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.expanduser().resolve() in seen:
            raise OutputError(f"{path} would be written twice: give each output a name of its own.")
        seen.add(path.expanduser().resolve())


def _check_no_input(outputs: list[Path], inputs: list[Path]) -> None:
    for path in inputs:
        if path.exists() and any(output.exists() and output.samefile(path) for output in outputs):
            raise OutputError(f"{path} would be overwritten by what is made from it: give each output another name.")


def _report(done: "list[tuple[Path, Picture]]", json: bool) -> None:
    if json:
        print_json([{"file": str(path), **picture.settings} for path, picture in done])
        return
    for path, picture in done:
        width, height = picture.image.size
        typer.echo(f"{path}: {width}x{height}, strength {picture.settings['style_strength']:g}")


def _restyled(
    easel: "StableDiffusion", content: Path, styles: list[Path], settings: dict[str, Any], advance: Any
) -> "Picture":
    for painting in easel.styling(str(content), [str(path) for path in styles], **settings):
        advance(1 / painting.total)
    return painting.pictures()[0]
