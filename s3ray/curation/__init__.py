"""Which generations are kept: cleaning of texts, detection of copies, calibration of label probabilities."""
