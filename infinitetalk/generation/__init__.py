"""From a plan, footage and voices to frames: the loop over windows and the loop over steps. No files, no network."""
