"""Order, fetch, batch, device: the streaming loaders."""
