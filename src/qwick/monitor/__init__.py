"""What one sees of requests and engines: records, metrics, and a verdict. Knows no HTTP."""
