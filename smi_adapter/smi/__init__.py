"""SMI itself: its objects, their wire forms and their schemas. Knows nothing of Kubernetes clients or proxies."""
