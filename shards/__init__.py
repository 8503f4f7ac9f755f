"""The on-disk format: write, index, read, verify; and the builder. Never imports torch."""
