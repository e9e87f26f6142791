"""Many runs, one after the other or as jobs of a cluster."""
