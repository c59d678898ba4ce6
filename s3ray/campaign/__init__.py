"""Many runs on one cluster: a grid of jobs, the engines and devices that they share, and the table they end in."""
