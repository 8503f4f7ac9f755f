"""What an item becomes, one file a kind."""
