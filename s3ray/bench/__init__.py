"""The throughput profiler: what `s3ray bench` sweeps, measures and writes, and how two profiles are compared."""
