"""What can be set: the job file, the grid of a campaign, and how both are read from YAML."""
