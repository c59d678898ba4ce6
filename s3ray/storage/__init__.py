"""The run folder and where it lies: a folder of this machine or an object store. The only place that knows a path."""
