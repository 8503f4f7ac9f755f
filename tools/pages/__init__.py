"""HTML pages that need nothing but themselves: text escaped, pictures inside, light and dark, wide and narrow."""
