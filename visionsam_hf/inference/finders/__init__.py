"""Where a photograph looks wrong: maps from the encoder's embeddings, and masks from maps, without a person's prompt."""
