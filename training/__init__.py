"""How the miniature was made: drawn faces, spoken sentences and three trainings. Not part of the package."""
