"""s3ray: data synthesis for small models, step by step (S3, arXiv 2310.13671), on Ray clusters."""

__version__ = "0.1.0"
