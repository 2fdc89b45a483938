"""Commands by family. Each checks its request against the rows and changes them; a refusal is raised and
becomes a result in `batches` or `system`.
"""
