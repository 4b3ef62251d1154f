"""Free functions under the models: arithmetic worth timing, each with one torch reference, some with a twin in Triton."""
