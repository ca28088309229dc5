"""What may be asked, set and answered: the job, the result, the environment, the preset files. Loads without torch."""
