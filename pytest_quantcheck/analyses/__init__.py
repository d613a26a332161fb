"""Pure numerics, tensors in and numbers out; nothing here knows of models, prompts or pytest."""
