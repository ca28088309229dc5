"""A caller's side: jobs of this machine's files sent to an endpoint, watched, and their videos brought here.

Nothing here needs torch. The command line and the page are two users of these functions.
"""
