"""The only rooms that know Hugging Face: bit-widths, loading, where neurons live, how to differentiate."""
