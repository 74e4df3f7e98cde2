"""The web page of a server: painting, editing, restyling, looking and comparing in a browser.

Everything that it shows comes from the server itself, and nothing is told to anybody else.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported

from eyesel.web.page import mount, page

__all__ = ["mount", "page"]
