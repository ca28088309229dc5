"""What a worker does before its first job: finds the weights, checks the machine, opens the models."""
