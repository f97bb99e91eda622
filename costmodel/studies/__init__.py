"""What users do with a cost model."""
