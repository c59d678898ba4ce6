"""Which generations are kept: cleaning of one text, copies among many, how far a verdict is believed."""
