"""The student: encoding, training and evaluation in plain torch, and Ray Train around it."""
