"""The site: executed notebooks as pages."""
