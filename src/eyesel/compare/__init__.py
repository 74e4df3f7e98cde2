"""Two models side by side: what is known, what is tried, what is measured, and a verdict from the figures."""
