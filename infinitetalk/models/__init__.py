"""The networks, and how their weights get from files into a device's memory."""
