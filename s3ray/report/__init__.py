"""Pages, plots and exports made from a finished or running run folder."""
