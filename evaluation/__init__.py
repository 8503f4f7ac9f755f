"""What a frozen encoder has learned, measured on the same shards."""
