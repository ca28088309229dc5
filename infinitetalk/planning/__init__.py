"""What a job will do, how long it will take and what it will cost: integers and prices. Loads without torch."""
