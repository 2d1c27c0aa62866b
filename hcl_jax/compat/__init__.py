"""What users wrote before a rename still works: imports of old module names, and fields of old configs."""
