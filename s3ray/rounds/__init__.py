"""The rounds of a run: the driver, the stages that make up a round, and the students."""
