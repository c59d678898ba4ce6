"""The audit of a synthetic set: how right, how varied and how near to gold its rows are."""
