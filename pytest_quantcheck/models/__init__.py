"""Everything that uses Hugging Face libraries: loading, formats, architectures and gradients."""

LIBRARIES = ("torch", "transformers", "bitsandbytes")
"""The libraries that every model is loaded with. A release of one may change a number."""
