"""A page in the browser, for this machine's user alone, over the functions that the command line uses. Needs Gradio."""
