"""The demo: videos it makes itself, shards, a trained student, a probe and a report."""
