"""The fixed protocols, one YAML file each."""
