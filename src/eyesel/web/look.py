"""How the page looks: warm greys and viridian, by day and by night, in the fonts that the reader's machine has."""

from pathlib import Path

from gradio.themes import Base
from gradio.themes.utils.colors import Color

CSS = Path(__file__).with_name("look.css")

VIRIDIAN = Color(
    c50="#eff7f4",
    c100="#d8ebe4",
    c200="#b2d6ca",
    c300="#84bbaa",
    c400="#559c89",
    c500="#37806e",
    c600="#276758",
    c700="#215348",
    c800="#1d433b",
    c900="#193731",
    c950="#0c1f1c",
    name="viridian",
)
PAPER = Color(
    c50="#faf8f5",
    c100="#f3f0eb",
    c200="#e6e1d9",
    c300="#d3ccc1",
    c400="#a8a095",
    c500="#7a7268",
    c600="#5b544c",
    c700="#453f39",
    c800="#2a2623",
    c900="#1e1b19",
    c950="#151312",
    name="paper",
)

# Small pictures are shown with crisp pixels, wherever Gradio puts them.
HEAD = """
<meta name="color-scheme" content="light dark">
<script>
document.addEventListener("load", event => {
  const image = event.target;
  if (image.tagName === "IMG" && image.naturalWidth)
    image.classList.toggle("crisp", Math.max(image.naturalWidth, image.naturalHeight) <= 256);
}, true);
</script>
"""

HEADER = """
<header class="masthead">
  <svg viewBox="0 0 64 40" aria-hidden="true">
    <path d="M3 20C12 7 22 3 32 3s20 4 29 17c-9 13-19 17-29 17S12 33 3 20Z"/>
    <circle cx="32" cy="20" r="9"/><path class="brush" d="M32 20 52 2"/>
  </svg>
  <div><h1>eyesel</h1><p>an eye and an easel</p></div>
</header>
"""


def theme() -> Base:
    """Gradio's base theme in these colours; no font is fetched."""
    return Base(
        primary_hue=VIRIDIAN,
        secondary_hue=VIRIDIAN,
        neutral_hue=PAPER,
        font=("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_800",
        body_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_900",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_border_width="0px",
        block_label_text_color="*neutral_500",
        block_label_text_color_dark="*neutral_400",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_width="1px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_text_color="*neutral_700",
        button_secondary_text_color_dark="*neutral_200",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
