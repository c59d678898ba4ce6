"""One program per question that is asked of the system; ``results/`` keeps what they found."""
