"""Predicts idle shares."""
