"""The Service Mesh Interface, made to work: SMI objects in, proxy configuration out."""

__version__ = "0.1.0"
