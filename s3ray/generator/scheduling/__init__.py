"""Which engine answers which request, and when: pure decisions, no clock and no Ray."""
