"""Which engine and which train worker gets which device: pure decisions from facts about nodes."""
