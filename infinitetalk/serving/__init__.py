"""The worker as RunPod's SDK sees it: jobs in, answers and progress out, the SDK's own log lines."""
