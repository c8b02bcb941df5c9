"""A second reading of what the manifests mean, to hold the product and real Envoys against."""
