"""Which generations are kept: cleaning of one text, and copies among many."""
