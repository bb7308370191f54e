"""Task cards, one YAML file each; this file lets an installed package find them."""
