"""Building blocks of transformers: attention with a cache, the residual layer, embeddings, patches, saving and loading."""
