"""The demo: videos it makes itself, a teacher, shards, a trained student, a probe and a report."""
